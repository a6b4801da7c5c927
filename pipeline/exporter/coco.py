"""COCO: boxes.json, a results file, and predictions.json, a whole data set.

Boxes are written as `[x, y, width, height]` in pixels of the upright image, masks as compressed
run-length encodings. Both files have the score of each box; its confidence and the probability
of its class, and the rank of its image for review, where they are known. pycocotools ignores these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.formats.coco_boxes import xyxy_to_xywh
from pipeline.formats.coco_writing import dump, dump_data_set
from pipeline.formats.files import atomic_write
from pipeline.types import Boxes, FoundBoxes, Review

RESULTS, DATA_SET = "boxes.json", "predictions.json"


@dataclass(frozen=True)
class Coco:
    """An exporter of both files, which streams records: memory does not grow with their number."""

    def __call__(self, detections: FoundBoxes, folder: Path) -> None:
        """Write boxes.json and predictions.json into a folder, each atomically."""
        with atomic_write(folder / RESULTS) as path:
            dump(path, iterate_results(detections))
        with atomic_write(folder / DATA_SET) as path:
            _write_data_set(path, detections)


def iterate_results(detections: FoundBoxes) -> Iterator[dict[str, Any]]:
    """Yield the records of a COCO results file, a box each."""
    names = detections.coco
    for position, boxes in detections.boxes():
        for n, (box, score) in enumerate(zip(boxes.boxes, boxes.scores.tolist(), strict=True)):
            record = {
                "image_id": int(names.image_ids[position]),
                "category_id": int(names.category_ids[boxes.label]),
                "bbox": xyxy_to_xywh(box),
                "score": round(score, 5),
                **_describe_doubt(detections, position, boxes, n),
            }
            if boxes.masks is not None:
                record["segmentation"] = boxes.masks[n]
            yield record


def _describe_doubt(
    detections: FoundBoxes, position: int, boxes: Boxes, n: int
) -> dict[str, float | int]:
    """Return probability, confidence and rank of a box under their names, where they are known."""
    fields: dict[str, float | int] = {}
    if boxes.probability is not None:
        fields["probability"] = round(boxes.probability, 5)
    if boxes.confidences is not None:
        fields["confidence"] = round(float(boxes.confidences[n]), 5)
    if detections.review is not None:
        fields["review_rank"] = int(detections.review.ranks[position])
    return fields


def _describe_review(review: Review | None, position: int) -> dict[str, int | bool]:
    """Return when to look at an image, and whether it belongs to the random sample."""
    if review is None:
        return {}
    rank, is_sampled = int(review.ranks[position]), bool(review.sampled[position])
    return {"review_rank": rank, **({"review_sample": True} if is_sampled else {})}


def _write_data_set(path: Path, detections: FoundBoxes) -> None:
    """Write a COCO data set: images, categories, and annotations with scores."""
    names = detections.coco
    images = (
        {
            "id": int(names.image_ids[position]),
            "file_name": names.file_names[position],
            "width": width,
            "height": height,
            **_describe_review(detections.review, position),
        }
        for position, (height, width) in detections.sizes()
    )
    categories = (
        {"id": int(number), "name": name, "supercategory": ""}
        for number, name in zip(names.category_ids, detections.classes, strict=True)
    )
    annotations = (
        {
            "id": n,
            "segmentation": [],  # where there is no mask; some readers want the field
            **record,
            "area": round(record["bbox"][2] * record["bbox"][3], 2),
            "iscrowd": 0,
        }
        for n, record in enumerate(iterate_results(detections), 1)
    )
    info = {
        "description": "Boxes found by label2box",
        "version": "1.0",
        "contributor": "label2box",
        "url": "",
    }
    if detections.review is not None:
        info["confidence_kind"] = detections.review.confidence_kind
    dump_data_set(path, info, images, categories, annotations)
