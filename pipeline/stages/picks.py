"""The thresholds that stage calibrate picked: which there are, and which one an image is cut at.

Apart from the stage, so that who cuts or scores at them does not hang on how they are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.records import Problem
from pipeline.run import Run

FEWEST = 10  # images with boxes that a threshold may stand on
USED_IOU = 0.5  # whose threshold segmenter.threshold=validation cuts at


def read(folder: Path) -> dict[str, Any]:
    return dict(store.read_json(folder / "thresholds.json"))


def is_used(run: Run) -> bool:
    """Whether the maps are cut at the threshold that is chosen here."""
    return str(run.segmenter().stands_on["kind"]) == "validation"


def too_few(count: int) -> Problem:
    return Problem(
        f"segmenter.threshold=validation: {count} images have boxes to choose it on, and it wants "
        f"{FEWEST} at least; calibrate.boxes=FILE takes some that you draw, "
        "segmenter.threshold=auto needs none"
    )


def fold_of(id: str) -> int:
    """0 or 1, always the same for a name."""
    return int(store.hash_of(["fold", id]), 16) & 1


def value_for(values: Sequence[float], id: str) -> float:
    """The threshold of an image: that of its half, where the halves have each their own."""
    return values[fold_of(id) if len(values) > 1 else 0]


def told(values: Sequence[float], source: str) -> dict[str, Any]:
    """As metrics.json names it."""
    value = values[0] if len(values) == 1 else list(values)
    return {"kind": "validation", "value": value, "source": source}
