"""Shapes: paper cut-outs over painted scenery, drawn from a seed, with exact boxes and masks.

The embedded data set: it needs no download, and its boxes and masks are exact to the pixel, so the
pipeline runs from labels to measured boxes on any machine, in two minutes on two cores.

Its ten classes differ by outline alone. Colour, pattern, size (44 to 72 % of the shorter side),
rotation (up to 34 degrees) and place do not depend on the class. The shapes lie over hills, leaves,
dunes, clouds and lights, among ribbons and offcuts (blobs and irregular polygons of the same
papers, with the same shadows), so contrast alone does not tell a shape from an offcut. An image in
sixteen holds two shapes of its class, somewhat smaller.

By default images are scaled by OpenCV (averages over areas where they are made smaller), files by
Pillow's bilinear filter with its antialiasing (formats/photo.py). At 64 pixels the two differ by
0.9 of 255 on average, at 224 by 1 at most. Published numbers are of the first. With
`data.scaling=file` images are scaled as files are: written as PNG files in any layout, they give
the same numbers.

An image is a pure function of (seed, pool, number), so any image can be drawn alone, in any order,
by any worker. Its geometry is drawn before its paint, so ground truth needs no painting.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from pipeline.data.hashed_splits import hash_to_fraction
from pipeline.data.listing import parse_input_size
from pipeline.data.shape_outlines import (
    OUTLINES,
    Outline,
    are_apart,
    compute_box,
    draw_mask,
    encode_mask,
    place,
    turn,
    unit_outline,
)
from pipeline.data.shape_painting import paint
from pipeline.errors import UserError
from pipeline.formats import photo
from pipeline.types import CocoIds, Example, GroundTruth, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

Pool = Literal["train", "val"]

FRAMES: tuple[Size, ...] = ((144, 144), (128, 160), (160, 128), (144, 176), (176, 144))
TWO_SHAPES_SHARE = 1 / 16  # share of the images that hold two shapes
MAX_KEPT = 4096  # painted images in memory, of 70 KB; none of a larger set, which would not fit


# ------------------------------------------------------------------------------------- the set


@dataclass(frozen=True)
class Shapes:
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of drawn images.

    Args:
        size: What images are scaled to in pixels: a side of a square, or height and width. They
            are drawn larger, with about 144 pixels a side, and most are not square.
        images: Number of images to train on, `train` and `held_back` together.
        val_images: Number of images that are scored.
        held_back: Share of `images` that selects the best epoch, from 0 to below 1, chosen by hash
            of their ids.
        seed: Another seed gives other images of the same kind.
        scaling: How images are scaled: `area`, OpenCV's averages over areas; `file`, as files are.

    Raises:
        UserError: An option is out of range.
    """

    size: int | tuple[int, int] = 64
    images: int = 3600
    val_images: int = 400
    held_back: float = 0.1
    seed: int = 0
    scaling: Literal["area", "file"] = "area"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", parse_input_size(self.size))
        for name, value, minimum in (
            ("images", self.images, 1), ("val_images", self.val_images, 1), ("seed", self.seed, 0)
        ):  # fmt: skip
            if value < minimum:
                raise UserError(f"data.{name}={value}: expected at least {minimum}")
        if not 0 <= self.held_back < 1:
            raise UserError(f"data.held_back={self.held_back}: expected a share from 0 to 1")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the shapes."""
        return tuple(OUTLINES)

    def ids(self, split: Split) -> Sequence[str]:
        """Return ids such as `train/00017-ring.png`: the pool, the number in it and the class."""
        if split not in self._ids:  # they are asked for again and again
            self._ids[split] = [self._id(*member) for member in self._members[split]]
        return self._ids[split]

    def labels(self, split: Split) -> Int[np.ndarray, "n"]:
        """Return the class of each image, by position."""
        members = self._members[split]
        return np.array([self._labels_of(pool, number)[0] for pool, number in members], np.int64)

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """Draw an image, and scale it if asked.

        Args:
            split: The split.
            position: Position of the image in it.
            at: The (height, width) to scale to; the aspect is not kept. None: not scaled.
            at_least: Without `at`: the smallest (height, width) that is needed. A smaller image
                is enlarged to it, its aspect kept; not with `scaling=file`, as no file is.
        """
        pool, number = self._members[split][position]
        image = self._paint(pool, number)
        frame: Size = (image.shape[0], image.shape[1])
        if at is None and at_least is not None and self.scaling == "area":
            grow = max(at_least[0] / frame[0], at_least[1] / frame[1])
            at = (math.ceil(frame[0] * grow), math.ceil(frame[1] * grow)) if grow > 1 else None
        if at is not None and at != frame:
            if self.scaling == "file":
                image = photo.scale(image, at)
            else:
                smaller = at[0] * at[1] < frame[0] * frame[1]
                interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
                image = cv2.resize(image, (at[1], at[0]), interpolation=interpolation)
        label, *others = self._labels_of(pool, number)
        return Example(self._id(pool, number), image, label, frame, other_labels=tuple(others))

    def _paint(self, pool: Pool, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Paint an image, or return a copy of the painted one where a set of this size is kept."""
        if self.images + self.val_images > MAX_KEPT:
            return paint(*self._geometry(pool, number))
        return _paint_once(self, pool, number).copy()

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return the tightest box and the mask of each shape, by image id."""
        truth: dict[str, GroundTruth] = {}
        for pool, number in self._members[split]:
            _, frame, outlines = self._geometry(pool, number)
            masks = [draw_mask(outline, frame) for outline in outlines]
            name = self._id(pool, number)
            truth[name] = GroundTruth(
                name,
                self._labels_of(pool, number)[0],
                frame,
                np.stack([compute_box(mask) for mask in masks]),
                self._classes_of_shapes(pool, number),
                masks=[encode_mask(mask) for mask in masks],
            )
        return truth

    def coco_names(self, split: Split) -> CocoIds:
        """Return image and category numbers from 1 on, and ids as file names."""
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, range(1, len(self.classes) + 1))

    def fingerprint(self, split: Split) -> str:
        """Hash what the split is drawn from; the source code is hashed elsewhere.

        `size` is not hashed: images are the same whatever they are scaled to.
        """
        learned, scored = (self.images, self.held_back), (self.val_images,)
        cache_key = {"val": scored, "all": (*learned, *scored)}.get(split, learned)
        scaled = () if self.scaling == "area" else (self.scaling,)
        drawn = ("shapes", self.seed, split, *cache_key, *scaled)
        return hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]

    def notes(self) -> list[str]:
        """Return no notes."""
        return []

    def truth_notes(self) -> list[str]:
        """Return no notes."""
        return []

    def truth_fingerprint(self, split: Split) -> str:
        """Return the fingerprint of the images: boxes and masks follow from the same numbers."""
        return self.fingerprint(split)

    @cached_property
    def _ids(self) -> dict[Split, Sequence[str]]:
        """The ids of each split that was asked for."""
        return {}

    @cached_property
    def _members(self) -> dict[Split, list[tuple[Pool, int]]]:
        """Pool and number in it of each image of each split."""
        learn: list[tuple[Pool, int]] = []
        held: list[tuple[Pool, int]] = []
        for number in range(self.images):
            apart = hash_to_fraction(self._id("train", number), "held_back") < self.held_back
            (held if apart else learn).append(("train", number))
        val: list[tuple[Pool, int]] = [("val", number) for number in range(self.val_images)]
        return {"train": learn, "held_back": held, "calibration": [], "val": val,
                "test": [], "all": learn + held + val}  # fmt: skip

    def _labels_of(self, pool: Pool, number: int) -> tuple[int, ...]:
        """Return the classes of an image, ascending: here a single one."""
        return (number % len(OUTLINES),)

    def _classes_of_shapes(self, pool: Pool, number: int) -> Int[np.ndarray, m] | None:
        """Return the class of each shape of an image; None: all are of its only class."""
        return None

    def _id(self, pool: Pool, number: int) -> str:
        names = "-".join(self.classes[label] for label in self._labels_of(pool, number))
        return f"{pool}/{number:05d}-{names}.png"

    def _geometry(self, pool: Pool, number: int) -> tuple[np.random.Generator, Size, list[Outline]]:
        """Draw the frame and the placed outlines.

        Returns:
            The generator, which then draws the paint; the (height, width); the outlines in pixels.
        """
        rng = np.random.default_rng((self.seed, 0 if pool == "train" else 1, number))
        frame = FRAMES[rng.integers(len(FRAMES))]
        unit = unit_outline(self.classes[self._labels_of(pool, number)[0]])
        if rng.random() < TWO_SHAPES_SHARE:
            first = place(rng, turn(rng, unit), rng.uniform(0.36, 0.46), frame)
            for _ in range(12):
                second = place(rng, turn(rng, unit), rng.uniform(0.36, 0.46), frame)
                if are_apart(first, second):
                    return rng, frame, [first, second]
            return rng, frame, [first]
        return rng, frame, [place(rng, turn(rng, unit), rng.uniform(0.44, 0.72), frame)]


@lru_cache(maxsize=MAX_KEPT)
def _paint_once(data: Shapes, pool: Pool, number: int) -> UInt8[np.ndarray, "h w 3"]:
    """Paint an image of a data set once in a process: its stages read the same images."""
    return paint(*data._geometry(pool, number))
