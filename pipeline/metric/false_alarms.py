"""False alarms: images without an object that would get a box.

    false_alarms        share of the images of negative classes with an alarm of at least 0.5
    false_alarms_any    share of them with any alarm

The alarm of an image is the confidence of the best-scored box of its predicted class, and 0 where
the network predicts a class without an object: such an image has no box (`data.negatives`). It is
what happens to an image without label. Intervals are Wilson's (pipeline/ops/wilson.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase
from pipeline.metric.scores import chosen
from pipeline.ops.wilson import wilson_interval
from pipeline.types import EvaluationSettings, Evidence, EvidenceKind, MetricNumber, Score

if TYPE_CHECKING:
    from jaxtyping import Bool

MIN_CONFIDENCE = 0.5


class FalseAlarms(MetricBase):
    """Share of the images without an object that would get a box."""

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="false_alarms",
            title="images without an object with a box of confidence 0.5",
            row="no object, yet a box of confidence 0.5 (of any)",
            order=195,
            lower_is_better=True,
            names_threshold=False,
            beside=("false_alarms_any",),
        ),
        MetricNumber(
            name="false_alarms_any",
            title="images without an object with a box",
            in_table=False,
            lower_is_better=True,
        ),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"alarm"})
    order: ClassVar[int] = 10

    def __init__(self) -> None:
        self._alarms: list[float] = []

    def with_settings(self, settings: EvaluationSettings) -> FalseAlarms:
        """Return an empty accumulator."""
        return FalseAlarms()

    def update(self, evidence: Evidence) -> None:
        """Add an image without an object."""
        assert evidence.alarm is not None
        self._alarms.append(evidence.alarm)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute both shares over the selected images; without images, none."""
        alarms = chosen(np.array(self._alarms), select)
        n = len(alarms)
        counts = {
            "false_alarms": int((alarms >= MIN_CONFIDENCE).sum()),
            "false_alarms_any": int((alarms > 0).sum()),
        }
        return [
            Score(name, count / n, n, label=label, interval=wilson_interval(count, n))
            for name, count in counts.items()
            if n
        ]
