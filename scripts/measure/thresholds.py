"""Comparison of thresholds: GT-known Loc at IoU 0.5 for fixed 0.2, `auto`, `validation` and oracle.

Numbers are given for each data set and pooled over all sets. The rule of `auto` was chosen on
CUB-30 train, every second image of imagenette and the held-back part of shapes; the numbers are of
the other images: CUB-30 test, the other half of imagenette, shapes val. Pooled is the mean over all
their images, where the oracle has a separate threshold for each set; the interval is that of the
paired bootstrap within each set, where the oracle is chosen anew in each draw.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.formats.arrays import read_arrays
from pipeline.metric.components import THRESHOLDS
from pipeline.metric.max_box_acc import best_threshold
from pipeline.ops.bootstrap import BitRows, middle, resampled
from scripts.measure.records import Record
from scripts.measure.runs import CUB, IMAGENETTE, compose

SETS: dict[str, tuple[str, ...]] = {
    "cub30": CUB,
    "imagenette": IMAGENETTE,
    "shapes": ("data=shapes",),
}
METHODS = "cam,cam_positive,layercam_below"
STAGES = ("train", "refine", "explain", "calibrate", "localize", "evaluate")
KINDS = ("fixed", "auto", "validation")


def run(*arguments: str) -> list[Record]:
    """Return the records of each method and data set, then the pooled ones.

    Args:
        arguments: `saliency=a,b` (methods), `experiment=best` (another recipe), `sets=a,b` (only
            these data sets), and overrides of the runs.
    """
    options = dict(argument.split("=", 1) for argument in arguments)
    recipe, names = options.pop("experiment", "cam"), options.pop("sets", ",".join(SETS)).split(",")
    asked = options.pop("saliency", METHODS if recipe == "cam" else "")
    overrides = [f"{key}={value}" for key, value in options.items()]
    records = []
    for method in asked.split(","):
        given = [*([f"saliency={method}"] if method else []), *overrides]
        method = method or recipe
        sets = {name: Reached.of(recipe, name, *given) for name in names}
        for name, reached in sets.items():
            records += reached.records(f"{name}/{method}")
        records += pooled(method, list(sets.values()))
    return records


class Reached:
    """Which images of a data set are correct at each kind of threshold, a row for each image."""

    def __init__(self, right: dict[str, np.ndarray], curve: np.ndarray) -> None:
        self.right, self.curve = right, curve

    def __len__(self) -> int:
        return len(self.curve)

    @classmethod
    def of(cls, recipe: str, name: str, *overrides: str) -> Reached:
        """Run a recipe on a data set, and read its result."""
        made = compose(recipe, *SETS[name], *overrides)
        for stage in STAGES:
            if stage in made.config["stages"]:
                folder, _ = made.get_or_create(stage)
        return cls.read(folder, only_even=name == "imagenette")

    @classmethod
    def read(cls, evaluated: Path, only_even: bool = False) -> Reached:
        """Read the rows of a result of stage evaluate; `only_even`: of every second image."""
        arrays, notes = read_arrays(evaluated / "rows.safetensors")
        curve = BitRows.of(arrays["max_box_acc"], len(THRESHOLDS))[:]
        column = list(notes["ious"]).index(0.5)
        right = {
            "fixed": arrays["iou"] >= 0.5,
            "auto": arrays["auto_iou"] >= 0.5,
            "validation": arrays["validation_iou"][:, column] >= 0.5,
        }
        rank = np.argsort(np.argsort(notes["ids"]))
        keep = rank % 2 == 0 if only_even else np.ones(len(rank), bool)
        return cls({kind: rows[keep] for kind, rows in right.items()}, curve[keep])

    def records(self, name: str) -> list[Record]:
        """Return the share of correct images at each kind of threshold, and at the oracle."""
        best, at = best_threshold(self.curve.mean(0, dtype=np.float64))
        note = f"n={len(self)}"
        records = [
            Record(f"{name}:{kind}", float(self.right[kind].mean()), None, None, "fraction", note)
            for kind in KINDS
        ]
        oracle = Record(f"{name}:oracle", best, None, None, "fraction", f"{note} @{at:.2f}")
        return [*records, oracle]


def pooled(method: str, sets: list[Reached]) -> list[Record]:
    """Return each kind of threshold (`ours`) and the oracle (`theirs`) over all sets.

    The note has the difference in points with its interval.
    """
    n = sum(map(len, sets))
    oracle = sum(len(reached) * float(reached.curve.mean(0).max()) for reached in sets) / n
    records = []
    for kind in KINDS:
        rng = np.random.default_rng(0)
        ours = sum(int(reached.right[kind].sum()) for reached in sets) / n
        spread = np.zeros(1000)
        for reached in sets:
            columns = [reached.right[kind][:, None], reached.curve]
            both = np.concatenate(columns, 1).astype(np.uint8)
            drawn = resampled(both, 1000, rng)
            spread += (drawn[:, 0] - drawn[:, 1:].max(1)) * len(reached) / n
        low, high = middle(spread)
        points = f"{100 * (ours - oracle):+.1f} points, 95 %: {100 * low:.1f} to {100 * high:.1f}"
        records.append(
            Record(f"pooled/{method}:{kind}", ours, oracle, None, "fraction",
                   f"oracle of each set; {points}, n={n}")
        )  # fmt: skip
    return records
