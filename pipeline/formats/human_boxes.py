"""Boxes that a person drew, corrected or accepted, as a COCO data set with the fields that follow.

    images       "content": hash of the file, "bytes": its size, "reviewed": true, "sample": random
                 or doubt, "date", "author", "source": format and file, "ingested"
    annotations  "source": human, "class_folder": the folder of the class, where it is known
    info         "marked_wrong": images whose boxes a person called wrong, and nobody corrected yet;
                 "replaced": reviews that later ones replaced (review_history.py)

Other tools read it as a COCO data set, and `calibrate.boxes=` takes it. As long as images of the
random sample wait for a correction, those that were accepted are no random choice: `sample` is then
doubt, and `drawn` says random.
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
from pipeline.formats.review_history import Review, from_record, to_record
from pipeline.types import HumanBoxes, WrongMark

FIELDS = ("content", "date", "author", "source", "ingested")
VERSION = "1"
MARKS = "marks"
"""The format of our review page, at the beginning of `source`."""


def write(
    path: Path,
    images: Sequence[HumanBoxes],
    wrong: Sequence[WrongMark] = (),
    replaced: Sequence[Review] = (),
) -> None:
    """Write boxes by an atomic write.

    Args:
        path: the file.
        images: each image once.
        wrong: images whose boxes a person called wrong, without those of `images`.
        replaced: reviews that these replaced, and that come back where these are taken back.
    """
    is_complete = not any(mark.is_random for mark in wrong)
    names = sorted({name for image in images for name in image.classes})
    number = {name: n for n, name in enumerate(names, 1)}
    with atomic_write(path) as temporary:
        dump_data_set(
            temporary,
            {
                "description": "Boxes of a person, by label2box",
                "label2box_human_boxes": VERSION,
                "marked_wrong": [vars(mark) for mark in wrong],
                "replaced": [to_record(review) for review in replaced],
            },
            (_image_record(n, image, is_complete) for n, image in enumerate(images, 1)),
            ({"id": number[name], "name": name, "supercategory": ""} for name in names),
            _annotation_records(images, number),
        )


def _image_record(id: int, image: HumanBoxes, is_complete: bool) -> dict[str, Any]:
    """Return the record of an image; `is_complete`: no image of the random sample is missing."""
    height, width = image.size
    return {
        "id": id,
        "file_name": image.id,
        "width": width,
        "height": height,
        "reviewed": True,
        "sample": "random" if image.is_random and is_complete else "doubt",
        **({"drawn": "random"} if image.is_random and not is_complete else {}),
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
                **({"class_folder": image.folders[n]} if image.folders else {}),
            }


def read(path: Path) -> tuple[list[HumanBoxes], list[WrongMark]]:
    """Read a file that `write` wrote.

    Args:
        path: the file.

    Returns:
        The boxes, and the images whose boxes a person called wrong.

    Raises:
        UserError: it is damaged, or of another kind.
    """
    images, wrong, _ = read_all(path)
    return images, wrong


def read_all(path: Path) -> tuple[list[HumanBoxes], list[WrongMark], list[Review]]:
    """Read a file that `write` wrote, with the reviews that later ones replaced.

    Args:
        path: the file.

    Returns:
        The boxes, the images whose boxes a person called wrong, and the replaced reviews.

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
        images = [
            _parse(record, of_image.get(record["id"], []), names) for record in content["images"]
        ]
        marked = content["info"].get("marked_wrong", [])  # older files have none
        replaced = [from_record(record) for record in content["info"].get("replaced", [])]
        return images, [WrongMark(**record) for record in marked], replaced
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: no file of human boxes ({error!r}); {remedy}") from None


def _parse(
    image: Mapping[str, Any], records: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> HumanBoxes:
    boxes = [xywh_to_xyxy(record["bbox"]) for record in records]
    masks = [record["segmentation"] or None for record in records]
    folders = [str(record.get("class_folder", "")) for record in records]  # older files: none
    return HumanBoxes(
        id=image["file_name"],
        size=(image["height"], image["width"]),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=[names[record["category_id"]] for record in records],
        masks=masks if any(masks) else None,
        is_random=image.get("drawn", image["sample"]) == "random",
        **{name: str(image[name]) for name in FIELDS},
        file_size=int(image.get("bytes", 0)),
        folders=folders if any(folders) else (),
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


def merge_wrong(
    known: Sequence[WrongMark], new: Sequence[WrongMark], images: Sequence[HumanBoxes]
) -> tuple[list[HumanBoxes], list[WrongMark]]:
    """Add marks of wrong boxes. They wait for a correction, and a later word of a person counts.

    Args:
        known: each image once.
        new: each image once.
        images: all boxes of a person, as `merge` returns them.

    Returns:
        The boxes without those that were accepted by a mark and are now called wrong, and the marks
        of images that have no boxes of a person.
    """
    waiting = {mark.content: mark for mark in known}
    for mark in new:
        before = waiting.get(mark.content)
        if before is None or before.date <= mark.date:
            waiting[mark.content] = mark
    kept = []
    for image in images:
        later = waiting.get(image.content)
        was_accepted = image.source.startswith(f"{MARKS}: ")
        if later is not None and was_accepted and later.date > image.date:
            continue
        waiting.pop(image.content, None)
        kept.append(image)
    return kept, list(waiting.values())
