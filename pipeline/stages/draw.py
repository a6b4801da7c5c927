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

from pipeline import runtime, shards, show, store
from pipeline.records import Boxes, Rle, SetAside
from pipeline.run import Run
from pipeline.segmenter.frame import frame_size
from pipeline.stages import localize

PALETTE = ((255, 64, 96), (64, 160, 255), (60, 190, 110), (255, 170, 40), (170, 110, 255))  # RGB


def made_of(run: Run) -> dict[str, Any]:
    return {
        "source": run.sources("draw", "data"),
        "localize": run.key("localize"),
        "draw": run.config["draw"],
    }


def make(run: Run, folder: Path) -> None:
    ids = run.data.ids(run.split)
    found = localize.boxes_of(run.folder("localize"), ids)
    images = ((p, [boxes for _, boxes in group]) for p, group in groupby(found, lambda one: one[0]))

    def one(item: tuple[int, list[Boxes]]) -> str | None:
        position, every = item
        path = folder / "pictures" / f"{position + 1:06d}-{file_name(ids[position])}.jpg"
        if path.is_file():
            return None
        try:
            _draw(run, position, every, path)
        except SetAside as problem:
            return str(problem)
        return None

    with runtime.progress("draw", len(ids)) as advance, shards.one_thread_each():
        for problem in runtime.stream(one, images, run.workers):
            advance(1)
            if problem:
                show.line(f"draw: {problem}")


def file_name(id: str) -> str:
    """An image's name as a file's, with nothing in it that a system could stumble over."""
    return store.file_safe(id.rsplit("/", 1)[-1].rsplit(".", 1)[0])


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
    with store.whole_file(path) as temporary:
        temporary.write_bytes(data.tobytes())


def outline(canvas: np.ndarray, mask: Rle, colour: tuple[int, int, int], thick: int) -> None:
    """Where a mask over the whole image ends, on a canvas of any size."""
    from pycocotools import mask as coco_mask

    inside = cv2.resize(coco_mask.decode(mask), canvas.shape[1::-1], interpolation=cv2.INTER_AREA)
    borders, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, borders, -1, (24, 24, 24), thick + 2)
    cv2.drawContours(canvas, borders, -1, colour, thick)


def label(
    canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], thick: int, text: str
) -> None:
    """A box with its name, legible on any ground."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    corners = (max(0, x0), max(0, y0)), (min(canvas.shape[1], x1) - 1, min(canvas.shape[0], y1) - 1)
    cv2.rectangle(canvas, *corners, (24, 24, 24), thick + 2)
    cv2.rectangle(canvas, *corners, colour, thick)
    size = max(canvas.shape[:2]) / 1200 + 0.2
    (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, max(1, thick // 2))
    left, top = corners[0][0], max(0, corners[0][1] - high - 6)
    cv2.rectangle(canvas, (left, top), (left + wide + 6, top + high + 6), colour, -1)
    cv2.putText(canvas, text, (left + 3, top + high + 2), cv2.FONT_HERSHEY_SIMPLEX, size,
                (255, 255, 255), max(1, thick // 2), cv2.LINE_AA)  # fmt: skip
