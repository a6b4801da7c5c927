"""The accuracy lost by bfloat16: each method in float32 and bf16, on the same images and network.

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
    """Return the differences between bf16 and float32 for each data set and method.

    Args:
        arguments: `sets=imagenette,cub30`, `methods=a,b`, and overrides of the runs.

    Raises:
        FileNotFoundError: The data sets are not on this machine.
    """
    options = dict(argument.split("=", 1) for argument in arguments)
    sets = options.pop("sets", "imagenette").split(",")
    methods = options.pop("methods", ",".join(METHODS)).split(",")
    if not SHARED.is_dir():
        raise FileNotFoundError(2, "no such folder", str(SHARED))
    records = []
    for name in sets:
        for method in methods:
            command = ["+experiment=cam", *SETS[name], f"saliency={method}"]
            command += [f"{key}={value}" for key, value in options.items()]
            records += _compare_precisions(name, method, command)
    return records


def _compare_precisions(name: str, method: str, command: list[str]) -> list[Record]:
    with tempfile.TemporaryDirectory() as outputs:
        latest = f"{outputs}/latest"
        _pipeline(*command, "precision=float32", f"outputs={outputs}")
        first = str(Path(latest).resolve())
        _pipeline(*command, "precision=bf16", f"outputs={outputs}", f"checkpoint={first}",
                  f"against={first}")  # fmt: skip
        comparison = json.loads((Path(latest) / "comparison.json").read_text(encoding="utf-8"))
    wanted = {("difference:max_box_acc_v2", "oracle"), ("difference:gt_known_loc", "validation")}
    records = []
    for row in (difference["record"] for difference in comparison[0]["differences"]):
        kind = row["threshold"]["kind"] if row["threshold"] else None
        if (row["name"], kind) in wanted and row["iou"] in (None, 0.5) and row["class"] is None:
            low, high = row["interval"]
            note = f"{name}, bf16 - float32, {low:+.4f} to {high:+.4f}, n={row['n']}"
            key = f"{method}.{row['name'].partition(':')[2]}:{kind}"
            records.append(Record(key, row["value"], None, None, "fraction", note))
    return records


def _pipeline(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline", *arguments], check=True, stdout=sys.stderr)
