"""COCO files: boxes.json, a results file, and predictions.json, a whole data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.formats import coco
from pipeline.types import Boxes, CocoIds, Size


def iterate_results(boxes: Iterable[tuple[int, Boxes]], names: CocoIds) -> Iterator[dict[str, Any]]:
    """Yield the records of a COCO results file, from boxes with the positions of their images."""
    for position, found in boxes:
        for n, (box, score) in enumerate(zip(found.boxes, found.scores.tolist(), strict=True)):
            record = {
                "image_id": int(names.image_ids[position]),
                "category_id": int(names.category_ids[found.label]),
                "bbox": coco.xywh(box),
                "score": round(score, 5),
            }
            if found.masks is not None:
                record["segmentation"] = found.masks[n]
            yield record


def write_data_set(
    path: Path,
    boxes: Iterable[tuple[int, Boxes]],
    sizes: Iterable[tuple[int, Size]],
    classes: Sequence[str],
    names: CocoIds,
) -> None:
    """Write a whole COCO data set, a record a line as it comes: one of any size fits.

    `boxes` and `sizes` come with the positions of their images in the split.
    """
    images = (
        {
            "id": int(names.image_ids[position]),
            "file_name": names.file_names[position],
            "width": width,
            "height": height,
        }
        for position, (height, width) in sizes
    )
    categories = (
        {"id": int(number), "name": name}
        for number, name in zip(names.category_ids, classes, strict=True)
    )
    annotations = (
        {
            "id": n,
            **record,
            "area": round(record["bbox"][2] * record["bbox"][3], 2),
            "iscrowd": 0,
        }
        for n, record in enumerate(iterate_results(boxes, names), 1)
    )
    info = {"description": "Boxes found by label2box"}
    coco.dump_data_set(path, info, images, categories, annotations)
