"""A data set without annotations, in the form that evaluation asks for: no image has a box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.protocols import AnnotatedDataSet, DataSet
from pipeline.types import CocoIds, Example, GroundTruth, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class Unannotated:
    """The images and labels of a data set, and no annotated box."""

    data: DataSet

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes of the wrapped data set."""
        return self.data.classes

    @property
    def size(self) -> Size:
        """Return the input size (height, width) of the wrapped data set."""
        return self.data.size

    def ids(self, split: Split) -> Sequence[str]:
        """Return the ids of the data set."""
        return self.data.ids(split)

    def labels(self, split: Split) -> Int[np.ndarray, n]:
        """Return the labels of the data set."""
        return self.data.labels(split)

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """Read an image of the data set."""
        return self.data.example(split, position, at=at, at_least=at_least)

    def coco_names(self, split: Split) -> CocoIds:
        """Return the numbers and names of the data set."""
        return self.data.coco_names(split)

    def fingerprint(self, split: Split) -> str:
        """Return the fingerprint of the data set."""
        return self.data.fingerprint(split)

    def notes(self) -> list[str]:
        """Return the notes of the data set."""
        return self.data.notes()

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return nothing: no image is annotated."""
        return {}

    def truth_fingerprint(self, split: Split) -> str:
        """Return what stands for no annotations."""
        return "none"

    def truth_notes(self) -> list[str]:
        """Return nothing: there are no annotations to say anything about."""
        return []


def with_annotations(data: DataSet) -> AnnotatedDataSet:
    """Return the data set, with no annotation at all where it does not know of any."""
    return data if isinstance(data, AnnotatedDataSet) else Unannotated(data)
