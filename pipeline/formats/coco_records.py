"""The content of a COCO annotation file, and what its records have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pipeline.formats.coco_boxes import Box
from pipeline.formats.coco_values import Key
from pipeline.formats.odd_records import BadRecord
from pipeline.types import Rle, Size

CrowdRule = Literal["ignore", "objects"]
"""What a crowd (`iscrowd`) is: a region of uncounted objects, or an object as any other."""

SPELLING = "with numbers written as text or with a decimal point: read as numbers"


@dataclass
class Crowd:
    """A region of uncounted objects (`iscrowd`): boxes found there are neither right nor wrong."""

    box: Box
    category: int
    mask: Rle | None


@dataclass
class CocoImage:
    """An image of a COCO file with its annotations.

    Attributes:
        id: The number that the file knows it by; a free number where its id is text.
        file_name: As in the file; empty where the file has none.
        size: (height, width) as in the file; None where the file has none.
        record: Position in the file's list of images, for messages.
        boxes: Clipped to the image, where its size is known.
        categories: Category id of each box.
        masks: Mask of each box; None where there is none.
        records: Position in the file's list of annotations of each box, for messages.
        scored: Whether each box has a score, as those have that a program found.
        is_reviewed: Whether the file says that a person has looked at the boxes.
        chosen_by_doubt: Whether the file says that it was annotated because it was doubtful.
        crowds: Regions of uncounted objects, apart from the boxes.
        coco: The annotations as records for pycocotools, where they were asked for.
    """

    id: int
    file_name: str
    size: Size | None
    record: int
    boxes: list[Box] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    masks: list[Rle | None] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    scored: list[bool] = field(default_factory=list)
    is_reviewed: bool = False
    chosen_by_doubt: bool = False
    crowds: list[Crowd] = field(default_factory=list)
    coco: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What messages call it: its file name, or its number where it has none."""
        return self.file_name or f"id {self.id}"

    def without_scored_boxes(self) -> CocoImage:
        """Return the image without the boxes that have a score."""
        kept = [n for n, has_score in enumerate(self.scored) if not has_score]
        return replace(
            self,
            boxes=[self.boxes[n] for n in kept],
            categories=[self.categories[n] for n in kept],
            masks=[self.masks[n] for n in kept],
            records=[self.records[n] for n in kept],
            scored=[False] * len(kept),
        )


@dataclass
class CocoFile:
    """The content of a COCO annotation file.

    Attributes:
        path: Where it was read from.
        categories: Names by category id, in the order of the file.
        notes: What was repaired, left out or unusual about the records, a line each.
        image_keys: Images with their annotations, in the order of the file, by the id that stands
            there, a number or text.
        category_keys: Category ids by the id that stands in the file.
    """

    path: Path
    categories: dict[int, str]
    notes: list[str]
    image_keys: Mapping[Key, CocoImage]
    category_keys: Mapping[Key, int]

    @cached_property
    def images(self) -> list[CocoImage]:
        """The images with their annotations, in the order of the file."""
        return list(self.image_keys.values())


def count_categories(images: Sequence[CocoImage]) -> Counter[int]:
    """Return how many boxes and crowds are of each category that is used.

    Args:
        images: Images with their annotations.
    """
    return Counter(
        number
        for image in images
        for number in (*image.categories, *(crowd.category for crowd in image.crowds))
    )


def name_record(list_name: str, position: int, record: Any) -> str:
    """Return what notes call a record: its place, and its id where it has one.

    Args:
        list_name: The list of the file that it stands in.
        position: Its place there.
        record: As in the file.

    Examples:
        >>> name_record("annotations", 5, {"id": 99})
        'annotations[5] (id 99)'
    """
    id = record.get("id") if isinstance(record, dict) else None
    return f"{list_name}[{position}]" + ("" if id is None else f" (id {str(id)[:40]})")


def get_text(record: Mapping[str, Any], name: str) -> str:
    r"""Return text that UTF-8 can encode: JSON allows lone surrogates, which become `\uNNNN`.

    Args:
        record: As in the file.
        name: The field. A number is taken as text, anything else as empty.
    """
    value = record.get(name)
    text = str(value) if isinstance(value, int | float) and value is not True else value
    return text.encode("utf-8", "backslashreplace").decode() if isinstance(text, str) else ""


def check_object(record: Any) -> None:
    """Check that a record is an object.

    Args:
        record: As in the file.

    Raises:
        BadRecord: It is none.
    """
    if not isinstance(record, dict):
        raise BadRecord("that are no objects")
