"""What a COCO file says of a review: which images a person looked at, and how they were chosen.

    "reviewed": true         on an image, or on one of its annotations: a person saw its boxes
    "score", "confidence"    on an annotation: a box that a program found
    "chosen_by": "doubt"     on an image, or in `info` for all: annotated because it was doubtful
    "sample": "doubt"        the same, on an image
    "review_sample": true    on an image: it is of the random sample
    "review_rank": 51        on an image without it: from 51 on it was doubtful

An image's own fields precede `info`, and words precede the rank: "random" there means not by doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.formats.coco_values import parse_flag, parse_number

RANDOM_RANKS = 50  # review ranks up to this are a random sample
SCORES = ("score", "confidence")


def is_reviewed(record: Mapping[str, Any]) -> bool:
    """Return whether an image or annotation is marked as reviewed.

    Args:
        record: of the image or the annotation.
    """
    return parse_flag(record.get("reviewed"))


def has_score(annotation: Mapping[str, Any]) -> bool:
    """Return whether an annotation has a number that only programs give.

    Args:
        annotation: its record.
    """
    return any(parse_number(annotation.get(name)) is not None for name in SCORES)


def is_chosen_by_doubt(image: Mapping[str, Any], info: Any) -> bool:
    """Return whether an image was annotated because its box was doubtful.

    Args:
        image: its record.
        info: that of the file.

    Examples:
        >>> is_chosen_by_doubt({"review_rank": 51}, {}), is_chosen_by_doubt({"review_rank": 50}, {})
        (True, False)
        >>> is_chosen_by_doubt({"sample": "random"}, {"chosen_by": "doubt"})
        False
    """
    if parse_flag(image.get("review_sample")):
        return False
    words = [image.get("chosen_by"), image.get("sample")]
    if (word := next((word for word in words if isinstance(word, str)), None)) is not None:
        return word == "doubt"
    if (rank := parse_number(image.get("review_rank"))) is not None:
        return rank > RANDOM_RANKS
    return isinstance(info, dict) and info.get("chosen_by") == "doubt"
