"""Localization accuracy of a recipe from scratch: the numbers of metrics.json, by name and kind.

The seeds are 0, 1 and 2, or those of `seeds=0,1`; of several seeds the mean and the spread are
given. Each run has a temporary folder; `outputs=DIR` keeps its results, so that a run with another
segmenter need not train and explain again. Other arguments are passed to the run:

    ./scripts/accuracy cub30 seeds=0 saliency=layercam_multiscale segmenter=grabcut outputs=kept

Numbers are named name@iou:threshold. `gt_known_loc` at the threshold used is measured on the boxes,
at other thresholds on the maps; with the prefix `refined:` on the maps that the segmenter refined.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import mean
from typing import Any

from scripts.measure.records import Record
from scripts.measure.runs import CUB, IMAGENETTE, SHARED

SETS: dict[str, tuple[str, ...]] = {
    "shapes": ("data=shapes",),
    "imagenette": IMAGENETTE,
    "cub30": CUB,
}
SHOWN = ("max_box_acc_v2", "gt_known_loc", "top1_loc", "classification_top1")


def run(name: str, *arguments: str) -> list[Record]:
    """Run a recipe on a data set and return its numbers, as the mean over seeds.

    Args:
        name: A data set of SETS.
        arguments: `seeds=`, `outputs=`, `experiment=` (by default `best`, with `saliency=...`
            `cam`), and overrides of the run.

    Raises:
        FileNotFoundError: The data set is not on this machine.
    """
    options = dict(argument.split("=", 1) for argument in arguments)
    seeds = [int(seed) for seed in options.pop("seeds", "0,1,2").split(",")]
    recipe = "cam" if "saliency" in options else "best"
    experiment, outputs = options.pop("experiment", recipe), options.pop("outputs", None)
    overrides = [f"{key}={value}" for key, value in options.items()]
    if name != "shapes" and not SHARED.is_dir():
        raise FileNotFoundError(2, "no such folder", str(SHARED))
    given = [f"+experiment={experiment}", *SETS[name], *overrides]
    metrics = [_metrics(given, seed, outputs) for seed in seeds]
    results = [headline(numbers) for numbers in metrics]
    computed = f"{metrics[0][0]['precision']} on {metrics[0][0]['device']}"
    records = []
    for key in results[0]:
        values = [numbers[key] for numbers in results if key in numbers]
        spread = f", {min(values):.4f} to {max(values):.4f}" if len(values) > 1 else ""
        note = f"{name}, {computed}, seeds {','.join(map(str, seeds))}{spread}"
        records.append(Record(key, mean(values), None, None, "fraction", note))
    return records


def _metrics(arguments: Sequence[str], seed: int, outputs: str | None) -> list[dict[str, Any]]:
    """Run a recipe and return its metrics.json."""
    with ExitStack() as kept:
        folder = outputs or kept.enter_context(tempfile.TemporaryDirectory())
        command = [sys.executable, "-m", "pipeline", *arguments, f"seed={seed}"]
        subprocess.run([*command, f"outputs={folder}"], check=True)
        path = Path(folder) / "latest" / "metrics.json"
        return list(json.loads(path.read_text(encoding="utf-8")))


def headline(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return `name@iou:kind` -> value of the main method, then of its refined maps.

    At the threshold used, the numbers of the refined maps are those of the boxes.
    """
    main = records[0]["method"]
    shown = [record for record in records if record["class"] is None and record["name"] in SHOWN]
    of_main = {key_of(record): record["value"] for record in shown if record["method"] == main}
    refined = {key_of(record): record["value"] for record in shown
               if str(record["method"]).startswith(f"{main}+")}  # fmt: skip
    if refined:
        first = next(record for record in shown if record["name"] == "gt_known_loc")
        used = f":{first['threshold']['kind']}"
        refined |= {key: value for key, value in of_main.items() if key.endswith(used)}
    return of_main | {f"refined:{key}": value for key, value in refined.items()}


def key_of(record: dict[str, Any]) -> str:
    """Return the name of a number, as gt_known_loc@0.5:oracle; without IoU for a mean over IoUs."""
    if record["iou"] is None:
        return str(record["name"])
    kind = f":{record['threshold']['kind']}" if record["threshold"] else ""
    return f"{record['name']}@{record['iou']:g}{kind}"
