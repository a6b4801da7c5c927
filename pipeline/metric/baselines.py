"""Input-independent baselines: boxes and maps that do not depend on the image.

    full image     the box of everything
    centre box     the best of 20 centred boxes of the image's own aspect, their sides 5 % to 100 %
                   of the image's; chosen on the scored images: an oracle, and named so
    pyramid        the map 1 - max(|x - cx| / (w/2), |y - cy| / (h/2)): all centred boxes at once

Gradient maps do not always beat the pyramid (compare Choe et al., "Evaluating Weakly Supervised
Object Localization Methods Right", CVPR 2020, whose centre baseline is a Gaussian).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase, oracle_at
from pipeline.metric.scores import chosen, mean_score
from pipeline.ops.bootstrap import best, interval
from pipeline.ops.growing import GrowingArray
from pipeline.ops.iou import pairwise_iou
from pipeline.types import EvaluationSettings, Evidence, EvidenceKind, MetricNumber, Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32

    from pipeline.types import Size

FRACTIONS = tuple(i / 20 for i in range(1, 21))


def full_image(size: Size) -> Float32[np.ndarray, "4"]:
    """Return the box of the whole image of `size` (height, width)."""
    return centre_box(size, 1.0)


def centre_box(size: Size, fraction: float) -> Float32[np.ndarray, "4"]:
    """Xyxy in pixels of the image; `fraction` is that of its sides."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction of the sides: expected above 0 and up to 1, got {fraction}")
    height, width = size
    low, high = (1 - fraction) / 2, (1 + fraction) / 2
    return np.array([width * low, height * low, width * high, height * high], np.float32)


@lru_cache(maxsize=64)
def _centre_boxes(size: Size) -> Float32[np.ndarray, "20 4"]:
    """Return the centred boxes of all fractions, kept for further images of the size."""
    return np.stack([centre_box(size, fraction) for fraction in FRACTIONS])


@lru_cache(maxsize=64)
def pyramid(size: Size) -> Float32[np.ndarray, "h w"]:
    """Return the pyramid at the centres of pixels.

    It is above 0 everywhere, and below 1 except at a centre pixel. It is kept for further images of
    the size, and cannot be written to.
    """
    height, width = size
    y = np.abs((np.arange(height) + 0.5) / (height / 2) - 1)
    x = np.abs((np.arange(width) + 0.5) / (width / 2) - 1)
    values = np.asarray(1 - np.maximum(y[:, None], x[None]), np.float32)
    values.flags.writeable = False
    return values


class Baselines(MetricBase):
    """GT-known Loc of the full image and of the best centre box.

    The pyramid is a map, and is measured as all maps are.
    """

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(name="full_image_loc", title="full image", order=100, is_baseline=True),
        MetricNumber(name="centre_box_loc", title="best centre box", order=110, is_baseline=True),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"box", "true"})
    order: ClassVar[int] = 10

    def __init__(self, ious: Sequence[float] = (0.3, 0.5, 0.7), seed: int = 0) -> None:
        self.ious = tuple(ious)
        self.seed = seed
        self._found = GrowingArray(float, (len(FRACTIONS),))

    def with_settings(self, settings: EvaluationSettings) -> Baselines:
        """Return an empty accumulator with these settings."""
        return Baselines(settings.ious, settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add an image that a box was looked for in."""
        assert evidence.true is not None
        if evidence.size is None:  # not known, so this image has no centre
            self._found.append(np.full(len(FRACTIONS), np.nan))
        else:
            self.add(evidence.true, evidence.size)

    def add(self, boxes: Float[np.ndarray, "M 4"], size: Size) -> None:
        """Add an image.

        Args:
            boxes: its annotated boxes.
            size: its height and width.
        """
        fits = pairwise_iou(_centre_boxes(size), boxes)
        self._found.append(fits.max(1) if fits.size else np.zeros(len(FRACTIONS)))

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute GT-known Loc of both boxes over the selected images."""
        found = chosen(self._found.values, select)
        found = found[~np.isnan(found[:, 0])]
        scores: list[Score] = []
        for iou in self.ious if len(found) else ():
            correct = found >= iou
            scores += mean_score(
                "full_image_loc", correct[:, -1], iou=iou, label=label, seed=self.seed
            )
            accuracy = correct.mean(0)
            at = oracle_at(FRACTIONS[int(accuracy.argmax())])
            bounds = interval(correct, best, seed=self.seed)
            value = float(accuracy.max())
            scores.append(Score("centre_box_loc", value, len(found), iou, at, label, bounds))
        return scores
