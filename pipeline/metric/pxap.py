"""PxAP and PxIoU: every pixel of every image, at every threshold, against masks.

    precision(t), recall(t)   of {value >= t}, over the pixels of all images together
    PxAP    sum over falling t of precision(t) * (recall(t) - recall(next higher t))
    PxIoU   TP / (TP + FP + FN), at its best t of the scored set (an oracle, and named so; the
            peak of the IoU-threshold curve of Zhang et al., "Rethinking Localization Map",
            2020), or at a t that is given

PxAP is the OpenImages protocol of Choe et al., "Evaluating Weakly Supervised Object Localization
Methods Right", CVPR 2020. Masks are uint8: 1 object, 0 background, 255 ignore; ignored pixels
count nowhere. Maps lie in [0, 1]. Thresholds are `components.THRESHOLDS` and 1. Larger images
weigh more: that protocol first brings all to 224x224.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase, oracle_at
from pipeline.metric.components import THRESHOLDS, levels_of
from pipeline.metric.scores import chosen
from pipeline.ops.bootstrap import draw_counts, middle, resampled
from pipeline.types import (
    EvaluationSettings,
    Evidence,
    EvidenceKind,
    MetricNumber,
    PairedRows,
    Score,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int, UInt8, UInt32

BINS = np.append(THRESHOLDS, 1.0)  # bin i holds values from BINS[i] to below BINS[i + 1]
SAMPLES = 1000
FEW_IMAGES = 6  # of which most samples have others that are the same
COLUMNS = 2 * len(BINS) + 1  # of a row: background by bin, objects by bin, object pixels missed
BLOCK = 32  # resamples whose curves are computed together: they stay in the caches of a core


def histograms(
    values: Float[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"]
) -> Int[np.ndarray, "2 1001"]:
    """How many pixels of background (0) and of the object (1) fall into each bin."""
    values, mask = np.asarray(values), np.asarray(mask)
    if values.shape != mask.shape or values.ndim != 2:
        raise ValueError(
            f"expected a map and a mask of one size, got {list(values.shape)} and "
            f"{list(mask.shape)}"
        )
    unknown = np.setdiff1d(mask, (0, 1, 255))
    if len(unknown):
        raise ValueError(f"mask: expected 0, 1 and 255 (ignore), got {unknown[:5].tolist()}")
    bins = levels_of(values).astype(np.int64)
    bins[values >= 1] = len(THRESHOLDS)
    return np.stack([np.bincount(bins[mask == kind], minlength=len(BINS)) for kind in (0, 1)])


def pxap(
    histogram: Float64[np.ndarray, "*b 2 T"], missed: Float64[np.ndarray, "*b"] | float = 0
) -> Float64[np.ndarray, "*b"]:
    """Average precision, of counts (or mean counts) by bin, lowest bin first.

    `missed`: object pixels that no threshold finds, of images without a map.
    """
    return _pxap(*_above(histogram), missed)


def _pxap(fp: np.ndarray, tp: np.ndarray, missed: np.ndarray | float) -> Float64[np.ndarray, "*b"]:
    objects = tp[..., -1:] + np.asarray(missed)[..., None]
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
    recall = np.divide(tp, objects, out=np.zeros_like(tp), where=objects > 0)
    recall[..., 1:] -= recall[..., :-1].copy()  # gained from one threshold to the next
    return np.asarray(np.einsum("...t,...t", precision, recall))


def pxiou(
    histogram: Float64[np.ndarray, "*b 2 T"], missed: Float64[np.ndarray, "*b"] | float = 0
) -> Float64[np.ndarray, "*b T"]:
    """IoU of {value >= t} with the object, at each threshold, lowest first."""
    return _pxiou(*_above(histogram), missed)


def _pxiou(
    fp: np.ndarray, tp: np.ndarray, missed: np.ndarray | float
) -> Float64[np.ndarray, "*b T"]:
    union = tp[..., -1:] + np.asarray(missed)[..., None] + fp
    iou = np.divide(tp, union, out=np.zeros_like(tp), where=union > 0)
    return np.asarray(iou[..., ::-1])


class PxAP(MetricBase):
    """PxAP and PxIoU; it keeps 8 kB an image.

    `threshold`: {"kind": ..., "value": t} for PxIoU at that t too, where t is a number.
    """

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="pxap", title="PxAP", order=150, names_threshold=False, comparison_order=70
        ),
        # At a threshold for all it is in metrics.json alone; its oracle is beside PxAP.
        MetricNumber(
            name="pxiou",
            title="PxIoU",
            order=160,
            hidden_kinds=("fixed", "auto", "validation"),
        ),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"pixels"})
    order: ClassVar[int] = 10
    row_names: ClassVar[Sequence[str]] = ("pixels",)

    def __init__(self, threshold: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        self.threshold = threshold
        self.seed = seed
        self._rows: list[np.ndarray] = []

    def with_settings(self, settings: EvaluationSettings) -> PxAP:
        """Return an empty accumulator with these settings."""
        threshold = settings.threshold
        if threshold is not None and isinstance(threshold["value"], list):
            threshold = None  # the halves of the images have a threshold each
        return PxAP(threshold, settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add an image whose annotations have masks."""
        assert evidence.pixels is not None
        self.append(evidence.pixels, evidence.missed_pixels)

    def add(self, values: Float[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"]) -> None:
        """Measure and add a map with the true mask of its image.

        Args:
            values: the map in [0, 1].
            mask: 1 the object, 0 background, 255 left out.
        """
        self.append(histograms(values, mask))

    def append(self, counts: Int[np.ndarray, "2 1001"], missed: int = 0) -> None:
        """Add an image that was measured already, by `histograms`.

        Args:
            counts: pixels of background, and of the object, by the value of the map.
            missed: pixels of the object that no threshold finds.
        """
        self._rows.append(np.append(counts, missed).astype(np.uint32))

    @property
    def pixels(self) -> UInt32[np.ndarray, "n 2003"]:
        """Return the pixels of each image: background by value, the object by value, missed."""
        return np.array(self._rows, np.uint32).reshape(-1, COLUMNS)

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return `pixels` [n, 2003]."""
        return {"pixels": self.pixels}

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterator[PairedRows]:
        """Yield PxAP, of the pixels of all images together."""
        pixels = rows["pixels"]
        # Up to version 0.2.0 no pixel was missed, and the rows had no column for it.
        missing = np.zeros((len(pixels), COLUMNS - pixels.shape[1]), pixels.dtype)
        yield PairedRows("pxap", np.hstack([pixels, missing]), _pxap_of)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute PxAP over the selected images."""
        rows = chosen(self.pixels, select)
        total, missed = _split(rows.sum(0, dtype=np.float64))
        if total[1].sum() + missed == 0:  # no object: nothing to find
            return []
        given = None if self.threshold is None else self.threshold["value"]
        # The first of our thresholds that is no lower than the one given.
        at = 0 if given is None else min(int(np.searchsorted(BINS, given)), len(BINS) - 1)
        means, of_sample = _resample(rows, self.seed)
        pxaps, bests, ious_at = _of_resamples(means, at)
        curve = pxiou(total, missed)
        best = int(curve.argmax())
        oracle = oracle_at(float(BINS[best]))
        found = [
            ("pxap", float(pxap(total, missed)), None, pxaps),
            ("pxiou", float(curve[best]), oracle, bests),
        ]
        if self.threshold is not None and given is not None:
            found.append(("pxiou", float(curve[at]), dict(self.threshold), ious_at))
        return [
            Score(name, value, len(rows), None, threshold, label, middle(spread[of_sample]))
            for name, value, threshold, spread in found
        ]


def _resample(
    rows: UInt32[np.ndarray, "n k"], seed: int
) -> tuple[Float64[np.ndarray, "m k"], Int[np.ndarray, samples]]:
    """Return the distinct means of rows over resampled images, and which of them each sample has.

    Of few images, as a class may have, there are few distinct samples: 10 of three.
    """
    counts = draw_counts(len(rows), SAMPLES, seed) if len(rows) <= FEW_IMAGES else None
    if counts is None:
        means = resampled(rows, SAMPLES, seed)
        return means, np.arange(len(means))
    distinct, of_sample = np.unique(counts, axis=1, return_inverse=True)
    means = distinct.T.astype(np.float64) @ rows.astype(np.float64) / len(rows)
    return means, of_sample.reshape(-1)


class PyramidPxAP(PxAP):
    """PxAP and PxIoU of the centred pyramid, the map that does not depend on the image."""

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="pyramid_pxap",
            title="centred pyramid",
            row="centred pyramid, PxAP",
            order=170,
            names_threshold=False,
            is_baseline=True,
        ),
        MetricNumber(name="pyramid_pxiou", title="centred pyramid", in_table=False),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"pyramid_pixels"})
    row_names: ClassVar[Sequence[str]] = ()

    def with_settings(self, settings: EvaluationSettings) -> PyramidPxAP:
        """Return an empty accumulator with these settings."""
        return PyramidPxAP(seed=settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add an image whose annotations have masks."""
        assert evidence.pyramid_pixels is not None
        self.append(evidence.pyramid_pixels)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute PxAP and PxIoU of the pyramid, under names of their own."""
        scores = super().compute(select, label)
        return [replace(score, name=f"pyramid_{score.name}") for score in scores]

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return nothing: it is the same in all runs on the same images."""
        return {}

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterator[PairedRows]:
        """Yield nothing: it is the same in all runs on the same images."""
        return iter(())


def _of_resamples(means: Float64[np.ndarray, "s k"], at: int) -> Float64[np.ndarray, "3 s"]:
    """Return PxAP, the best PxIoU and PxIoU at the threshold of index `at` of each resample."""
    found = np.empty((3, len(means)))
    for start in range(0, len(means), BLOCK):
        block = slice(start, start + BLOCK)
        counts, missed = _split(means[block])
        above = _above(counts)  # most of the time goes here: once for both
        curves = _pxiou(*above, missed)
        found[:, block] = _pxap(*above, missed), curves.max(-1), curves[:, at]
    return found


def _pxap_of(means: Float64[np.ndarray, "*b k"]) -> Float64[np.ndarray, "*b"]:
    return pxap(*_split(means))


def _split(
    rows: Float64[np.ndarray, "*b k"],
) -> tuple[Float64[np.ndarray, "*b 2 T"], Float64[np.ndarray, "*b"]]:
    """Return the counts by bin, and the object pixels that are missed."""
    return rows[..., :-1].reshape(*rows.shape[:-1], 2, -1), rows[..., -1]


def _above(
    histogram: Float64[np.ndarray, "*b 2 T"],
) -> tuple[Float64[np.ndarray, "*b T"], Float64[np.ndarray, "*b T"]]:
    """Background and object pixels at or above each threshold, highest first."""
    counts = np.asarray(histogram, np.float64)[..., ::-1].cumsum(-1)
    return counts[..., 0, :], counts[..., 1, :]
