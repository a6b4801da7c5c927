"""What scored boxes and scored maps share: what was asked, which images a number is of, and the
rows that a paired comparison takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.engine.run import Run
from pipeline.metric.groups import NUMBERS, SIZES
from pipeline.metric.measurement import FIXED_THRESHOLD
from pipeline.results.comparison import Pairs, Place
from pipeline.types import Score

if TYPE_CHECKING:
    from jaxtyping import Bool

Group = Literal["class", "size", "number"]
Grouped = tuple[Score, Group | None]


@dataclass(frozen=True)
class Asked:
    """What the configuration says about how to score."""

    ious: Sequence[float]
    seed: int
    workers: int
    protocol: str
    threshold: Mapping[str, Any]  # of the fixed cut of maps

    @classmethod
    def of(cls, run: Run) -> Asked:
        config = run.config
        threshold_info = dict(run.segmenter().threshold_info)
        if threshold_info["kind"] != "fixed":
            threshold_info = {"kind": "fixed", "value": FIXED_THRESHOLD}
        return cls(
            tuple(config["evaluate"]["ious"]),
            config["seed"],
            run.workers,
            config["protocol"],
            threshold_info,
        )


@dataclass(frozen=True)
class Subset:
    """Which of the images, or units, a number is of."""

    group: Group | None
    label: str | None
    select: Bool[np.ndarray, n] | None


def subsets(
    labels: Sequence[int], sizes: Sequence[str], numbers: Sequence[str], classes: Sequence[str]
) -> Iterator[Subset]:
    """All; each class; by object size; by number of objects. Those that hold something."""
    yield Subset(None, None, None)
    own = np.array(labels, int)
    for n in np.unique(own[own >= 0]).tolist():
        yield Subset("class", classes[n], own == n)
    for group, given, every in (("size", sizes, SIZES), ("number", numbers, NUMBERS)):
        values = np.array(given, dtype=object)
        for name in every:
            if (select := np.asarray(values == name, bool)).any():
                yield Subset(group, f"{group}: {name}", select)  # type: ignore[arg-type]


class Scored:
    """One results file, or one folder of maps, measured."""

    classes: Sequence[str]
    notes: list[str]
    unit: str = "images"

    def scores(self, method: str) -> list[Grouped]:
        raise NotImplementedError

    def pairs(self) -> dict[Place, Pairs]:
        """The first is what the sentence is about."""
        raise NotImplementedError

    def curve(self) -> dict[str, Any]:
        return {"fixed": None, "lines": []}
