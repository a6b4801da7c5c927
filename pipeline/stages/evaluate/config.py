"""Options of stage evaluate."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option

MIN_IOU = 1e-9


@dataclass
class EvaluateOptions:
    """What is measured."""

    ious: list[float] = option(
        [0.3, 0.5, 0.7],
        "an object is found where the IoU is at least this",
        low=MIN_IOU,
        high=1,
        required=True,
        expected="fractions between 0 and 1, as [0.3,0.5,0.7]",
    )
    crowds: str = option(
        "ignore",
        "ignore | objects: what iscrowd means in annotations=; of data=folder it is data.crowds",
        choices=("ignore", "objects"),
    )
