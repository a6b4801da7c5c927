"""The boxes that stage localize leaves, packed into shards and read from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.formats.arrays import read_arrays
from pipeline.formats.files import read_json
from pipeline.results.maps import load_classification
from pipeline.results.shards import Arrays, Skipped, list_shards
from pipeline.types import Boxes, CocoIds, FoundBoxes, Size


def pack_boxes(found: Sequence[tuple[int, Boxes]], aside: Skipped) -> tuple[Arrays, Skipped]:
    """Boxes of many images as flat arrays, `count` of them for each image and class."""
    every = [boxes for _, boxes in found]
    arrays = {
        "row_image": np.array([position for position, _ in found], np.int32),
        "row_class": np.array([boxes.label for boxes in every], np.int32),
        "row_size": np.array([boxes.size for boxes in every], np.int32).reshape(-1, 2),
        "count": np.array([len(boxes.boxes) for boxes in every], np.int32),
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(b.boxes for b in every)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(b.scores for b in every)]),
    }
    masks = [boxes.masks for boxes in every]
    if any(one is not None for one in masks):
        text = json.dumps(masks).encode()
        arrays["masks"] = np.frombuffer(text, np.uint8)
    reasons = [boxes.fell_back for boxes in every]
    if any(reasons):
        arrays["fell_back"] = np.frombuffer(json.dumps(reasons).encode(), np.uint8)
    return arrays, aside


def describe_fallbacks(folder: Path, ids: Sequence[str]) -> list[str]:
    """How often the segmenter fell back, by reason, a line each."""
    reasons: dict[str, int] = {}
    count = 0
    for _, boxes in iterate_boxes(folder, ids):
        count += 1
        if boxes.fell_back is not None:
            reasons[boxes.fell_back] = reasons.get(boxes.fell_back, 0) + 1
    return [
        f"{number} of {count} maps were cut alone, without the image: {reason}"
        for reason, number in sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
    ]


def load_notes(folder: Path) -> list[str]:
    """What is to be said about how boxes were cut."""
    return list(read_json(folder / "notes.json"))


def iterate_boxes(folder: Path, ids: Sequence[str]) -> Iterator[tuple[int, Boxes]]:
    """Every Boxes with the position of its image, streamed from the shards."""
    for shard in list_shards(folder):
        arrays, _ = read_arrays(shard)
        ends = np.cumsum(arrays["count"])
        masks = json.loads(arrays["masks"].tobytes()) if "masks" in arrays else None
        reasons = json.loads(arrays["fell_back"].tobytes()) if "fell_back" in arrays else None
        for n, (position, label) in enumerate(
            zip(arrays["row_image"].tolist(), arrays["row_class"].tolist(), strict=True)
        ):
            own = slice(int(ends[n] - arrays["count"][n]), int(ends[n]))
            height, width = arrays["row_size"][n].tolist()
            yield (
                position,
                Boxes(
                    ids[position],
                    label,
                    arrays["boxes"][own],
                    arrays["scores"][own],
                    (height, width),
                    None if masks is None else masks[n],
                    None if reasons is None else reasons[n],
                ),
            )


def open_boxes(
    boxes: Path, maps: Path, ids: Sequence[str], classes: Sequence[str], coco: CocoIds
) -> FoundBoxes:
    """Return the boxes of a result as an exporter takes them.

    Args:
        boxes: the result of stage localize.
        maps: the result of stage explain, which has the sizes of the images.
        ids: the name of each image, by position.
        classes: names of classes.
        coco: what a COCO file knows images and classes by.
    """

    def sizes() -> Iterator[tuple[int, Size]]:
        images = load_classification(maps)
        frames = ((height, width) for height, width in images.size.tolist())
        yield from zip(images.image.tolist(), frames, strict=True)

    return FoundBoxes(
        boxes=lambda: iterate_boxes(boxes, ids), sizes=sizes, ids=ids, classes=classes, coco=coco
    )
