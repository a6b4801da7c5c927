"""Precision, recall and F1 where every true box and every extra box counts.

    precision = matched / found        recall = matched / true        F1 = 2 P R / (P + R)

GT-known Loc and MaxBoxAccV2 ask whether any box fits, so many boxes win for free; here each that
fits nothing costs precision, and each object that is missed costs recall. Boxes are matched as COCO
does (Lin et al., "Microsoft COCO", ECCV 2014): best score first, each to the true box that it fits
best among those still free, if the IoU is at least d. Counts are summed over images, then divided.
Nothing found: precision 1 if nothing was there either, else 0; likewise recall where nothing is
true and something was found is 0.

Boxes of a class that the image is not annotated with (`Evidence.is_extra`) fit nothing, and count
for that class. A selection of images that is no selection of whole classes, as by size of object,
cannot tell which of them are its own: it has recall alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase, kind_of
from pipeline.metric.precision_recall import precision_recall
from pipeline.metric.scores import chosen
from pipeline.ops.bootstrap import middle, resampled
from pipeline.ops.growing import GrowingArray
from pipeline.ops.iou import pairwise_iou
from pipeline.types import (
    EvaluationSettings,
    Evidence,
    EvidenceKind,
    MetricNumber,
    PairedRows,
    Score,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64

MAX_POINTS = 200  # of a curve of precision over recall


def find_matched(
    boxes: Float[np.ndarray, "N 4"],
    scores: Float[np.ndarray, N],
    true: Float[np.ndarray, "M 4"],
    ious: Sequence[float] = (0.5,),
) -> Bool[np.ndarray, "d N"]:
    """Return which of the boxes found are matched, for one class in one image, at each IoU.

    Of equal scores the first comes first, of equal fits the last is taken, as in pycocotools.

    Args:
        boxes: the predicted boxes.
        scores: their scores.
        true: the annotated boxes.
        ious: the IoUs that a match must reach.

    Raises:
        ValueError: there are not as many scores as boxes.
    """
    if len(scores) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes but {len(scores)} scores")
    is_matched = np.zeros((len(ious), len(boxes)), bool)
    if not len(boxes) or not len(true):
        return is_matched
    fits = pairwise_iou(boxes, true)
    order = np.argsort(-np.asarray(scores), kind="stable")
    for n, iou in enumerate(ious):
        free = np.ones(len(true), bool)
        for i in order:
            fit = np.where(free, fits[i], -1.0)
            if fit.max() >= iou:
                free[len(fit) - 1 - int(fit[::-1].argmax())] = False
                is_matched[n, i] = True
    return is_matched


def match(
    found: Float[np.ndarray, "N 4"],
    scores: Float[np.ndarray, N],
    true: Float[np.ndarray, "M 4"],
    iou: float = 0.5,
) -> int:
    """Count the boxes found that are matched, for one class in one image; see `find_matched`."""
    return int(find_matched(found, scores, true, (iou,)).sum())


def precision_recall_f1(
    counts: Float64[np.ndarray, "*b 3"],
) -> tuple[Float64[np.ndarray, "*b"], Float64[np.ndarray, "*b"], Float64[np.ndarray, "*b"]]:
    """From counts, or their means, of boxes matched, predicted and true."""
    matched, predicted, true = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    nothing = np.asarray(predicted + true == 0, np.float64)
    precision = np.divide(matched, predicted, out=np.array(nothing), where=predicted > 0)
    recall = np.divide(matched, true, out=np.array(nothing), where=true > 0)
    f1 = np.divide(2 * matched, predicted + true, out=np.array(nothing), where=predicted + true > 0)
    return precision, recall, f1


def f1_of(means: Float64[np.ndarray, "*b 3"]) -> Float64[np.ndarray, "*b"]:
    """F1 from mean counts: what `bootstrap.compare` of two runs takes."""
    return precision_recall_f1(means)[2]


class BoxCounts(MetricBase):
    """Box precision, recall and F1.

    `threshold` names the one that the boxes were cut at: {"kind": ..., "value": ...}.
    """

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(name="box_precision", title="box precision", in_table=False),
        MetricNumber(name="box_recall", title="box recall", in_table=False),
        MetricNumber(
            name="box_f1",
            title="box F1",
            row="box F1, precision/recall",
            order=70,
            beside=("box_precision", "box_recall"),
            comparison_order=60,
        ),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"boxes"})
    order: ClassVar[int] = 10
    row_names: ClassVar[Sequence[str]] = ("counts",)

    def __init__(
        self,
        ious: Sequence[float] = (0.5,),
        threshold: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.ious = tuple(ious)
        self.threshold = threshold
        self.seed = seed
        self._counts = GrowingArray(np.int64, (len(self.ious), 3))
        self._scores: list[Float[np.ndarray, N]] = []  # of all boxes found
        self._matched: list[Bool[np.ndarray, "d N"]] = []
        self._labels = GrowingArray(int)
        self._has_extra = False

    def with_settings(self, settings: EvaluationSettings) -> BoxCounts:
        """Return an empty accumulator with these settings."""
        return BoxCounts(settings.ious, settings.threshold, settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add the boxes of one class in one image."""
        assert evidence.boxes is not None
        assert evidence.scores is not None
        true = np.zeros((0, 4), np.float32) if evidence.true is None else evidence.true
        self.add(evidence.boxes, evidence.scores, true, evidence.label, evidence.is_extra)

    def add(
        self,
        found: Float[np.ndarray, "N 4"],
        scores: Float[np.ndarray, N],
        true: Float[np.ndarray, "M 4"],
        label: int = 0,
        is_extra: bool = False,
    ) -> None:
        """Add the boxes of one class in one image.

        Args:
            found: the predicted boxes.
            scores: their scores.
            true: the annotated boxes of the class.
            label: the class.
            is_extra: whether the image is not labelled with this class: its boxes count only as
                wrong ones.
        """
        matched = find_matched(found, scores, true, self.ious)
        sizes = len(found), len(true)
        self._counts.append([(count, *sizes) for count in matched.sum(1).tolist()])
        self._scores.append(np.asarray(scores, np.float32))
        self._matched.append(matched)
        self._labels.append(label)
        self._has_extra |= is_extra

    @property
    def counts(self) -> Int64[np.ndarray, "n d 3"]:
        """Return how many boxes were matched, found and true, of each image at each IoU."""
        return self._counts.values

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return `counts` [n, d, 3]."""
        return {"counts": self.counts}

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterator[PairedRows]:
        """Yield F1 at each IoU, of the counts of all classes of an image."""
        used = kind_of(self.threshold)
        for n, iou in enumerate(self.ious):
            counts = rows["counts"][:, n]
            yield PairedRows("box_f1", counts, f1_of, iou, threshold=used, by_image=True)

    def curve(self) -> Sequence[Mapping[str, Any]]:
        """Return precision over recall at each IoU: the boxes of all images, best score first.

        The last point is box precision and box recall.
        """
        if not any(len(scores) for scores in self._scores):
            return ()
        scores, total = np.concatenate(self._scores), int(self.counts[:, 0, 2].sum())
        lines = []
        for iou, matched in zip(self.ious, np.concatenate(self._matched, 1), strict=True):
            precision, recall = precision_recall(scores, matched, total)
            steps = np.linspace(0, len(recall) - 1, min(MAX_POINTS, len(recall))).round()
            points = np.stack([recall, precision], 1)[np.unique(steps).astype(int)]
            lines.append({"iou": iou, "axis": "recall", "points": points.round(4).tolist()})
        return lines

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the shares of the selected images by their number of boxes."""
        counts = chosen(self.counts, select).astype(float)
        names = ("box_precision", "box_recall", "box_f1")
        wanted = names[1:2] if self._splits_classes(select) else names
        scores: list[Score] = []
        for i, iou in enumerate(self.ious if len(counts) else ()):
            rows = counts[:, i]
            values = precision_recall_f1(rows.mean(0))
            spread = precision_recall_f1(resampled(rows, 1000, self.seed))
            scores += [
                Score(name, float(value), len(rows), iou, self.threshold, label, middle(again))
                for name, value, again in zip(names, values, spread, strict=True)
                if name in wanted
            ]
        return scores

    def _splits_classes(self, select: Bool[np.ndarray, n] | None) -> bool:
        """Return whether extra boxes may belong to the selection, and nobody can tell."""
        if select is None or not self._has_extra:
            return False
        labels = self._labels.values
        return not np.array_equal(np.isin(labels, labels[select]), select)
