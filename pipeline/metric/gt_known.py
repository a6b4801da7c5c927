"""Localization from the one best-scored box of an image, at a threshold that is given.

    GT-known Loc   share of images whose box, of the true class, has IoU >= d with a true box
    Top-k Loc      the same, and the true class is among the first k predicted
    ILSVRC error   min over five guesses (class, box) of [class wrong or IoU < 0.5], averaged
                   (Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge",
                   IJCV 2015). Top-5 Loc is 1 minus it where a guess of the true class has the
                   same box as GT-known Loc has; where guesses bring boxes of their own, it may
                   differ, and only these count.
    CorLoc         per class, share of its images whose box has IoU > 0.5 (more than, as PASCAL
                   says); then the mean over classes (Deselaers et al., "Weakly Supervised
                   Localization and Learning with Generic Knowledge", IJCV 2012). An image counts
                   once for each class that it holds.
    mean IoU       of that box with the true box that it fits best
    oracle         GT-known Loc at the best single threshold of the scored set

All shares are fractions of 1. IoUs come from `iou.best_iou`, or for the oracle from `curves`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.metric.max_box_acc import best_threshold
from pipeline.metric.scores import chosen, mean_score
from pipeline.ops.bootstrap import interval
from pipeline.ops.iou import best_iou
from pipeline.types import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def gt_known_loc(ious: Float[np.ndarray, n], iou: float = 0.5) -> float:
    return float(np.mean(np.asarray(ious) >= iou))


def top_k_loc(
    ious: Float[np.ndarray, n], rank: Int[np.ndarray, n], k: int, iou: float = 0.5
) -> float:
    """`rank`: the place of the true class among the predictions, 0 for the first."""
    return float(np.mean((np.asarray(ious) >= iou) & (np.asarray(rank) < k)))


def ilsvrc_error(
    guesses: Sequence[tuple[int, Float[np.ndarray, "4"] | None]],
    label: int,
    true: Float[np.ndarray, "M 4"],
    iou: float = 0.5,
) -> int:
    """0 where one of the first five (class, box) guesses is right in both, else 1."""
    right = (guess == label and best_iou(box, true) >= iou for guess, box in list(guesses)[:5])
    return 0 if any(right) else 1


def corloc(
    ious: Float[np.ndarray, n], labels: Int[np.ndarray, n], iou: float = 0.5
) -> tuple[float, dict[int, float]]:
    """The mean over classes, and each class."""
    found, labels = np.asarray(ious) > iou, np.asarray(labels)
    each = {int(c): float(found[labels == c].mean()) for c in np.unique(labels)}
    return float(np.mean(list(each.values()))), each


def oracle(ious: Float[np.ndarray, "n T"], iou: float = 0.5) -> tuple[float, float]:
    """GT-known Loc at the one threshold that is best for all these images, and that threshold.

    `ious`: `Curves.largest` of each image. On a calibration set this picks its threshold.
    """
    return best_threshold(np.asarray(np.mean(np.asarray(ious) >= iou, 0, dtype=np.float64)))


class Localization:
    """All of the above but the oracle and the ILSVRC error, image by image.

    `threshold` names the one that the boxes were cut at: {"kind": ..., "value": ...}.
    """

    def __init__(
        self,
        ious: Sequence[float] = (0.3, 0.5, 0.7),
        threshold: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.ious = tuple(ious)
        self.threshold = threshold
        self.seed = seed
        self._iou: list[float] = []
        self._label: list[int] = []
        self._rank: list[int] = []

    def add(self, label: int, iou: float, predicted: Sequence[int] | None = None) -> None:
        """One image, or one class of an image that holds several.

        `iou`: of the best-scored box of `label`, 0 where there is none. `predicted`: classes, most
        likely first; without them there is no Top-k Loc.
        """
        if not 0 <= iou <= 1:
            raise ValueError(f"IoU: expected 0 to 1, got {iou}")
        classes = [int(c) for c in (() if predicted is None else predicted)]
        # Not among those named: behind every k.
        rank = classes.index(label) if label in classes else max(len(classes), 5)
        self._iou.append(iou)
        self._label.append(label)
        self._rank.append(-1 if predicted is None else rank)

    @property
    def iou(self) -> Float[np.ndarray, n]:
        """Of each image: what a paired test of two runs compares."""
        return np.array(self._iou, float)

    @property
    def rank(self) -> Int[np.ndarray, n]:
        """Of each image's class among the predictions, 0 for the first; -1 without any."""
        return np.array(self._rank, int)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        found = chosen(np.array(self._iou, float), select)
        labels = chosen(np.array(self._label, int), select)
        rank = chosen(np.array(self._rank, int), select)
        if len(found) == 0:
            return []

        def score(name: str, values: np.ndarray, iou: float | None) -> list[Score]:
            return mean_score(
                name, values, iou=iou, threshold=self.threshold, label=label, seed=self.seed
            )

        scores = []
        for iou in self.ious:
            scores += score("gt_known_loc", found >= iou, iou)
        known = rank >= 0
        for k in (1, 5):
            for iou in self.ious if known.all() else ():
                scores += score(f"top{k}_loc", (found >= iou) & (rank < k), iou)
        scores += self._corloc(found, labels, label)
        return scores + score("mean_iou", found, None)

    def _corloc(self, found: np.ndarray, labels: np.ndarray, label: str | None) -> list[Score]:
        value, each = corloc(found, labels)
        # The mean over classes is a mean over images, each weighed by how rare its class is.
        counts = {c: int((labels == c).sum()) for c in each}
        weight = np.array([len(found) / (len(each) * counts[int(c)]) for c in labels])
        bounds = interval(
            np.stack([(found > 0.5) * weight, weight], 1),
            lambda means: means[..., 0] / means[..., 1],
            seed=self.seed,
        )
        return [Score("corloc", value, len(found), 0.5, self.threshold, label, bounds)]


class IlsvrcError:
    """The localization error of ILSVRC, of images whose guesses have boxes, a class and a box each.

    `threshold` names the one that the boxes were cut at: {"kind": ..., "value": ...}.
    """

    def __init__(self, threshold: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        self.threshold = threshold
        self.seed = seed
        self._error: list[int] = []

    def add(
        self,
        guesses: Sequence[tuple[int, Float[np.ndarray, "4"] | None]],
        label: int,
        true: Float[np.ndarray, "M 4"],
    ) -> None:
        """One image; guesses most likely first, of which five count."""
        self._error.append(ilsvrc_error(guesses, label, true))

    @property
    def error(self) -> Int[np.ndarray, n]:
        return np.array(self._error, int)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        return mean_score(
            "ilsvrc_loc_error", chosen(self.error, select), iou=0.5,
            threshold=self.threshold, label=label, seed=self.seed,
        )  # fmt: skip
