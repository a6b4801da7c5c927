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
                   once for each class that it holds. Where images may have several classes it is
                   given at each IoU.
    mean IoU       of that box with the true box that it fits best
    oracle         GT-known Loc at the best single threshold of the scored set

All shares are fractions of 1. IoUs come from `iou.best_iou`, or for the oracle from `curves`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase, kind_of
from pipeline.metric.max_box_acc import best_threshold
from pipeline.metric.scores import chosen, class_mean_score, mean_over_classes, mean_score
from pipeline.ops.bootstrap import first
from pipeline.ops.growing import GrowingArray
from pipeline.ops.iou import best_iou
from pipeline.types import (
    Card,
    Cut,
    EvaluationSettings,
    Evidence,
    EvidenceKind,
    MetricNumber,
    PairedRows,
    Score,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def gt_known_loc(ious: Float[np.ndarray, n], iou: float = 0.5) -> float:
    """Compute the share of images whose box reaches an IoU with a true box."""
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
    """Compute the mean over classes, and that of each class."""
    return mean_over_classes(np.asarray(ious) > iou, np.asarray(labels))


def oracle(ious: Float[np.ndarray, "n T"], iou: float = 0.5) -> tuple[float, float]:
    """GT-known Loc at the one threshold that is best for all these images, and that threshold.

    `ious`: `Curves.largest` of each image. On a calibration set this picks its threshold.
    """
    return best_threshold(np.asarray(np.mean(np.asarray(ious) >= iou, 0, dtype=np.float64)))


FULL_IMAGE = ("full_image_loc", "own")
GT_KNOWN = MetricNumber(
    name="gt_known_loc",
    title="GT-known Loc",
    order=10,
    comparison_order=10,
    is_headline=True,
    cards=(
        Card(order=10, iou=0.5, baseline=FULL_IMAGE, column="GT-known @0.5"),
        Card(order=20, iou=0.5, kind="auto", baseline=FULL_IMAGE, column="auto"),
        Card(order=30, iou=0.5, kind="validation", baseline=FULL_IMAGE, column="validation"),
        Card(
            order=40,
            iou=0.5,
            kind="oracle",
            baseline=("centre_box_loc", "oracle"),
            column="oracle",
        ),
    ),
)
TOP1 = MetricNumber(
    name="top1_loc",
    title="Top-1 Loc",
    order=20,
    comparison_order=40,
    cards=(Card(order=60, iou=0.5),),
)
TOP5 = MetricNumber(name="top5_loc", title="Top-5 Loc", order=30, min_classes=6)


class Localization(MetricBase):
    """GT-known Loc, Top-k Loc, CorLoc and mean IoU of the best-scored boxes, image by image.

    `threshold` names the one that the boxes were cut at: {"kind": ..., "value": ...}.
    """

    numbers: ClassVar[Sequence[MetricNumber]] = (
        GT_KNOWN,
        TOP1,
        TOP5,
        MetricNumber(name="corloc", title="CorLoc", row="CorLoc, mean over classes", order=50),
        MetricNumber(name="mean_iou", title="mean IoU", order=60, comparison_order=50),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"box"})
    order: ClassVar[int] = 10
    row_names: ClassVar[Sequence[str]] = ("iou", "rank")

    def __init__(
        self,
        ious: Sequence[float] = (0.3, 0.5, 0.7),
        threshold: Mapping[str, Any] | None = None,
        seed: int = 0,
        is_multi_label: bool = False,
    ) -> None:
        self.ious = tuple(ious)
        self.threshold = threshold
        self.seed = seed
        self.corloc_ious = self.ious if is_multi_label else (0.5,)
        self._iou = GrowingArray(float)
        self._label = GrowingArray(int)
        self._rank = GrowingArray(int)
        self._places = 5  # Top-k is known for k up to this

    def with_settings(self, settings: EvaluationSettings) -> Localization:
        """Return an empty accumulator with these settings."""
        return Localization(
            settings.ious, settings.threshold, settings.seed, settings.is_multi_label
        )

    def update(self, evidence: Evidence) -> None:
        """Add an image, or one class of an image that holds several."""
        assert evidence.iou is not None
        self.add_ranked(evidence, evidence.iou)

    def add_ranked(self, evidence: Evidence, iou: float) -> None:
        """Add evidence with the IoU of a box, and with the classes predicted if it has them.

        Args:
            evidence: of an image, or of a class in it.
            iou: of the best-scored box of the class, 0 where there is none.
        """
        ranking = evidence.ranking
        if ranking is not None:
            self._places = min(self._places, ranking.places)
        self.add(evidence.label, iou, None if ranking is None else ranking.classes)

    def add(self, label: int, iou: float, predicted: Sequence[int] | None = None) -> None:
        """Add an image, or one class of an image that holds several.

        Args:
            label: the class.
            iou: of the best-scored box of `label`, 0 where there is none.
            predicted: classes, most likely first; without them there is no Top-k Loc.

        Raises:
            ValueError: the IoU is outside 0 to 1.
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
        return self._iou.values

    @property
    def rank(self) -> Int[np.ndarray, n]:
        """Of each image's class among the predictions, 0 for the first; -1 without any."""
        return self._rank.values

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return `iou` and `rank`, [n] each."""
        return {"iou": self.iou, "rank": self.rank}

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterator[PairedRows]:
        """Yield GT-known Loc, Top-1 Loc where classes were predicted, and mean IoU."""
        iou, rank, used = rows["iou"], rows["rank"], kind_of(self.threshold)
        for delta in self.ious:
            yield PairedRows("gt_known_loc", iou >= delta, first, delta, threshold=used)
            if (rank >= 0).all():
                right = (iou >= delta) & (rank == 0)
                yield PairedRows("top1_loc", right, first, delta, threshold=used)
        yield PairedRows("mean_iou", iou, first, threshold=used)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the numbers over the selected images."""
        found = chosen(self.iou, select)
        labels = chosen(self._label.values, select)
        rank = chosen(self.rank, select)
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
        for k in (1, 5) if known.all() else ():
            for iou in self.ious if k <= self._places else ():
                scores += score(f"top{k}_loc", (found >= iou) & (rank < k), iou)
        for iou in self.corloc_ious:
            scores += class_mean_score(
                "corloc", found > iou, labels, iou=iou, threshold=self.threshold, label=label,
                seed=self.seed,
            )  # fmt: skip
        return scores + score("mean_iou", found, None)


class LocalizationAtCuts(MetricBase):
    """GT-known Loc and Top-k Loc at the other thresholds known without these images' boxes.

    The box is that of the map's largest component.
    """

    numbers: ClassVar[Sequence[MetricNumber]] = (GT_KNOWN, TOP1, TOP5)
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"cuts"})
    order: ClassVar[int] = 10
    row_names: ClassVar[Sequence[str]] = ("validation_iou",)

    def __init__(self) -> None:
        self.cuts: list[tuple[Cut, Localization]] = []
        self.ious: tuple[float, ...] = ()

    def with_settings(self, settings: EvaluationSettings) -> LocalizationAtCuts:
        """Return an empty accumulator with these settings."""
        metric = LocalizationAtCuts()
        metric.ious = settings.ious
        metric.cuts = [
            (cut, Localization(cut.ious, cut.info, settings.seed)) for cut in settings.cuts
        ]
        return metric

    def update(self, evidence: Evidence) -> None:
        """Add an image whose map was cut at these thresholds."""
        assert evidence.cuts is not None
        for (_, localization), iou in zip(self.cuts, evidence.cuts, strict=True):
            localization.add_ranked(evidence, iou)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the numbers at each of the thresholds, one threshold after the other."""
        names = [number.name for number in self.numbers]
        return [
            score
            for _, localization in self.cuts
            for score in localization.compute(select, label)
            if score.name in names
        ]

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return the IoU at each kind of threshold, [n].

        At validation thresholds, of which each of the IoUs has its own, the shape is [n, d].
        """
        return {
            f"{kind}_iou": np.stack([one.iou for _, one in group], 1)
            if kind == "validation"
            else group[0][1].iou
            for kind, group in ((k, list(g)) for k, g in groupby(self.cuts, lambda c: c[0].kind))
        }

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterator[PairedRows]:
        """Yield GT-known Loc at validation thresholds."""
        for n, iou in enumerate(self.ious):
            right = rows["validation_iou"][:, n] >= iou
            yield PairedRows("gt_known_loc", right, first, iou, "validation", "validation")


class IlsvrcError(MetricBase):
    """The localization error of ILSVRC, of images whose guesses have boxes, a class and a box each.

    `threshold` names the one that the boxes were cut at: {"kind": ..., "value": ...}.
    """

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="ilsvrc_loc_error",
            title="ILSVRC localization error",
            order=40,
            lower_is_better=True,
        ),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"guesses", "true"})
    order: ClassVar[int] = 10

    def __init__(self, threshold: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        self.threshold = threshold
        self.seed = seed
        self._error = GrowingArray(int)

    def with_settings(self, settings: EvaluationSettings) -> IlsvrcError:
        """Return an empty accumulator with these settings."""
        return IlsvrcError(settings.threshold, settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add an image whose first guesses have boxes."""
        assert evidence.guesses is not None
        assert evidence.true is not None
        self.add(evidence.guesses, evidence.label, evidence.true)

    def add(
        self,
        guesses: Sequence[tuple[int, Float[np.ndarray, "4"] | None]],
        label: int,
        true: Float[np.ndarray, "M 4"],
    ) -> None:
        """Add an image.

        Args:
            guesses: a class and its box or None, most likely first, of which five count.
            label: the class of the image.
            true: the annotated boxes.
        """
        self._error.append(ilsvrc_error(guesses, label, true))

    @property
    def error(self) -> Int[np.ndarray, n]:
        """Return the error of each image, as a position among the kinds of error."""
        return self._error.values

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the numbers over the selected images."""
        return mean_score(
            "ilsvrc_loc_error", chosen(self.error, select), iou=0.5,
            threshold=self.threshold, label=label, seed=self.seed,
        )  # fmt: skip
