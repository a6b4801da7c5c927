"""Which threshold, honestly: GT-known Loc at IoU 0.5 of the fixed 0.2, `auto`, `validation` and the
oracle, on each set and pooled over all of them.

The rule of `auto` was chosen on CUB-30 train, every second image of imagenette and the held-back
part of shapes; here are the others: CUB-30 test, the other half of imagenette, shapes val. Pooled
is the mean over all their images, the oracle having a threshold of its own for each set; the
interval is that of the paired bootstrap within each set, the oracle chosen anew in every draw.
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
    """`saliency=a,b`: of these methods; `experiment=best`: of this recipe's; `sets=a,b`: on these
    sets alone; other arguments go to the runs."""
    options = dict(argument.split("=", 1) for argument in arguments)
    recipe, names = options.pop("experiment", "cam"), options.pop("sets", ",".join(SETS)).split(",")
    asked = options.pop("saliency", METHODS if recipe == "cam" else "")
    overrides = [f"{key}={value}" for key, value in options.items()]
    found = []
    for method in asked.split(","):
        given = [*([f"saliency={method}"] if method else []), *overrides]
        method = method or recipe
        sets = {name: Reached.of(recipe, name, *given) for name in names}
        for name, one in sets.items():
            found += one.records(f"{name}/{method}")
        found += pooled(method, list(sets.values()))
    return found


class Reached:
    """Which images of a set are right at each kind of threshold, a row each."""

    def __init__(self, right: dict[str, np.ndarray], curve: np.ndarray) -> None:
        self.right, self.curve = right, curve

    def __len__(self) -> int:
        return len(self.curve)

    @classmethod
    def of(cls, recipe: str, name: str, *overrides: str) -> Reached:
        made = compose(recipe, *SETS[name], *overrides)
        for stage in STAGES:
            if stage in made.config["stages"]:
                folder, _ = made.get_or_create(stage)
        return cls.read(folder, only_even=name == "imagenette")

    @classmethod
    def read(cls, evaluated: Path, only_even: bool = False) -> Reached:
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
        return cls({kind: one[keep] for kind, one in right.items()}, curve[keep])

    def records(self, name: str) -> list[Record]:
        best, at = best_threshold(self.curve.mean(0, dtype=np.float64))
        told = f"n={len(self)}"
        found = [
            Record(f"{name}:{kind}", float(self.right[kind].mean()), None, None, "fraction", told)
            for kind in KINDS
        ]
        return [*found, Record(f"{name}:oracle", best, None, None, "fraction", f"{told} @{at:.2f}")]


def pooled(method: str, sets: list[Reached]) -> list[Record]:
    """Each kind against the oracle: `ours`, `theirs`, and the difference with its interval."""
    n = sum(map(len, sets))
    oracle = sum(len(one) * float(one.curve.mean(0).max()) for one in sets) / n
    found = []
    for kind in KINDS:
        rng = np.random.default_rng(0)
        ours = sum(int(one.right[kind].sum()) for one in sets) / n
        spread = np.zeros(1000)
        for one in sets:
            both = np.concatenate([one.right[kind][:, None], one.curve], 1).astype(np.uint8)
            drawn = resampled(both, 1000, rng)
            spread += (drawn[:, 0] - drawn[:, 1:].max(1)) * len(one) / n
        low, high = middle(spread)
        points = f"{100 * (ours - oracle):+.1f} points, 95 %: {100 * low:.1f} to {100 * high:.1f}"
        found.append(
            Record(f"pooled/{method}:{kind}", ours, oracle, None, "fraction",
                   f"oracle of each set; {points}, n={n}")
        )  # fmt: skip
    return found
