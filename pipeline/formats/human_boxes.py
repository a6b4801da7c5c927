"""Boxes that a person drew, corrected or accepted, as a COCO data set with the fields that follow.

    images       "content": hash of the file, "bytes": its size, "reviewed": true, "sample": random
                 or doubt, "date", "author", "source": format and file, "ingested"
    annotations  "source": human

Other tools read it as a COCO data set, and `calibrate.boxes=` takes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.formats.coco_boxes import xywh_to_xyxy, xyxy_to_xywh
from pipeline.formats.coco_writing import dump_data_set
from pipeline.formats.files import atomic_write, read_json
from pipeline.types import HumanBoxes

FIELDS = ("content", "date", "author", "source", "ingested")
VERSION = "1"


def write(path: Path, images: Sequence[HumanBoxes]) -> None:
    """Write boxes by an atomic write.

    Args:
        path: the file.
        images: each image once.
    """
    names = sorted({name for image in images for name in image.classes})
    number = {name: n for n, name in enumerate(names, 1)}
    with atomic_write(path) as temporary:
        dump_data_set(
            temporary,
            {"description": "Boxes of a person, by label2box", "label2box_human_boxes": VERSION},
            (_image_record(n, image) for n, image in enumerate(images, 1)),
            ({"id": number[name], "name": name, "supercategory": ""} for name in names),
            _annotation_records(images, number),
        )


def _image_record(id: int, image: HumanBoxes) -> dict[str, Any]:
    height, width = image.size
    return {
        "id": id,
        "file_name": image.id,
        "width": width,
        "height": height,
        "reviewed": True,
        "sample": "random" if image.is_random else "doubt",
        **{name: getattr(image, name) for name in FIELDS},
        "bytes": image.file_size,
    }


def _annotation_records(
    images: Sequence[HumanBoxes], number: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    count = 0
    for image_id, image in enumerate(images, 1):
        for n, (box, name) in enumerate(zip(image.boxes, image.classes, strict=True)):
            count += 1
            mask = None if image.masks is None else image.masks[n]
            bbox = xyxy_to_xywh(box)
            yield {
                "id": count,
                "image_id": image_id,
                "category_id": number[name],
                "bbox": bbox,
                "area": round(bbox[2] * bbox[3], 2),
                "iscrowd": 0,
                "segmentation": [] if mask is None else mask,
                "source": "human",
            }


def read(path: Path) -> list[HumanBoxes]:
    """Read a file that `write` wrote.

    Args:
        path: the file.

    Raises:
        UserError: it is damaged, or of another kind.
    """
    remedy = "give the file that +experiment=ingest wrote, or move it away and ingest again"
    try:
        content = read_json(path)
        if content["info"]["label2box_human_boxes"] != VERSION:
            raise ValueError(f"version {content['info']['label2box_human_boxes']!r}")
        names = {record["id"]: record["name"] for record in content["categories"]}
        of_image: dict[int, list[dict[str, Any]]] = {}
        for record in content["annotations"]:
            of_image.setdefault(record["image_id"], []).append(record)
        return [_parse(record, of_image.get(record["id"], []), names)
                for record in content["images"]]  # fmt: skip
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: no file of human boxes ({error!r}); {remedy}") from None


def _parse(
    image: Mapping[str, Any], records: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> HumanBoxes:
    boxes = [xywh_to_xyxy(record["bbox"]) for record in records]
    masks = [record["segmentation"] or None for record in records]
    return HumanBoxes(
        id=image["file_name"],
        size=(image["height"], image["width"]),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=[names[record["category_id"]] for record in records],
        masks=masks if any(masks) else None,
        is_random=image["sample"] == "random",
        **{name: str(image[name]) for name in FIELDS},
        file_size=int(image.get("bytes", 0)),
    )


def merge(
    known: Sequence[HumanBoxes], new: Sequence[HumanBoxes]
) -> tuple[list[HumanBoxes], list[str], list[str]]:
    """Add boxes to those that are known already; of an image the latest review stays.

    Args:
        known: each image once.
        new: each image once.

    Returns:
        All of them; the names of images whose boxes were replaced by other boxes; and the names of
        those whose new boxes are older and are left out.
    """
    merged = {image.content: image for image in known}
    replaced, older = [], []
    for image in new:
        before = merged.get(image.content)
        if before is not None and image.date and before.date > image.date:
            older.append(image.id)
            continue
        if before is not None and not _same_boxes(before, image):
            replaced.append(image.id)
        merged[image.content] = image
    return list(merged.values()), replaced, older


def _same_boxes(a: HumanBoxes, b: HumanBoxes) -> bool:
    if len(a.boxes) != len(b.boxes) or list(a.classes) != list(b.classes):
        return False
    return bool(np.allclose(a.boxes, b.boxes, atol=0.011))
