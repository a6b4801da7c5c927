"""What bfloat16 costs: each method in float32 and in bf16, on the same images and one network.

Differences of MaxBoxAccV2 (oracle) and GT-known Loc@0.5 (validation threshold), with the paired
interval that stage compare gives.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.measure.accuracy import SETS
from scripts.measure.records import Record
from scripts.measure.runs import SHARED

METHODS = ("cam", "gradcam", "gradcam_plus_plus", "xgradcam", "hirescam", "layercam",
           "layercam_below", "layercam_multiscale", "eigencam", "ddt")  # fmt: skip


def run(*arguments: str) -> list[Record]:
    """`sets=imagenette,cub30` and `methods=...` choose; other arguments go to the runs."""
    options = dict(argument.split("=", 1) for argument in arguments)
    sets = options.pop("sets", "imagenette").split(",")
    methods = options.pop("methods", ",".join(METHODS)).split(",")
    if not SHARED.is_dir():
        raise FileNotFoundError(2, "no such folder", str(SHARED))
    found = []
    for name in sets:
        for method in methods:
            command = ["+experiment=cam", *SETS[name], f"saliency={method}"]
            command += [f"{key}={value}" for key, value in options.items()]
            found += _compared(name, method, command)
    return found


def _compared(name: str, method: str, command: list[str]) -> list[Record]:
    with tempfile.TemporaryDirectory() as outputs:
        latest = f"{outputs}/latest"
        _pipeline(*command, "precision=float32", f"outputs={outputs}")
        first = str(Path(latest).resolve())
        _pipeline(*command, "precision=bf16", f"outputs={outputs}", f"checkpoint={first}",
                  f"against={first}")  # fmt: skip
        comparison = json.loads((Path(latest) / "comparison.json").read_text(encoding="utf-8"))
    wanted = {("difference:max_box_acc_v2", "oracle"), ("difference:gt_known_loc", "validation")}
    found = []
    for one in (difference["record"] for difference in comparison[0]["differences"]):
        kind = one["threshold"]["kind"] if one["threshold"] else None
        if (one["name"], kind) in wanted and one["iou"] in (None, 0.5) and one["class"] is None:
            low, high = one["interval"]
            told = f"{name}, bf16 - float32, {low:+.4f} to {high:+.4f}, n={one['n']}"
            key = f"{method}.{one['name'].partition(':')[2]}:{kind}"
            found.append(Record(key, one["value"], None, None, "fraction", told))
    return found


def _pipeline(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline", *arguments], check=True, stdout=sys.stderr)
