"""Mosaics: images with two to four shapes of one class, close together, drawn from a seed.

The shapes, papers and sceneries are those of the embedded data set (shapes.py). A mosaic is 1.4
times as wide as its images, and holds two to four shapes of 30 to 42 % of its shorter side (54 to
85 pixels, where the embedded set has 56 to 104), whose boxes do not overlap and may be as near as
2 pixels. At `size=88`, the default, a shape is scaled as in the embedded set at its default of 64.
Mosaics measure whether several objects of a class are told apart.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.data.shape_outlines import Outline, are_apart, place, turn, unit_outline
from pipeline.data.shapes import FRAMES, Pool, Shapes
from pipeline.types import Size, Split

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
        size: What images are scaled to in pixels: a side of a square, or height and width. They
            are drawn larger, with about 202 pixels a side, and most are not square.
        images: Number of images to train on, `train` and `held_back` together.
        val_images: Number of images that are scored.
        held_back: Share of `images` that selects the best epoch, from 0 to below 1, chosen by hash
            of their ids.
        seed: Another seed gives other images of the same kind.

    Raises:
        UserError: An option is out of range.
    """

    size: int | tuple[int, int] = 88

    def fingerprint(self, split: Split) -> str:
        """Hash what the split is drawn from; the source code is hashed elsewhere."""
        drawn = f"mosaics {super().fingerprint(split)}"
        return hashlib.sha256(drawn.encode()).hexdigest()[:16]

    def _geometry(self, pool: Pool, number: int) -> tuple[np.random.Generator, Size, list[Outline]]:
        """Draw the frame and the placed outlines.

        Returns:
            The generator, which then draws the paint; the (height, width); the outlines in pixels.
        """
        rng = np.random.default_rng((self.seed, 2 if pool == "train" else 3, number))
        height, width = FRAMES[rng.integers(len(FRAMES))]
        frame = round(SCALE * height), round(SCALE * width)
        unit = unit_outline(self.classes[self._label(number)])
        count = int(rng.integers(MIN_SHAPES, MAX_SHAPES + 1))
        for _ in range(ROUNDS):
            placed = _place_all(rng, unit, count, frame)
            if len(placed) == count:
                break
        return rng, frame, placed


def _place_all(rng: np.random.Generator, unit: Outline, count: int, frame: Size) -> list[Outline]:
    """Place shapes one after the other; fewer than `count` where one finds no place."""
    placed: list[Outline] = []
    for _ in range(count):
        for _ in range(TRIES):
            outline = place(rng, turn(rng, unit), rng.uniform(*SIDES), frame)
            if all(are_apart(outline, other, GAP) for other in placed):
                placed.append(outline)
                break
        else:
            break
    return placed
