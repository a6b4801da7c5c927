"""What most metrics have in common.

They have no comparison, no curve, no notes and no numbers of classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.types import EvaluationSettings, Evidence, EvidenceKind, MetricNumber, PairedRows

if TYPE_CHECKING:
    from jaxtyping import Bool

    from pipeline.protocols import Metric
    from pipeline.types import Score


class MetricBase:
    """A metric of a single file: give `numbers`, `needs`, `with_settings`, `update`, `compute`.

    To be compared between two runs, give `row_names`, `rows` and `pairs` as well. The contract is
    `pipeline.protocols.Metric`.
    """

    numbers: ClassVar[Sequence[MetricNumber]]
    needs: ClassVar[frozenset[EvidenceKind]]
    order: ClassVar[int] = 1000
    row_names: ClassVar[Sequence[str]] = ()

    def with_settings(self, settings: EvaluationSettings) -> Metric:
        """Return an empty accumulator with these settings."""
        raise NotImplementedError

    def update(self, evidence: Evidence) -> None:
        """Add evidence, which holds what the metric needs."""
        raise NotImplementedError

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the numbers over the selected evidence; None: over all."""
        raise NotImplementedError

    def compute_classes(self) -> list[Score]:
        """Return nothing: the numbers of a class are those of its images."""
        return []

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return nothing: the metric is not compared."""
        return {}

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterable[PairedRows]:
        """Return nothing: the metric is not compared."""
        return ()

    def curve(self) -> Sequence[Mapping[str, Any]]:
        """Return nothing: the metric has no curve for the report."""
        return ()

    def notes(self) -> list[str]:
        """Return nothing: all numbers could be computed."""
        return []


def kind_of(threshold: Mapping[str, Any] | None) -> str:
    """Return the kind of a threshold as metrics.json names it; empty where there is none."""
    return "" if threshold is None else str(threshold["kind"])


def oracle_at(value: float | Sequence[float]) -> dict[str, Any]:
    """Return the threshold of a number that was maximized on the scored images themselves.

    Args:
        value: the threshold, or one for each IoU of a mean.
    """
    return {"kind": "oracle", "value": value}
