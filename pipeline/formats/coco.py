"""COCO annotation files (boxes `xywh` in pixels), read as tools really write them.

https://cocodataset.org/#format-data

A record whose meaning is plain is repaired: numbers written as text, an outline as a flat list, a
box that only the outline gives. One that cannot be used is left out. Both are counted and named by
reason in the notes. A file that is broken as a whole, or in which nothing can be used, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.formats import coco_masks
from pipeline.formats.coco_annotations import AnnotationReader
from pipeline.formats.coco_boxes import refuse_fractions
from pipeline.formats.coco_records import (
    SPELLING,
    CocoFile,
    CocoImage,
    CrowdRule,
    check_object,
    get_text,
    name_record,
)
from pipeline.formats.coco_review import is_chosen_by_doubt, is_reviewed
from pipeline.formats.coco_values import Key, parse_key, parse_number
from pipeline.formats.foreign_json import name_tool
from pipeline.formats.odd_records import BadRecord, OddRecords, no_usable_records
from pipeline.ops.text import count_note, to_nfc
from pipeline.types import Note, Size

Item = TypeVar("Item")

LISTS = ("images", "annotations", "categories")
NAME_FIELDS = ("file_name", "filename", "path", "coco_url")  # the first that an image record has


def read(
    path: Path,
    crowds: CrowdRule = "ignore",
    option: str = "data.crowds",
    with_records: bool = False,
) -> CocoFile:
    """Read a COCO annotation file. Odd records are repaired or left out, and counted in the notes.

    Args:
        path: The annotation file, JSON.
        crowds: Whether crowds (`iscrowd`) are regions apart or objects as all others.
        option: The option that `crowds` is from, for notes.
        with_records: Whether the images keep their annotations as records for pycocotools.

    Raises:
        UserError: The file cannot be read, is no COCO data set, or none of its images, categories
            or annotations can be used; then with the reasons.
    """
    return parse(path, read_json(path), crowds, option, with_records)


def parse(
    path: Path,
    content: Any,
    crowds: CrowdRule = "ignore",
    option: str | None = "data.crowds",
    with_records: bool = False,
    positions: Sequence[int] | None = None,
) -> CocoFile:
    """Return what the JSON of a COCO annotation file holds; see `read`.

    Args:
        path: The file, for messages.
        content: Its JSON, or the part of it that is needed.
        crowds: Whether crowds (`iscrowd`) are regions apart or objects as all others.
        option: The option that `crowds` is from, for notes; None: the data set has none.
        with_records: Whether the images keep their annotations as records for pycocotools.
        positions: Where each annotation of a part stands in the file's list; None: all are there.

    Raises:
        UserError: It is no COCO data set, or none of its records of a kind can be used.
    """
    _check_lists(path, content)
    categories = _Categories(path, content["categories"])
    images = _Images(path, content["images"], content["annotations"], content.get("info"))
    reader = AnnotationReader(path, images.all, images.find, categories.find, crowds, with_records)
    reader.add_all(content["annotations"], positions)
    box_count = reader.box_count + (0 if reader.counts_crowds else len(reader.crowd_names))
    refuse_fractions(path, reader.fraction_count, box_count)
    notes: list[str] = [*categories.odd.notes(), *images.notes(), *reader.notes(option)]
    if content["annotations"] and not (reader.box_count or reader.crowd_names):
        subject = f"none of its {len(content['annotations'])} annotations"
        raise no_usable_records(path, subject, notes)
    return CocoFile(path, categories.names, notes, images.by_key, categories.by_key)


def _check_lists(path: Path, content: Any) -> None:
    """Raise UserError unless the content is an object with the three lists."""
    if (tool := name_tool(content)) is not None:
        raise UserError(f"{path}: {tool}, no COCO data set; export as COCO (JSON) there")
    if not isinstance(content, dict):
        results = " (a results file? it has no images)" if isinstance(content, list) else ""
        raise UserError(
            f"{path}: expected a COCO data set, an object with images, annotations and categories; "
            f"got a {type(content).__name__}{results}"
        )
    for name in LISTS:
        if not isinstance(content.get(name), list):
            images = content.get("images")
            hint = (
                f"; it lists {len(images)} images and no box, as a file of image names does"
                if name == "annotations" and isinstance(images, list)
                else ""
            )
            raise UserError(
                f"{path}: the list {name!r} is missing; a COCO data set has images, annotations "
                f"and categories{hint}"
            )


def read_json(path: Path) -> Any:
    """Read a JSON file that somebody else wrote.

    Args:
        path: The file.

    Returns:
        What the JSON holds.

    Raises:
        UserError: The file is missing, cannot be read, is no Unicode text or no JSON; in the last
            case with line and column.
    """
    try:
        content = path.read_bytes()
        # PowerShell writes UTF-16.
        return json.loads(content.decode(json.detect_encoding(content)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a COCO file (JSON)") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a COCO file (JSON)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start}); expected a COCO file (JSON)"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); "
            "correct it there, or write the file again"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, endless brackets
        raise UserError(f"{path}: not JSON that can be read ({error})") from None


# -- categories and images


def _list_keys(
    records: Sequence[Any], odd: OddRecords, list_name: str
) -> Iterator[tuple[int, Key]]:
    """Yield position and id of each record that has one; count the others."""
    for n, record in enumerate(records):
        key = parse_key(record.get("id")) if isinstance(record, dict) else None
        if key is not None:
            if not isinstance(record["id"], type(key)):
                odd.repair(name_record(list_name, n, record), SPELLING)
            yield n, key
        else:
            reason = "without an id" if isinstance(record, dict) else "that are no objects"
            odd.leave_out(name_record(list_name, n, record), reason)


def _number_keys(keys: Sequence[Key]) -> dict[Key, int]:
    """Return a number for each id: itself, or a free number where it is text."""
    numbers: dict[Key, int] = {key: key for key in keys if isinstance(key, int)}
    free = max(numbers.values(), default=0)
    texts = dict.fromkeys(key for key in keys if isinstance(key, str))
    return {**numbers, **{key: free + n for n, key in enumerate(texts, 1)}}


# A field of an annotation -> its name with an article, and what it names, of which none or several.
REFERENCES = {
    "category_id": ("a category_id", "category", "categories"),
    "image_id": ("an image_id", "image", "images"),
}


def _look_up(
    record: Mapping[str, Any], field: str, by_key: Mapping[Key, Item], several: Collection[Key]
) -> Item:
    """Return the image or category that an annotation names. Raise BadRecord where it names none.

    Args:
        record: the annotation.
        field: the field with the id, one of REFERENCES.
        by_key: what there is, by id.
        several: ids that several records have.
    """
    field_with_article, singular, plural = REFERENCES[field]
    key = parse_key(record.get(field))
    if key is None:
        raise BadRecord(f"without {field_with_article}")
    if key not in by_key:
        having = f"several {plural} have" if key in several else f"no {singular} has"
        raise BadRecord(f"with {field_with_article} that {having}")
    return by_key[key]


class _Categories:
    """The categories of a file: names by number, and numbers by id."""

    def __init__(self, path: Path, records: Sequence[Any]) -> None:
        self.odd = OddRecords(path.name, "category record")
        self.names: dict[int, str] = {}
        self.by_key: dict[Key, int] = {}
        keys = dict(_list_keys(records, self.odd, "categories"))
        numbers = _number_keys(list(keys.values()))
        given: dict[Key, set[str]] = {}
        first: dict[str, int] = {}  # merged exports list a category twice, under two ids
        for n, key in keys.items():
            given.setdefault(key, set()).add(get_text(records[n], "name"))
        self.several = {key for key, names in given.items() if len(names) > 1}
        for n, key in keys.items():
            name, where = get_text(records[n], "name"), name_record("categories", n, records[n])
            if not name:
                self.odd.leave_out(where, "without a name")
            elif key in self.several:
                self.odd.leave_out(where, "whose id several categories have")
            elif key in self.by_key:
                self.odd.leave_out(where, "that are there twice")
            elif to_nfc(name) in first:
                self.by_key[key] = first[to_nfc(name)]
                self.odd.repair(f"{where} {name!r}", "with the name of another: both are one")
            else:
                first[to_nfc(name)] = self.by_key[key] = numbers[key]
                self.names[numbers[key]] = name
        self.odd.check_usable(path, len(records), len(self.names))

    def find(self, record: Mapping[str, Any]) -> int:
        """Return the category of an annotation. Raise BadRecord where there is none."""
        return _look_up(record, "category_id", self.by_key, self.several)


class _Images:
    """The images of a file, by the id that stands there."""

    def __init__(
        self, path: Path, records: Sequence[Any], annotations: Sequence[Any], info: Any
    ) -> None:
        self.path, self.info = path, info
        self.odd = OddRecords(path.name, "image record")
        self.by_key: dict[Key, CocoImage] = {}
        keys = dict(_list_keys(records, self.odd, "images"))
        numbers = _number_keys(list(keys.values()))
        names: dict[Key, set[str]] = {}
        for n, key in keys.items():
            names.setdefault(key, set()).add(self._read_name(records[n]))
        self.several = {key for key, given in names.items() if len(given) > 1}
        for n, key in keys.items():
            where = name_record("images", n, records[n])
            if key in self.several:
                self.odd.leave_out(where, "whose id several images have")
            elif key in self.by_key:
                self.odd.leave_out(where, "that are there twice")
            else:
                self.by_key[key] = self._read_image(n, numbers[key], records[n], where)
        self.odd.check_usable(path, len(records), len(self.by_key))
        self._take_sizes_of_masks(annotations)

    @property
    def all(self) -> list[CocoImage]:
        """The images, in the order of the file."""
        return list(self.by_key.values())

    @staticmethod
    def _read_name(record: Mapping[str, Any]) -> str:
        return next((text for name in NAME_FIELDS if (text := get_text(record, name))), "")

    def _read_image(
        self, position: int, number: int, record: Mapping[str, Any], where: str
    ) -> CocoImage:
        name = self._read_name(record)
        if not name:
            self.odd.repair(where, "without a file_name: no image of a folder can be matched")
        elif not get_text(record, "file_name"):
            self.odd.repair(where, "without a file_name: named by another of its fields")
        return CocoImage(
            number,
            name,
            self._read_size(record, where),
            position,
            is_reviewed=is_reviewed(record),
            chosen_by_doubt=is_chosen_by_doubt(record, self.info),
        )

    def _read_size(self, record: Mapping[str, Any], where: str) -> Size | None:
        """Return (height, width); None where the record has none, or none that can be right."""
        given = [record.get(name) for name in ("height", "width")]
        if given == [None, None]:
            return None
        sides = [parse_number(value) for value in given]
        if not all(
            side is not None and 1 <= side < 1 << 31 and side == int(side) for side in sides
        ):
            self.odd.repair(where, "whose width and height are no size: taken as not known")
            return None
        if not all(isinstance(value, int) for value in given):
            self.odd.repair(where, SPELLING)
        height, width = (int(side) for side in sides if side is not None)
        return height, width

    def _take_sizes_of_masks(self, annotations: Sequence[Any]) -> None:
        """Give images without a size that of their run-length masks, if these agree."""
        lacking = {key for key, image in self.by_key.items() if image.size is None}
        sizes: dict[Key, set[Size]] = {}
        for record in annotations if lacking else ():
            key = parse_key(record.get("image_id")) if isinstance(record, dict) else None
            if key in lacking and (size := coco_masks.read_size(record.get("segmentation"))):
                sizes.setdefault(key, set()).add(size)
        for key, given in sizes.items():
            if len(given) == 1:
                (self.by_key[key].size,) = given
                where = f"images[{self.by_key[key].record}]"
                self.odd.repair(where, "without a size: that of their masks is taken")

    def find(self, record: Any) -> CocoImage:
        """Return the image of an annotation. Raise BadRecord where there is none."""
        check_object(record)
        return _look_up(record, "image_id", self.by_key, self.several)

    def notes(self) -> list[Note]:
        """Return what was odd about the records."""
        notes = self.odd.notes()
        texts = [key for key in self.by_key if isinstance(key, str)]
        if texts:
            why = "whose id is text: each gets a free number in the files that are written"
            notes.append(count_note(texts, "image", why, where=self.path.name))
        return notes
