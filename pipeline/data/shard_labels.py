"""Labels of the images in shards as numbers of classes, without an object an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.file_table import FileTable
from pipeline.data.listing import Listing
from pipeline.data.shard_samples import Shard
from pipeline.data.table_values import name_classes
from pipeline.formats.coco_values import parse_key

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

UNKNOWN = -1


@dataclass(frozen=True)
class ShardLabels:
    """The labels of all images, shard after shard.

    Attributes:
        classes: The class names.
        texts: The different sets of labels, as in the shards.
        numbers: The classes of each set, ascending; None: one of its labels is no class.
        codes: The set of each image.
    """

    classes: tuple[str, ...]
    texts: Sequence[tuple[str, ...]]
    numbers: Sequence[tuple[int, ...] | None]
    codes: Int[np.ndarray, n]

    @classmethod
    def number(
        cls, shards: Sequence[Shard], names: Sequence[str], keeps_several: bool
    ) -> ShardLabels:
        """Build the labels of all shards, whose classes get numbers.

        Args:
            shards: The shards.
            names: Class names by the numbers that labels are; empty: labels are names, or numbers
                without one.
            keeps_several: Whether images of several classes are used, and not left out with classes
                that no other image has.
        """
        places: dict[tuple[str, ...], int] = {}
        codes = [places.setdefault(each, len(places)) for shard in shards for each in shard.labels]
        texts = [*places]
        known_names = frozenset(names)
        meant = {
            label: label if label in known_names else _find_name(label, names)
            for each in texts for label in each
        }  # fmt: skip
        used = {
            name for each in texts for label in each
            if (name := meant[label]) is not None and (keeps_several or len(each) == 1)
        }  # fmt: skip
        named = {name: name for name in names if name in used} if names else name_classes(used)
        place = {name: n for n, name in enumerate(named)}
        numbers: list[tuple[int, ...] | None] = []
        for labels in texts:
            class_names = [meant[label] for label in labels]
            known = {name for name in class_names if name is not None}
            are_known = len(known) == len({*class_names})
            # Images of several classes that are left out may have one that no other image has.
            numbers.append(tuple(sorted(place.get(n, -1) for n in known)) if are_known else None)
        return cls(tuple(named.values()), texts, numbers, np.array(codes, np.int64))

    @property
    def counts(self) -> Int[np.ndarray, n]:
        """How many classes each image has; UNKNOWN where a label is no class."""
        counts = [UNKNOWN if each is None else len(each) for each in self.numbers]
        return np.array(counts, np.int64)[self.codes] if counts else self.codes

    def shown(self, position: int) -> str:
        """Return the labels of an image, for messages.

        Args:
            position: Of the image.
        """
        return ", ".join(self.texts[int(self.codes[position])][:4])

    def select(self, table: FileTable, chosen: Bool[np.ndarray, n], keep: bool) -> Listing:
        """Return some images with the first class of each; -1 where it has none.

        Args:
            table: The files of all images.
            chosen: Whether each image is in the listing.
            keep: Whether an image may have other classes besides.
        """
        first = [each[0] if each else -1 for each in self.numbers]
        rest = [each[1:] if each else () for each in self.numbers]
        rows = np.flatnonzero(chosen)
        codes = self.codes[rows].tolist()
        others = [rest[code] for code in codes] if keep else None
        return Listing(table.take(rows), [first[code] for code in codes], self.classes, others)


def _find_name(label: str, names: Sequence[str]) -> str | None:
    """Return the name of the class that a number stands for; None where it is no class."""
    if not names:
        return label
    number = parse_key(label)
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else None
