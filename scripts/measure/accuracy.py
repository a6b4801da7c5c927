"""Localization accuracy of a recipe from scratch: the numbers of metrics.json, by name and kind.

Seeds 0, 1, 2 unless `seeds=0` says otherwise; with several, mean over them and the spread. Each
runs in a folder of its own that is thrown away; `outputs=DIR` keeps it, so that another segmenter,
say, need not train and explain again. Other arguments go to the run:

    ./scripts/accuracy cub30 seeds=0 saliency=layercam_multiscale segmenter=grabcut outputs=kept

Numbers are named name@iou:threshold. `gt_known_loc` at the threshold used is of the boxes, else of
the maps; `refined:` of what the segmenter makes of map and image and cuts, where it does.
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
    """Run +experiment=best, or the experiment=... given, on the set, and read its numbers; with
    saliency=... +experiment=cam."""
    options = dict(argument.split("=", 1) for argument in arguments)
    seeds = [int(seed) for seed in options.pop("seeds", "0,1,2").split(",")]
    recipe = "cam" if "saliency" in options else "best"
    experiment, outputs = options.pop("experiment", recipe), options.pop("outputs", None)
    overrides = [f"{key}={value}" for key, value in options.items()]
    if name != "shapes" and not SHARED.is_dir():
        raise FileNotFoundError(2, "no such folder", str(SHARED))
    given = [f"+experiment={experiment}", *SETS[name], *overrides]
    found = [_metrics(given, seed, outputs) for seed in seeds]
    records = []
    for key in found[0]:
        values = [numbers[key] for numbers in found if key in numbers]
        spread = f", {min(values):.4f} to {max(values):.4f}" if len(values) > 1 else ""
        told = f"{name}, seeds {','.join(map(str, seeds))}{spread}"
        records.append(Record(key, mean(values), None, None, "fraction", told))
    return records


def _metrics(arguments: Sequence[str], seed: int, outputs: str | None) -> dict[str, float]:
    with ExitStack() as kept:
        folder = outputs or kept.enter_context(tempfile.TemporaryDirectory())
        command = [sys.executable, "-m", "pipeline", *arguments, f"seed={seed}"]
        subprocess.run([*command, f"outputs={folder}"], check=True)
        path = Path(folder) / "latest" / "metrics.json"
        return headline(json.loads(path.read_text(encoding="utf-8")))


def headline(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`name@iou:kind` -> value, of the main method and all classes together; then of its maps as
    the segmenter refined them, the boxes' own standing for the threshold used."""
    main = records[0]["method"]
    shown = [one for one in records if one["class"] is None and one["name"] in SHOWN]
    of_main = {key_of(one): one["value"] for one in shown if one["method"] == main}
    refined = {key_of(one): one["value"] for one in shown
               if str(one["method"]).startswith(f"{main}+")}  # fmt: skip
    if refined:
        first = next(one for one in shown if one["name"] == "gt_known_loc")
        used = f":{first['threshold']['kind']}"
        refined |= {key: value for key, value in of_main.items() if key.endswith(used)}
    return of_main | {f"refined:{key}": value for key, value in refined.items()}


def key_of(record: dict[str, Any]) -> str:
    """Names a number: gt_known_loc@0.5:oracle, and max_box_acc_v2 for the mean over IoUs."""
    if record["iou"] is None:
        return str(record["name"])
    kind = f":{record['threshold']['kind']}" if record["threshold"] else ""
    return f"{record['name']}@{record['iou']:g}{kind}"
