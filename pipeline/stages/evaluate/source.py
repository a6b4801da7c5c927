"""What is evaluated: our own run, a COCO results file, or a folder of maps, as evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from pipeline.types import EvaluationSettings, Evidence, EvidenceKind, Group

GUESSES = 5  # of ILSVRC: a class with a box each
PLACES = 5  # Top-k Loc of our own runs is known for k up to this


@dataclass(frozen=True)
class Offer:
    """A kind of evidence that a source has, and the groups that its numbers are also given for."""

    kind: EvidenceKind
    groups: tuple[Group, ...] = get_args(Group)


Blocks = Sequence[Sequence[Offer]]
"""All kinds of evidence that a source has, in the order of their numbers in metrics.json: block by
block, and in a block first over all images, then for each group."""


@dataclass(frozen=True)
class Item:
    """A piece of evidence, and what images.json says of it: a record for each box looked for."""

    evidence: Evidence
    records: Sequence[Mapping[str, Any]] = ()


class Source(Protocol):
    """Evidence about images, streamed: nothing of an image is kept once it has been given."""

    @property
    def name(self) -> str:
        """Return what the table calls it."""
        ...

    @property
    def unit(self) -> str:
        """Return what a piece of evidence is, in the plural."""
        ...

    @property
    def total(self) -> int | None:
        """Return how many there are, scored or not; None where that is not counted."""
        ...

    @property
    def settings(self) -> EvaluationSettings:
        """Return what the metrics are told."""
        ...

    @property
    def blocks(self) -> Blocks:
        """Return what evidence there is, in the order of its numbers."""
        ...

    @property
    def first_compared(self) -> Sequence[str]:
        """Return the names of numbers whose differences come first in a comparison."""
        ...

    def items(self) -> Iterator[Item]:
        """Yield all evidence, once."""
        ...

    def notes(self, of_metrics: Sequence[str]) -> list[str]:
        """Return what was left out, counted and named, with the notes of the metrics.

        It is complete after `items` is exhausted.
        """
        ...


def guesses_have_boxes(targets: Sequence[str], classes: Sequence[str]) -> bool:
    """Return whether the classes predicted first were explained, as many as ILSVRC lets guess."""
    wanted = min(GUESSES, len(classes))
    tops = [target.removeprefix("top") for target in targets
            if target not in classes and target.startswith("top")]  # fmt: skip
    return any(top.isdecimal() and int(top) >= wanted for top in tops)
