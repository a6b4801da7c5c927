"""Shapes: paper cut-outs over painted scenery, drawn from a seed, with exact boxes and masks.

The embedded data set: nothing to download, and boxes and masks that are right to the pixel, so
that the whole way from labels to measured boxes runs on any machine, in two minutes on two cores.

Ten classes are told apart by outline alone. Colour, pattern, size (44 to 72 % of the shorter
side), rotation (up to 34 degrees) and place are drawn without regard to the class, over hills,
leaves, dunes, clouds and lights, among ribbons and offcuts (blobs and crooked polygons cut from
the same papers, with the same shadows): contrast alone finds an offcut as soon as a shape. One
image in sixteen holds two shapes of its class, somewhat smaller.

An image is a pure function of (seed, pool, number), so any of them can be drawn alone, in any
order, by any worker. Its geometry is drawn before its paint, so ground truth paints nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from pipeline.data.listing import hash_to_fraction, parse_input_size
from pipeline.data.shape_outlines import (
    OUTLINES,
    Outline,
    _apart,
    _rle,
    box,
    mask,
    place,
    turn,
    unit_outline,
)
from pipeline.data.shape_painting import paint
from pipeline.errors import UserError
from pipeline.types import CocoIds, Example, GroundTruth, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Int

Pool = Literal["train", "val"]

FRAMES: tuple[Size, ...] = ((144, 144), (128, 160), (160, 128), (144, 176), (176, 144))
TWINS = 1 / 16  # how many images hold two shapes


# ------------------------------------------------------------------------------------- the set


@dataclass(frozen=True)
class Shapes:
    """A data set (`pipeline.protocols.DataSet`) of drawn images.

    Args:
        size: what images are scaled to: one side, or height and width. They are drawn larger,
            144 pixels or so, and most are not square.
        images: how many there are to learn from, `train` and `held_back` together.
        val_images: how many are scored.
        held_back: share of `images` that selects the best epoch, chosen by hash of their ids.
        seed: another seed gives other images of the same kind.
    """

    size: int | tuple[int, int] = 64
    images: int = 3600
    val_images: int = 400
    held_back: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", parse_input_size(self.size))
        for name, least in (("images", 1), ("val_images", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}={getattr(self, name)}: expected at least {least}")
        if not 0 <= self.held_back < 1:
            raise UserError(f"data.held_back={self.held_back}: expected a share from 0 to 1")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(OUTLINES)

    def ids(self, split: Split) -> Sequence[str]:
        """Names such as `train/00017-ring.png`: the pool, the number in it and the class."""
        return [self._id(pool, number) for pool, number in self._members[split]]

    def labels(self, split: Split) -> Int[np.ndarray, "n"]:
        return np.array([self._label(number) for _, number in self._members[split]], np.int64)

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """Draw an image, as it is or scaled to `at`; `at_least` only ever enlarges."""
        pool, number = self._members[split][position]
        rng, frame, outlines = self._geometry(pool, number)
        image = paint(rng, frame, outlines)
        if at is None and at_least is not None:
            grow = max(at_least[0] / frame[0], at_least[1] / frame[1])
            at = (math.ceil(frame[0] * grow), math.ceil(frame[1] * grow)) if grow > 1 else None
        if at is not None and at != frame:
            smaller = at[0] * at[1] < frame[0] * frame[1]
            interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            image = cv2.resize(image, (at[1], at[0]), interpolation=interpolation)
        return Example(self._id(pool, number), image, self._label(number), frame)

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """The tight box and the mask of each shape, from the outlines that images are drawn of."""
        found: dict[str, GroundTruth] = {}
        for pool, number in self._members[split]:
            _, frame, outlines = self._geometry(pool, number)
            masks = [mask(outline, frame) for outline in outlines]
            name = self._id(pool, number)
            found[name] = GroundTruth(
                name,
                self._label(number),
                frame,
                np.stack([box(each) for each in masks]),
                masks=[_rle(each) for each in masks],
            )
        return found

    def coco_names(self, split: Split) -> CocoIds:
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, range(1, len(self.classes) + 1))

    def fingerprint(self, split: Split) -> str:
        """A hash of what the split is drawn from; how it is drawn is this file, hashed elsewhere.

        `size` is no part of it: images are the same whatever they are scaled to.
        """
        learned, scored = (self.images, self.held_back), (self.val_images,)
        cache_key = {"val": scored, "all": (*learned, *scored)}.get(split, learned)
        drawn = ("shapes", self.seed, split, *cache_key)
        return hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]

    def notes(self) -> list[str]:
        return []

    def truth_notes(self) -> list[str]:
        return []

    def truth_fingerprint(self, split: Split) -> str:
        """Boxes and masks are made of what the images are made of."""
        return self.fingerprint(split)

    @cached_property
    def _members(self) -> dict[Split, list[tuple[Pool, int]]]:
        learn: list[tuple[Pool, int]] = []
        held: list[tuple[Pool, int]] = []
        for number in range(self.images):
            apart = hash_to_fraction(self._id("train", number), "held_back") < self.held_back
            (held if apart else learn).append(("train", number))
        val: list[tuple[Pool, int]] = [("val", number) for number in range(self.val_images)]
        return {"train": learn, "held_back": held, "calibration": [], "val": val,
                "all": learn + held + val}  # fmt: skip

    def _label(self, number: int) -> int:
        return number % len(OUTLINES)

    def _id(self, pool: Pool, number: int) -> str:
        return f"{pool}/{number:05d}-{self.classes[self._label(number)]}.png"

    def _geometry(self, pool: Pool, number: int) -> tuple[np.random.Generator, Size, list[Outline]]:
        """The frame and the placed outlines; the generator goes on to the paint."""
        rng = np.random.default_rng((self.seed, 0 if pool == "train" else 1, number))
        frame = FRAMES[rng.integers(len(FRAMES))]
        unit = unit_outline(self.classes[self._label(number)])
        if rng.random() < TWINS:
            first = place(rng, turn(rng, unit), rng.uniform(0.36, 0.46), frame)
            for _ in range(12):
                second = place(rng, turn(rng, unit), rng.uniform(0.36, 0.46), frame)
                if _apart(first, second):
                    return rng, frame, [first, second]
            return rng, frame, [first]
        return rng, frame, [place(rng, turn(rng, unit), rng.uniform(0.44, 0.72), frame)]
