"""The images of our own run: what they are annotated with, and their maps and boxes from shards.

What is scored is a class in an image. Where images have one class each, that is the image. An image
of several classes is scored for each, against the objects of this class alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.ops.label_sets import name_pair
from pipeline.results.boxes import iterate_boxes
from pipeline.results.maps import (
    iterate_maps,
    load_classification,
    load_probabilities,
    load_skipped,
)
from pipeline.results.shards import list_shards
from pipeline.stages.evaluate.not_found import Missing
from pipeline.types import Boxes, GroundTruth, LabelScores, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32


@dataclass(frozen=True)
class Unit:
    """What is scored: an image, or one of the classes of an image that may have several.

    Attributes:
        id: unique name.
        image: the name of the image.
        position: of the image among those that were explained.
        label: the class; -1 where the image has none.
        is_first: whether it is the first of the image, with what is given once for an image.
    """

    id: str
    image: str
    position: int
    label: int
    is_first: bool = True


@dataclass(frozen=True, kw_only=True)
class Explained:
    """The images of a run, their annotations, and where its maps are.

    Attributes:
        ids, labels: of all images that were explained, by position.
        scored: ids of the split that is scored.
        truth: annotations by id.
        maps: the folder of stage explain.
        workers: threads.
        missing: whether an annotated image that could not be read counts as not found.
        drawn: ids of the images with boxes that the threshold was chosen on, not in `truth`.
        drawn_in: where these boxes are from: calibrate.boxes, human_boxes.json or checkpoint=.
        negatives: classes without an object.
        label_sets: all classes of each image, ascending; None: an image has one class at most.
        classes: the names of the classes.
        backgrounds: positions of the images that are known to show no class.
    """

    ids: Sequence[str]
    labels: Sequence[int]
    scored: frozenset[str]
    truth: Mapping[str, GroundTruth]
    maps: Path
    workers: int
    missing: Missing = "not_found"
    drawn: frozenset[str] = frozenset()
    drawn_in: str = ""
    negatives: frozenset[int] = frozenset()
    label_sets: Sequence[tuple[int, ...]] | None = None
    classes: Sequence[str] = ()
    backgrounds: frozenset[int] = frozenset()

    @property
    def is_multi_label(self) -> bool:
        """Return whether an image may have several classes."""
        return self.label_sets is not None

    @property
    def image_count(self) -> int:
        """Return how many images the split that is scored has."""
        return sum(id in self.scored for id in self.ids)

    @property
    def total(self) -> int:
        """Return how many units the split that is scored has."""
        if self.label_sets is None:
            return self.image_count
        counts = zip(self.ids, self.label_sets, strict=True)
        return sum(len(classes) for id, classes in counts if id in self.scored)

    def units(self, position: int) -> list[Unit]:
        """Return what is scored of an image."""
        id = self.ids[position]
        if self.label_sets is None:
            return [Unit(id, id, position, self.labels[position])]
        classes = self.label_sets[position]
        if not classes:
            return [Unit(id, id, position, -1)]
        return [
            Unit(name_pair(id, self.classes[c]), id, position, c, n == 0)
            for n, c in enumerate(classes)
        ]

    def unread(self) -> Iterator[int]:
        """Yield the positions of the scored images that have no map at all."""
        for position in sorted(load_skipped(self.maps)):
            if self.ids[position] in self.scored:
                yield position

    @property
    def scored_backgrounds(self) -> list[int]:
        """Return the positions of the scored images that are known to show no class."""
        return [position for position in sorted(self.backgrounds) if self.is_scored(position)]

    def is_scored(self, position: int) -> bool:
        """Return whether an image is of the split that is scored."""
        return self.ids[position] in self.scored

    def known(self, id: str) -> GroundTruth | None:
        """Return the annotations of an image that is scored."""
        return self.truth.get(id) if id in self.scored else None

    def known_of(self, unit: Unit) -> GroundTruth | None:
        """Return the annotations of an image as those of an image of the unit's class."""
        known = self.known(unit.image)
        return known if known is None or not self.is_multi_label else take_class(known, unit.label)

    def predicted(self) -> dict[int, list[int]]:
        """Return the classes predicted for each image, most likely first, by position."""
        seen = load_classification(self.maps)
        return dict(zip(seen.image.tolist(), seen.top.tolist(), strict=True))

    def probabilities(self) -> Mapping[int, Float32[np.ndarray, C]]:
        """Return the probability of each class in images that may have several, by position."""
        return load_probabilities(self.maps) if self.is_multi_label else {}

    def label_scores(
        self, position: int, probabilities: Float32[np.ndarray, C] | None
    ) -> LabelScores:
        """Return which classes an image has, and how likely the network finds each.

        Args:
            position: of the image.
            probabilities: of each class; None: the image could not be read, so that no class is
                found.
        """
        assert self.label_sets is not None
        present, ignored = np.zeros((2, len(self.classes)), bool)
        present[list(self.label_sets[position])] = True
        known = self.known(self.ids[position])
        if known is not None and known.crowds is not None and known.crowds.classes is not None:
            uncounted = np.asarray(known.crowds.classes)
            ignored[uncounted[uncounted >= 0]] = True
        if probabilities is None:
            probabilities = np.zeros(len(self.classes), np.float32)
        return LabelScores(probabilities, present, ignored & ~present)

    def iterate_maps(self) -> Iterator[tuple[int, SaliencyMap]]:
        """Yield all maps with the positions of their images."""
        for shard in list_shards(self.maps):
            yield from iterate_maps(shard, self.ids)


def take_class(known: GroundTruth, label: int) -> GroundTruth:
    """Return the annotations of an image of several classes as those of an image of one of them.

    Args:
        known: all annotations.
        label: the class.
    """
    if known.label == label:
        return known
    each = np.full(len(known.boxes), known.label) if known.classes is None else known.classes
    return replace(known, label=label, classes=each)


def add_backgrounds(
    truth: Mapping[str, GroundTruth], ids: Sequence[str], maps: Path, backgrounds: Collection[int]
) -> dict[str, GroundTruth]:
    """Return annotations with those of images of no class, which have no object.

    Args:
        truth: annotations by id; without any box nothing is annotated, and they are returned.
        ids: of all images that were explained, by position.
        maps: the folder of stage explain, which has the sizes of images.
        backgrounds: positions of the images that are known to show no class.
    """
    if not backgrounds or not any(len(known.boxes) for known in truth.values()):
        return dict(truth)
    seen, added = load_classification(maps), dict[str, GroundTruth]()
    nothing = np.zeros((0, 4), np.float32)
    for position, (height, width) in zip(seen.image.tolist(), seen.size.tolist(), strict=True):
        if position in backgrounds and ids[position] not in truth:
            id, size = ids[position], (height, width)
            added[id] = GroundTruth(id, -1, size, nothing, np.zeros(0, np.int64))
    return {**truth, **added}


def has_other_class(known: GroundTruth, label: int) -> bool:
    """Return whether an image is annotated with an object of another class.

    Args:
        known: its annotations.
        label: the class.
    """
    classes = [] if known.classes is None else np.asarray(known.classes).tolist()
    if known.crowds is not None and known.crowds.classes is not None:
        classes += np.asarray(known.crowds.classes).tolist()
    return bool({*classes} - {label})


@dataclass(frozen=True)
class Seen:
    """All maps of an image, and its boxes by class."""

    position: int
    maps: Sequence[SaliencyMap]
    boxes: Mapping[int, Boxes]

    @property
    def id(self) -> str:
        """Return the name of the image."""
        return self.maps[0].id


def iterate_images(
    explained: Explained, boxes: Path, confidences: Float32[np.ndarray, n] | None
) -> Iterator[Seen]:
    """Yield image by image, maps and boxes both streamed from their shards, in the same order."""
    ids = explained.ids
    boxed = groupby(iterate_boxes(boxes, ids, confidences), key=lambda item: item[0])
    at, found = -1, dict[int, Boxes]()
    for position, group in groupby(explained.iterate_maps(), key=lambda item: item[0]):
        while at < position:  # an image whose maps could not be segmented has no boxes
            at, own = next(boxed, (len(ids), iter(())))
            found = {each.label: each for _, each in own}
        yield Seen(position, [m for _, m in group], found if at == position else {})
