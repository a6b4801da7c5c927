"""What a metric must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from jaxtyping import Bool

    from pipeline.types import (
        EvaluationSettings,
        Evidence,
        EvidenceKind,
        MetricNumber,
        PairedRows,
        Score,
    )


class Metric(Protocol):
    """What is computed from evidence about images, and how it is shown and compared.

    A choice of conf/metric/ is built without data; `with_settings` gives an accumulator of it.
    `pipeline.metric.base.MetricBase` has the methods that are the same for most metrics.
    """

    numbers: ClassVar[Sequence[MetricNumber]]
    """All numbers that it can compute. Several metrics may compute a number, each at another
    threshold; their descriptions of it are then equal."""
    needs: ClassVar[frozenset[EvidenceKind]]
    """The kinds of evidence that it needs: it gets the evidence that holds all of these."""
    order: ClassVar[int]
    """Place of its records in metrics.json among those of metrics with the same needs."""
    row_names: ClassVar[Sequence[str]]
    """The arrays of `rows` that `pairs` needs."""

    def with_settings(self, settings: EvaluationSettings) -> Metric:
        """Return an empty accumulator with these settings.

        Args:
            settings: what all metrics of the evaluation share.
        """

    def update(self, evidence: Evidence) -> None:
        """Add a piece of evidence.

        Args:
            evidence: what was measured in an image, or of a class in it; it holds all of `needs`.
        """

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the numbers over the selected evidence; without evidence, none.

        Args:
            select: which evidence, in the order of `update`; None: all.
            label: the name of the selection in the scores.

        Returns:
            The numbers; none where there is no evidence.
        """

    def compute_classes(self) -> list[Score]:
        """Compute numbers of classes that are not those of a selection of images."""

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return arrays by name with a row for each piece of evidence, for a paired comparison."""

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterable[PairedRows]:
        """Return what a paired comparison takes from the arrays of `rows`.

        Args:
            rows: the arrays of `rows`, of the same images in the same order for both runs.
        """

    def curve(self) -> Sequence[Mapping[str, Any]]:
        """Return lines for the report, each with `iou` and `points` of two shares.

        They are over the threshold, or, with `axis` "recall", of precision over recall.
        """

    def notes(self) -> list[str]:
        """Return why numbers could not be computed, a line each."""
