"""Draw: each image with the boxes that were found on it, and masks' outlines, to look at.

`pictures/<number>-<name>.jpg` in the order of the images; what is there already is not drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.engine import runtime, shards, terminal
from pipeline.engine.progress import show_progress
from pipeline.engine.run import Run
from pipeline.errors import SkippedImage
from pipeline.formats.files import atomic_write, image_file_stem
from pipeline.ops.maps import frame_size
from pipeline.plotting.boxes import PALETTE, label, outline
from pipeline.results.boxes import iterate_boxes
from pipeline.types import Boxes


def cache_key(run: Run) -> dict[str, Any]:
    return {
        "source": run.sources(__name__, "data", drawing=True),
        "localize": run.key("localize"),
        "draw": run.config["draw"],
    }


def make(run: Run, folder: Path) -> None:
    ids = run.data.ids(run.split)
    found = iterate_boxes(run.folder("localize"), ids)
    images = ((p, [boxes for _, boxes in group]) for p, group in groupby(found, lambda one: one[0]))

    def one(item: tuple[int, list[Boxes]]) -> str | None:
        position, every = item
        path = folder / "pictures" / f"{position + 1:06d}-{image_file_stem(ids[position])}.jpg"
        if path.is_file():
            return None
        try:
            _draw(run, position, every, path)
        except SkippedImage as problem:
            return str(problem)
        return None

    with show_progress("draw", len(ids)) as advance, shards.single_threaded_torch():
        for problem in runtime.map_in_threads(one, images, run.workers):
            advance(1)
            if problem:
                terminal.print_line(f"draw: {problem}")


def _draw(run: Run, position: int, every: Sequence[Boxes], path: Path) -> None:
    side, size = run.config["draw"]["side"], every[0].size
    scale, frame = min(1.0, side / max(size)), frame_size(size, side)
    canvas = np.array(run.data.example(run.split, position, at=frame).image)
    thick = max(2, round(max(frame) / 320))
    for n, boxes in enumerate(every):
        colour = PALETTE[n % len(PALETTE)]
        for mask in boxes.masks or ():
            outline(canvas, mask, colour, thick)
        for box, score in zip(boxes.boxes, boxes.scores.tolist(), strict=True):
            label(canvas, box * scale, colour, thick, f"{run.classes[boxes.label]} {score:.2f}")
    whole, data = cv2.imencode(".jpg", canvas[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert whole
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())
