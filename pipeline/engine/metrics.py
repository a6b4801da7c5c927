"""The metrics: the choices of conf/metric/, built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast, get_args

from pipeline.engine.choices import instantiate, list_choices, list_targets, read_choice
from pipeline.engine.sources import hash_sources
from pipeline.errors import UserError, suggest_choices
from pipeline.protocols import Metric
from pipeline.types import EvidenceKind, MetricNumber


def load_metrics() -> dict[str, Metric]:
    """Return all metrics by the name of their choice.

    Raises UserError for one that needs evidence of a kind that there is not, and where two say
    different things of a number.
    """
    metrics = {name: _load(name) for name in list_choices("metric")}
    list_numbers(metrics.values())
    return metrics


def check_outside_metrics() -> None:
    """Refuse a metric of the user that is none, before hours of training; ours are not imported."""
    for name in list_choices("metric"):
        if not str(read_choice("metric", name)["_target_"]).startswith("pipeline."):
            _load(name)


def _load(name: str) -> Metric:
    metric = cast(Metric, instantiate(f"metric {name}", read_choice("metric", name)))
    known: tuple[str, ...] = get_args(EvidenceKind)
    for kind in metric.needs:
        if kind not in known:
            raise UserError(
                f"metric {name}: it needs evidence of the kind {kind!r}; "
                f"{suggest_choices(kind, known)}"
            )
    if not metric.needs:
        raise UserError(f"metric {name}: it needs no evidence; kinds: {', '.join(known)}")
    return metric


def list_numbers(metrics: Iterable[Metric]) -> dict[str, MetricNumber]:
    """Return the descriptions of the numbers of all metrics, by name.

    Raises:
        UserError: two metrics describe a number differently.
    """
    numbers: dict[str, MetricNumber] = {}
    for metric in metrics:
        for number in metric.numbers:
            if numbers.setdefault(number.name, number) != number:
                raise UserError(
                    f"metric {type(metric).__name__}: another metric has a number named "
                    f"{number.name!r}, and describes it differently; give it another name"
                )
    return numbers


def metrics_key() -> dict[str, Any]:
    """Return the choices of metrics and the hashes of their source, for a cache key."""
    nodes = {name: dict(read_choice("metric", name)) for name in list_choices("metric")}
    modules = [target.rpartition(".")[0] for target in list_targets(nodes)]
    return {"choices": nodes, "source": hash_sources(modules)}
