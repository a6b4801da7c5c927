"""The part that data sets share whose classes and splits are found together: in rows, in shards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from pipeline.data.annotations import ReadsDrawn
from pipeline.data.listing import OnDisk, Splits
from pipeline.data.negative_classes import find_negative_classes
from pipeline.data.table_splits import SeveralRule
from pipeline.formats.coco_records import CrowdRule
from pipeline.types import CocoIds, Split


class Contents(Protocol):
    """What is found of a data set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""

    @property
    def splits(self) -> Splits:
        """The listings."""


class OfContents(ReadsDrawn, OnDisk):
    """A data set of `Contents`, without annotations.

    Attributes:
        negatives: Names of the classes whose images show no object.
        crowds: What annotations marked `iscrowd` are in a file of boxes.
        several: What is done where images have several labels.
    """

    negatives: Sequence[str]
    crowds: CrowdRule
    several: SeveralRule

    @property
    @abstractmethod
    def _contents(self) -> Contents:
        """What is found of the data set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of a list of them that the data set has, or else sorted."""
        return self._contents.classes

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes, and none excludes another."""
        return self.several == "keep"

    @property
    def splits(self) -> Splits:
        """The splits that the data set has, or by hash of the ids."""
        return self._contents.splits

    def negative_classes(self) -> Sequence[str]:
        """Return the names of the classes whose images show no object.

        Raises:
            UserError: A name is of no class, or no class with an object is left.
        """
        return find_negative_classes(self.negatives, self.classes, self.classes)

    def coco_names(self, split: Split) -> CocoIds:
        """Return image and category numbers from 1 on, and ids as file names."""
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, range(1, len(self.classes) + 1))
