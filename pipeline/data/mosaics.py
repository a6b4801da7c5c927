"""Mosaics: images with two to four shapes, close together, drawn from a seed.

The shapes, papers and sceneries are those of the embedded data set (shapes.py). A mosaic is 1.4
times as wide as its images, and holds two to four shapes of 30 to 42 % of its shorter side (54 to
85 pixels, where the embedded set has 56 to 104), whose boxes do not overlap and may be as near as
2 pixels. At `size=88`, the default, a shape is scaled as in the embedded set at its default of 64.

The shapes of an image are of one class: mosaics measure whether several objects of a class are told
apart. With `several_classes` the class of each shape is drawn alone, all as likely, and an image is
labelled with all classes that it holds: a multi-label data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.shape_outlines import Outline, are_apart, place, turn, unit_outline
from pipeline.data.shapes import FRAMES, Pool, Shapes
from pipeline.types import Size, Split

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

SCALE = 1.4  # of a mosaic, relative to an image of the embedded set
MIN_SHAPES, MAX_SHAPES = 2, 4
SIDES = (0.30, 0.42)  # of a shape, as a share of the mosaic's shorter side
GAP = 2.0  # pixels between the boxes of two shapes, at least
TRIES = 200  # to place one shape, then all are placed anew
ROUNDS = 100


@dataclass(frozen=True)
class Mosaics(Shapes):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of drawn images with several objects.

    Args:
        several_classes: Whether each shape has a class of its own, and an image several labels.
        size: What images are scaled to in pixels: a side of a square, or height and width. They
            are drawn larger, with about 202 pixels a side, and most are not square.
        images: Number of images to train on, `train` and `held_back` together.
        val_images: Number of images that are scored.
        held_back: Share of `images` that selects the best epoch, from 0 to below 1, chosen by hash
            of their ids.
        seed: Another seed gives other images of the same kind.
        scaling: How images are scaled: `area`, OpenCV's averages over areas; `file`, as files are.

    Raises:
        UserError: An option is out of range.
    """

    size: int | tuple[int, int] = 88
    several_classes: bool = False

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.several_classes

    def label_sets(self, split: Split) -> Bool[np.ndarray, "n C"]:
        """Return which classes each image has, by position.

        Args:
            split: The split.
        """
        members = self._members[split]
        has = np.zeros((len(members), len(self.classes)), bool)
        for row, (pool, number) in zip(has, members, strict=True):
            row[[*self._labels_of(pool, number)]] = True
        return has

    def fingerprint(self, split: Split) -> str:
        """Hash what the split is drawn from; the source code is hashed elsewhere."""
        kind = "mosaics of several classes" if self.several_classes else "mosaics"
        drawn = f"{kind} {super().fingerprint(split)}"
        return hashlib.sha256(drawn.encode()).hexdigest()[:16]

    def _labels_of(self, pool: Pool, number: int) -> tuple[int, ...]:
        """Return the classes of an image, ascending."""
        classes = self._classes_of_shapes(pool, number)
        if classes is None:
            return super()._labels_of(pool, number)
        return tuple(np.unique(classes).tolist())

    def _classes_of_shapes(self, pool: Pool, number: int) -> Int[np.ndarray, m] | None:
        """Return the class of each shape of an image; None: all are of its only class.

        Their generator is another than that of places and paint, which do not depend on them.
        """
        if not self.several_classes:
            return None
        rng = np.random.default_rng((self.seed, 4 if pool == "train" else 5, number))
        count = int(rng.integers(MIN_SHAPES, MAX_SHAPES + 1))
        return rng.integers(len(self.classes), size=count)

    def _geometry(self, pool: Pool, number: int) -> tuple[np.random.Generator, Size, list[Outline]]:
        """Draw the frame and the placed outlines.

        Returns:
            The generator, which then draws the paint; the (height, width); the outlines in pixels.
        """
        rng = np.random.default_rng((self.seed, 2 if pool == "train" else 3, number))
        height, width = FRAMES[rng.integers(len(FRAMES))]
        frame = round(SCALE * height), round(SCALE * width)
        classes = self._classes_of_shapes(pool, number)
        if classes is None:
            (label,) = self._labels_of(pool, number)
            classes = np.full(rng.integers(MIN_SHAPES, MAX_SHAPES + 1), label)
        units = [unit_outline(self.classes[label]) for label in classes]
        for _ in range(ROUNDS):
            placed = _place_all(rng, units, frame)
            if len(placed) == len(units):
                return rng, frame, placed
        raise RuntimeError(f"{self._id(pool, number)}: no place for {len(units)} shapes")


def _place_all(rng: np.random.Generator, units: Sequence[Outline], frame: Size) -> list[Outline]:
    """Place shapes one after the other; not all of them where one finds no place."""
    placed: list[Outline] = []
    for unit in units:
        for _ in range(TRIES):
            outline = place(rng, turn(rng, unit), rng.uniform(*SIDES), frame)
            if all(are_apart(outline, other, GAP) for other in placed):
                placed.append(outline)
                break
        else:
            break
    return placed
