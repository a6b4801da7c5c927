"""Annotations and boxes of an image as records of COCO files, which pycocotools measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.metric.coco import coco_box
from pipeline.types import Boxes, CocoRecords, GroundTruth, Rle


def coco_records(number: int, known: GroundTruth, boxes: Iterable[Boxes]) -> CocoRecords:
    """Return an image with all its annotated boxes and all that were found.

    Category ids are class numbers + 1; boxes of no class of the data set are left out.

    Args:
        number: the image's id among the records.
        known: its annotations.
        boxes: what was found, of each class that was looked for.
    """
    height, width = known.size
    annotations = []
    for n, box in enumerate(known.boxes):
        label = known.label if known.classes is None else int(known.classes[n])
        mask = known.masks[n] if known.masks is not None else None
        annotations.append(_annotation(number, label, box, mask))
    if known.crowds is not None:
        classes = known.crowds.classes
        for n, mask in enumerate(crowd_masks(known)):
            label = known.label if classes is None else int(classes[n])
            crowd = _annotation(number, label, known.crowds.boxes[n], mask)
            annotations.append({**crowd, "iscrowd": 1})
    results = [
        {
            **_record(number, found.label, box, None if found.masks is None else found.masks[n]),
            "score": score,
        }
        for found in boxes
        for n, (box, score) in enumerate(zip(found.boxes, found.scores.tolist(), strict=True))
    ]
    return CocoRecords(
        {"id": number, "height": height, "width": width},
        [one for one in annotations if one["category_id"] > 0],
        results,
    )


def crowd_masks(known: GroundTruth) -> list[Rle]:
    """Return the mask of each crowd; where it has none, its box."""
    from pycocotools import mask as coco_mask

    crowds = known.crowds
    assert crowds is not None
    masks: list[Rle] = []
    for box, mask in zip(crowds.boxes, crowds.masks, strict=True):
        if mask is None:
            x0, y0, x1, y1 = box.astype(float).tolist()
            (mask,) = coco_mask.frPyObjects([[x0, y0, x1, y0, x1, y1, x0, y1]], *known.size)
        masks.append(mask)
    return masks


def _record(number: int, label: int, box: np.ndarray, mask: Rle | None) -> dict[str, Any]:
    record = {"image_id": number, "category_id": int(label) + 1, "bbox": coco_box(box)}
    return record if mask is None else {**record, "segmentation": mask}


def _annotation(number: int, label: int, box: np.ndarray, mask: Rle | None) -> dict[str, Any]:
    record = _record(number, label, box, mask)
    return {**record, "area": _area(record)}


def _area(record: Mapping[str, Any]) -> float:
    """Return the area as COCO has it: that of the mask, also where boxes are measured."""
    from pycocotools import mask as coco_mask

    if "segmentation" in record:
        return float(coco_mask.area(record["segmentation"]))
    return float(record["bbox"][2] * record["bbox"][3])
