"""How long a command takes that has nothing to compute, against importing torch and hydra alone.

`help`: at most 1.5 times that; `all_done`, a run in which everything is done: at most 3 times.
Whole processes, in turn, medians.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from statistics import median

from scripts.measure.records import Record

ROUNDS = 7
DONE = ("+experiment=cam", "data.images=200", "data.val_images=50", "train.epochs=1")


def run() -> list[Record]:
    with tempfile.TemporaryDirectory() as outputs:
        commands = {
            "imports": ["-c", "import torch, hydra"],
            "help": ["-m", "pipeline", "--help"],
            "all_done": ["-m", "pipeline", *DONE, f"outputs={outputs}"],
        }
        for command in commands.values():
            _seconds(command)
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                taken[name].append(_seconds(command))
    records = []
    for name, times in (("help", 1.5), ("all_done", 3.0)):
        limits = [times * seconds for seconds in taken["imports"]]
        ratio = median(limit / own for limit, own in zip(limits, taken[name], strict=True))
        told = f"the limit: {times:g} x python -c 'import torch, hydra'"
        records.append(Record(name, median(taken[name]), median(limits), ratio, "s", told))
    return records


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
