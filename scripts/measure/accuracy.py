"""Localization accuracy of a recipe from scratch: the numbers of metrics.json, by name and kind.

Seeds 0, 1, 2 unless `seeds=0` says otherwise; with several, mean over them and the spread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
    """Run +experiment=cam, or the experiment=... given, on the set, and read its numbers."""
    options = dict(argument.split("=", 1) for argument in arguments)
    seeds = [int(seed) for seed in options.pop("seeds", "0,1,2").split(",")]
    experiment = options.pop("experiment", "cam")
    overrides = [f"{key}={value}" for key, value in options.items()]
    if name != "shapes" and not SHARED.is_dir():
        raise FileNotFoundError(2, "no such folder", str(SHARED))
    found = [_metrics([f"+experiment={experiment}", *SETS[name], *overrides], s) for s in seeds]
    records = []
    for key in found[0]:
        values = [numbers[key] for numbers in found if key in numbers]
        spread = f", {min(values):.4f} to {max(values):.4f}" if len(values) > 1 else ""
        told = f"{name}, seeds {','.join(map(str, seeds))}{spread}"
        records.append(Record(key, mean(values), None, None, "fraction", told))
    return records


def _metrics(arguments: Sequence[str], seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as outputs:
        command = [sys.executable, "-m", "pipeline", *arguments, f"seed={seed}"]
        subprocess.run([*command, f"outputs={outputs}"], check=True)
        path = Path(outputs) / "latest" / "metrics.json"
        return headline(json.loads(path.read_text(encoding="utf-8")))


def headline(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`name@iou:kind` -> value, of the main method and all classes together."""
    main = records[0]["method"]
    return {
        key_of(record): record["value"]
        for record in records
        if record["class"] is None and record["method"] == main and record["name"] in SHOWN
    }


def key_of(record: dict[str, Any]) -> str:
    """Names a number: gt_known_loc@0.5:oracle, and max_box_acc_v2 for the mean over IoUs."""
    if record["iou"] is None:
        return str(record["name"])
    kind = f":{record['threshold']['kind']}" if record["threshold"] else ""
    return f"{record['name']}@{record['iou']:g}{kind}"
