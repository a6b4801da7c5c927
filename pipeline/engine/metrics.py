"""The metrics: the choices of conf/metric/, built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from pipeline.engine.choices import instantiate, list_choices, list_targets, read_choice
from pipeline.engine.sources import hash_sources
from pipeline.errors import UserError
from pipeline.protocols import Metric
from pipeline.types import MetricNumber


def load_metrics() -> dict[str, Metric]:
    """Return all metrics by the name of their choice."""
    return {
        name: cast(Metric, instantiate(f"metric {name}", read_choice("metric", name)))
        for name in list_choices("metric")
    }


def list_numbers(metrics: Iterable[Metric]) -> dict[str, MetricNumber]:
    """Return what metrics say of their numbers, by name.

    Raises UserError where two metrics say different things of a number.
    """
    numbers: dict[str, MetricNumber] = {}
    for metric in metrics:
        for number in metric.numbers:
            if numbers.setdefault(number.name, number) != number:
                raise UserError(
                    f"metric {type(metric).__name__}: another metric has a number named "
                    f"{number.name!r}, and says something else of it; give it another name"
                )
    return numbers


def metrics_key() -> dict[str, Any]:
    """Return what stands for the metrics in the key of a result: their choices and source."""
    nodes = {name: dict(read_choice("metric", name)) for name in list_choices("metric")}
    modules = [target.rpartition(".")[0] for target in list_targets(nodes)]
    return {"choices": nodes, "source": hash_sources(modules)}
