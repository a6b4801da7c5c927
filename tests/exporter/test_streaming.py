"""Exporters stream: ten times as many boxes take no more memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.engine.choices import build_choices, list_choices
from pipeline.types import Boxes, CocoIds, FoundBoxes, Size

SIZE: Size = (300, 400)
BOXES_IN_IMAGE = 100


def many(images: int) -> FoundBoxes:
    """Boxes of images that are made when they are asked for."""
    corners = np.tile(np.array([[10, 20, 110, 220]], np.float32), (BOXES_IN_IMAGE, 1))
    scores = np.linspace(1, 0.1, BOXES_IN_IMAGE).astype(np.float32)

    def boxes() -> Iterator[tuple[int, Boxes]]:
        for n in range(images):
            yield n, Boxes(str(n), 0, corners, scores, SIZE, confidences=scores)

    ids = [f"{n}.jpg" for n in range(images)]
    return FoundBoxes(
        boxes=boxes, sizes=lambda: ((n, SIZE) for n in range(images)), ids=ids,
        classes=["a"], coco=CocoIds(range(images), ids, [1]),
    )  # fmt: skip


def peak(name: str, images: int, folder: Path) -> int:
    """Write the boxes, and return the most bytes that were held."""
    options: dict[str, Any] = {"rows_in_group": 2_000} if name == "parquet" else {}
    exporter: Any = build_choices("exporter", [name], options)[name]
    folder.mkdir()
    found = many(images)
    tracemalloc.start()
    try:
        exporter(found, folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", list_choices("exporter"))
def test_memory_does_not_grow_with_the_boxes(name: str, tmp_path: Path) -> None:
    peak(name, 2, tmp_path / "warm")
    few, more = (peak(name, images, tmp_path / str(images)) for images in (20, 80))
    # 6,000 boxes more, of which a list of records would take 3 MB; names of images may stay.
    assert more - few < 500_000
