"""Reviews of a person that a later one replaced: they come back where the later one is taken back.

A review is all boxes of an image, or the mark that they are wrong. human_boxes.json keeps replaced
ones in `info`, as `replaced`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.types import HumanBoxes, WrongMark

Review = HumanBoxes | WrongMark
Identity = tuple[str, str, str, str]


def identify(review: Review) -> Identity:
    """Return what tells a review from all others: its image, its kind and its ingest.

    Args:
        review: boxes of a person, or a mark that boxes are wrong.
    """
    return type(review).__name__, review.content, review.source, review.ingested


def list_replaced(reviews: Iterable[Review], kept: Iterable[Review]) -> list[Review]:
    """Return the reviews that are not kept, each once.

    Args:
        reviews: all of them; the same one may be there several times.
        kept: those that count.
    """
    known = {identify(review) for review in kept}
    return list({identify(each): each for each in reviews if identify(each) not in known}.values())


@dataclass(frozen=True)
class TakenBack:
    """What taking an ingest back leaves.

    Attributes:
        images: boxes of a person that count, each image once.
        wrong: images whose boxes a person called wrong, and nobody corrected.
        replaced: reviews that later ones replaced.
        removed: reviews that counted, and are taken back.
        restored: reviews that count again.
    """

    images: Sequence[HumanBoxes]
    wrong: Sequence[WrongMark]
    replaced: Sequence[Review]
    removed: Sequence[Review]
    restored: Sequence[Review]


def take_back(
    current: Sequence[Review], replaced: Sequence[Review], undone: Collection[Identity]
) -> TakenBack:
    """Remove the reviews of an ingest; of its images, those that they replaced count again.

    Args:
        current: the reviews that count, each image once.
        replaced: reviews that later ones replaced.
        undone: the reviews to remove (`identify`).
    """
    removed = [review for review in current if identify(review) in undone]
    contents = {review.content for review in removed}
    waiting = [review for review in replaced if identify(review) not in undone]
    latest: dict[str, Review] = {}
    for review in sorted(waiting, key=lambda each: (each.date, each.ingested)):
        if review.content in contents:
            latest[review.content] = review
    kept = [review for review in current if identify(review) not in undone]
    counting = [*kept, *latest.values()]
    return TakenBack(
        images=[review for review in counting if isinstance(review, HumanBoxes)],
        wrong=[review for review in counting if isinstance(review, WrongMark)],
        replaced=list_replaced(waiting, counting),
        removed=removed,
        restored=list(latest.values()),
    )


def to_record(review: Review) -> dict[str, Any]:
    """Return a review as JSON values.

    Args:
        review: boxes of a person, or a mark that boxes are wrong.
    """
    record = dict(vars(review))
    if isinstance(review, HumanBoxes):
        record["boxes"] = review.boxes.tolist()
        for name in ("size", "classes", "folders"):
            record[name] = list(record[name])
    return record


def from_record(record: Mapping[str, Any]) -> Review:
    """Return the review of a record that `to_record` made.

    Args:
        record: JSON values.
    """
    if "boxes" not in record:
        return WrongMark(**record)
    height, width = record["size"]
    boxes = np.array(record["boxes"], np.float32).reshape(-1, 4)
    return HumanBoxes(**{**record, "size": (height, width), "boxes": boxes})
