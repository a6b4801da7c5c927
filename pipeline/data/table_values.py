"""Values of a table's fields: labels, names of splits, and boxes, in the forms that people write.

label   robin    3    3.0    [robin]    robin|wren    ["robin", "wren"]    empty: no label
box     1,2,30,40    [1, 2, 30, 40]    [[1, 2, 30, 40], ...]    {"bbox": [...], "categories": [...]}
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pipeline.data.split_names import find_split_part, is_numbered_part
from pipeline.errors import UserError, suggest_choices
from pipeline.formats.coco_boxes import Box, parse_bbox, xywh_to_xyxy
from pipeline.formats.coco_values import parse_number
from pipeline.formats.odd_records import BadRecord
from pipeline.ops.text import to_nfc
from pipeline.types import Split

BoxFormat = Literal["xywh", "xyxy"]
"""The corner, width and height of a box, or two corners; in pixels, half-open."""

MISSING = ("", "nan", "NaN", "<NA>")  # what pandas and people write where there is nothing
LABEL_MARKS = re.compile(r"\s*[|;]\s*")
NUMBER_MARKS = re.compile(r"[\s,;|]+")
DECIMAL_COMMA = re.compile(r"\s*([+-]?\d*),(\d+)\s*")


def is_missing(value: Any) -> bool:
    """Return whether a field holds nothing.

    Args:
        value: The field.
    """
    if isinstance(value, str):
        return value.strip() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_empty_list(value: Any) -> bool:
    """Return whether a field is a list of nothing, which says more than an empty field.

    Args:
        value: The field.

    Examples:
        >>> is_empty_list([]), is_empty_list("[]"), is_empty_list("")
        (True, True, False)
    """
    if isinstance(value, str):
        return "".join(value.split()) in ("[]", "()")
    return isinstance(value, list | tuple) and not value


def to_text(value: Any) -> str:
    r"""Return the text of a value without white space around it, in NFC and as UTF-8 can have it.

    Args:
        value: Text, in which JSON allows lone surrogates, which become `\uNNNN`; or a number.
    """
    return to_nfc(str(value).encode("utf-8", "backslashreplace").decode().strip())


def parse_labels(value: Any, separator: str | None = None) -> tuple[str, ...]:
    """Return the different labels of a field, none where it is empty.

    Args:
        value: Text, a number, or a list of these.
        separator: What joins several labels in a text; None: | or ;.

    Raises:
        BadRecord: It is something else.

    Examples:
        >>> parse_labels("robin | wren"), parse_labels(3.0), parse_labels('["a, b"]')
        (('robin', 'wren'), ('3',), ('a, b',))
        >>> parse_labels("clear  primary", " ")
        ('clear', 'primary')
    """
    if is_missing(value):
        return ()
    if isinstance(value, list | tuple):
        labels = [label for each in value for label in parse_labels(each, separator)]
        return tuple(dict.fromkeys(labels))
    if isinstance(value, float) and value.is_integer():
        return (str(int(value)),)
    if isinstance(value, bool | int | float):
        return (str(value),)
    if not isinstance(value, str):
        raise BadRecord(f"whose label is of the type {type(value).__name__}")
    text = to_text(value)
    if text[0] + text[-1] in ("[]", "()") and isinstance(listed := _parse_list(text), list | tuple):
        return parse_labels(listed, separator)
    parts = LABEL_MARKS.split(text) if separator is None else map(str.strip, text.split(separator))
    return tuple(dict.fromkeys(filter(None, parts)))


def _parse_list(text: str) -> Any:
    """Return what a list in the notation of JSON or Python holds; None where it is none."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def split_joined(label: str, alone: Collection[str]) -> tuple[str, ...]:
    """Return the labels that a comma joins, if each stands alone elsewhere; else the label itself.

    Args:
        label: The text of a field; a comma may be part of the name of a class.
        alone: The labels of images that have one.

    Examples:
        >>> split_joined("robin, wren", {"robin", "wren"}), split_joined("tench, fish", {"tench"})
        (('robin', 'wren'), ('tench, fish',))
    """
    parts = [part.strip() for part in label.split(",")]
    return tuple(parts) if len(parts) > 1 and all(part in alone for part in parts) else (label,)


def name_classes(labels: Collection[str], order: Sequence[str] = ()) -> dict[str, str]:
    """Return the name of the class of each label, in the order of the classes.

    Args:
        labels: The different labels of a data set.
        order: Labels whose order is given; others follow, sorted.

    Returns:
        Whole numbers are sorted as numbers, and lose a decimal point where all labels are whole.

    Examples:
        >>> name_classes({"10.0", "9.0"})
        {'9.0': '9', '10.0': '10'}
    """
    place = {label: n for n, label in enumerate(order)}
    numbers = {label: parse_number(label) for label in labels}
    whole = {
        label: int(number) for label, number in numbers.items()
        if number is not None and math.isfinite(number) and number == int(number)
    }  # fmt: skip
    if len(whole) < len(numbers):
        names = sorted(labels, key=lambda label: (place.get(label, len(place)), label))
        return {name: name for name in names}
    sorted_labels = sorted(whole, key=lambda label: (place.get(label, len(place)), whole[label]))
    if any("." in label for label in labels):
        return {label: str(whole[label]) for label in sorted_labels}
    return {label: label for label in sorted_labels}


# -- splits


def assign_splits(
    values: Collection[str], scored: str | None, calibration: str | None
) -> dict[str, Split]:
    """Return the split that each value of a split column stands for; some may stand for none.

    Args:
        values: The different values.
        scored: The value that is scored; None: those of validation, or else those of a test.
        calibration: The value whose boxes choose the threshold; None: none.

    Raises:
        UserError: No row has a value that an option names, or both options name the same.

    Examples:
        >>> assign_splits({"training", "test"}, None, None)
        {'test': 'val', 'training': 'train'}
    """
    for option, wanted in (("val_split", scored), ("calibration", calibration)):
        if wanted is not None and wanted not in values:
            raise UserError(
                f"data.{option}={wanted}: no row is of this split; "
                f"{suggest_choices(wanted, values) if values else 'the table has no splits'}"
            )
    if scored is not None and scored == calibration:
        raise UserError(
            f"data.calibration={calibration}: the split that is scored (data.val_split) chooses no "
            "threshold; name another"
        )
    parts = {value: find_split_part(value) for value in sorted(values)}
    chosen: dict[str, Split] = {}
    has_val = scored is not None or "val" in parts.values()
    for value, part in parts.items():
        if value == calibration:
            chosen[value] = "calibration"
        elif value == scored:
            chosen[value] = "val"
        elif part == "train" or (scored is not None and _are_folds(value, scored)):
            chosen[value] = "train"
        elif part is not None:
            is_scored = scored is None and (part == "val" or not has_val)
            chosen[value] = "val" if is_scored else "test"
    return chosen


def _are_folds(value: str, scored: str) -> bool:
    """Return whether two values are parts of a cross-validation: numbers, or names with one."""
    return all(text.isdecimal() or is_numbered_part(text) for text in (value, scored))


def suggest_split(value: str) -> str:
    """Return what to do about a value that stands for no split.

    Args:
        value: As in the table.
    """
    if value.isdecimal() or is_numbered_part(value):
        return f"data.val_split={value} scores these, and trains on the other parts with a number"
    names = suggest_choices(value, ("train", "val", "test"))
    return f"{names}; or name the scored ones by data.val_split={value}"


# -- boxes


def parse_boxes(value: Any, box_format: BoxFormat) -> list[tuple[Box, str | None]]:
    """Return the boxes of a field, each with the label that stands beside it, if any.

    Args:
        value: Four numbers, or a list of boxes, as text or as lists; a list of objects with `bbox`
            and perhaps `category`; an object of lists `bbox` and `categories`.
        box_format: What the four numbers are.

    Returns:
        Half-open `xyxy` in pixels; none where the field is empty.

    Raises:
        BadRecord: A box cannot be right.

    Examples:
        >>> parse_boxes("[[1, 2, 10, 20]]", "xywh"), parse_boxes("1 2 10 20", "xyxy")
        ([((1.0, 2.0, 11.0, 22.0), None)], [((1.0, 2.0, 10.0, 20.0), None)])
    """
    if is_missing(value):
        return []
    if isinstance(value, str):
        text = value.strip()
        listed = _parse_list(text) if text[0] in "[({" else NUMBER_MARKS.split(text)
        if listed is None or isinstance(listed, str):
            raise BadRecord("whose box is neither four numbers nor a list of boxes")
        return parse_boxes(listed, box_format)
    if isinstance(value, Mapping):
        return _parse_objects(value, box_format)
    if not isinstance(value, list | tuple):
        raise BadRecord("whose box is neither four numbers nor a list of boxes")
    if not value:
        return []
    if all(isinstance(item, Mapping) for item in value):
        return [box for item in value for box in _parse_objects(item, box_format)]
    if all(isinstance(item, list | tuple) for item in value):
        return [box for item in value for box in parse_boxes(item, box_format)]
    return [(parse_box(list(value), box_format), None)]


def _parse_objects(
    objects: Mapping[str, Any], box_format: BoxFormat
) -> list[tuple[Box, str | None]]:
    """Return the boxes of an object that has one, or a list of them beside a list of labels."""
    given = next(
        (objects[key] for key in ("bbox", "boxes", "box", "bboxes") if key in objects), None
    )
    if given is None and {"x", "y"} <= objects.keys():
        given = [
            objects["x"],
            objects["y"],
            *(objects.get(k, objects.get(k[0])) for k in ("width", "height")),
        ]
    boxes = [box for box, _ in parse_boxes(given, box_format)]
    names = ("categories", "category", "label", "labels", "class", "name")
    labels = next((objects[key] for key in names if key in objects), None)
    listed = list(labels) if isinstance(labels, list | tuple) else [labels] * len(boxes)
    if len(listed) != len(boxes):
        raise BadRecord("with another count of categories than of boxes")
    # A number is the place in a list of classes that the table does not have.
    texts = [to_text(label) if isinstance(label, str) and label else None for label in listed]
    return list(zip(boxes, texts, strict=True))


def replace_decimal_comma(value: Any) -> Any:
    """Return a number that has a decimal comma with a point; anything else as it is.

    Args:
        value: A field.

    Examples:
        >>> replace_decimal_comma("12,5"), replace_decimal_comma("12.5"), replace_decimal_comma(3)
        ('12.5', '12.5', 3)
    """
    matched = DECIMAL_COMMA.fullmatch(value) if isinstance(value, str) else None
    return value if matched is None else f"{matched[1]}.{matched[2]}"


def parse_box(values: Sequence[Any], box_format: BoxFormat) -> Box:
    """Return the box of four numbers.

    Args:
        values: Numbers, or text of them.
        box_format: What they are.

    Raises:
        BadRecord: They are not four numbers, or cannot be right.
    """
    numbers = [parse_number(value) for value in values]
    if len(numbers) != 4 or any(number is None for number in numbers):
        if any(replace_decimal_comma(value) != value for value in values):
            raise BadRecord("whose box has decimal commas, where a point is to be")
        raise BadRecord("whose box is not four numbers")
    a, b, c, d = (float(number) for number in numbers if number is not None)
    bbox, _ = parse_bbox([a, b, c, d] if box_format == "xywh" else [a, b, c - a, d - b])
    return xywh_to_xyxy(bbox)
