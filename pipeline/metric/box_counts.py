"""Precision, recall and F1 where every true box and every extra box counts.

    precision = matched / found        recall = matched / true        F1 = 2 P R / (P + R)

GT-known Loc and MaxBoxAccV2 ask whether any box fits, so many boxes win for free; here each that
fits nothing costs precision, and each object that is missed costs recall. Boxes are matched as COCO
does (Lin et al., "Microsoft COCO", ECCV 2014): best score first, each to the true box that it fits
best among those still free, if the IoU is at least d. Counts are summed over images, then divided.
Nothing found: precision 1 if nothing was there either, else 0; likewise recall where nothing is
true and something was found is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.metric.scores import chosen
from pipeline.ops.bootstrap import middle, resampled
from pipeline.ops.iou import pairwise_iou
from pipeline.types import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64


def match(
    found: Float[np.ndarray, "N 4"],
    scores: Float[np.ndarray, N],
    true: Float[np.ndarray, "M 4"],
    iou: float = 0.5,
) -> int:
    """How many of the boxes found are matched, for one class in one image.

    Of equal scores the first comes first, of equal fits the last is taken, as in pycocotools.
    """
    if len(scores) != len(found):
        raise ValueError(f"{len(found)} boxes but {len(scores)} scores")
    fits = pairwise_iou(found, true)
    free = np.ones(len(true), bool)
    matched = 0
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        fit = np.where(free, fits[i], -1.0)
        if len(fit) and fit.max() >= iou:
            free[len(fit) - 1 - int(fit[::-1].argmax())] = False
            matched += 1
    return matched


def precision_recall_f1(
    counts: Float64[np.ndarray, "*b 3"],
) -> tuple[Float64[np.ndarray, "*b"], Float64[np.ndarray, "*b"], Float64[np.ndarray, "*b"]]:
    """From counts, or their means, of boxes matched, found and true."""
    matched, found, true = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    nothing = np.asarray(found + true == 0, np.float64)
    precision = np.divide(matched, found, out=np.array(nothing), where=found > 0)
    recall = np.divide(matched, true, out=np.array(nothing), where=true > 0)
    f1 = np.divide(2 * matched, found + true, out=np.array(nothing), where=found + true > 0)
    return precision, recall, f1


def f1_of(means: Float64[np.ndarray, "*b 3"]) -> Float64[np.ndarray, "*b"]:
    """F1 from mean counts: what `bootstrap.compare` of two runs takes."""
    return precision_recall_f1(means)[2]


class BoxCounts:
    """`threshold` names the one that the boxes were cut at: {"kind": ..., "value": ...}."""

    def __init__(
        self,
        ious: Sequence[float] = (0.5,),
        threshold: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.ious = tuple(ious)
        self.threshold = threshold
        self.seed = seed
        self._counts: list[list[tuple[int, int, int]]] = []

    def add(
        self,
        found: Float[np.ndarray, "N 4"],
        scores: Float[np.ndarray, N],
        true: Float[np.ndarray, "M 4"],
    ) -> None:
        """The boxes of one class in one image."""
        sizes = len(found), len(true)
        self._counts.append([(match(found, scores, true, iou), *sizes) for iou in self.ious])

    @property
    def rows(self) -> Int64[np.ndarray, "n d 3"]:
        """Boxes matched, found and true of each image at each IoU."""
        return np.array(self._counts, np.int64).reshape(-1, len(self.ious), 3)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        counts = chosen(self.rows.astype(float), select)
        scores: list[Score] = []
        for i, iou in enumerate(self.ious if len(counts) else ()):
            rows = counts[:, i]
            values = precision_recall_f1(rows.mean(0))
            spread = precision_recall_f1(resampled(rows, 1000, np.random.default_rng(self.seed)))
            scores += [
                Score(name, float(value), len(rows), iou, self.threshold, label, middle(again))
                for name, value, again in zip(
                    ("box_precision", "box_recall", "box_f1"), values, spread, strict=True
                )
            ]
        return scores
