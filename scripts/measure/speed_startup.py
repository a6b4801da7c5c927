"""Time of commands that have nothing to compute, relative to importing torch and hydra only.

`help` may take 1.5 times as long; `all_done`, a run whose results all exist, 3 times. Measured are
whole processes, which alternate; the medians count.
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
    """Return the median times of both commands with their limits."""
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
        ratios = [limit / spent for limit, spent in zip(limits, taken[name], strict=True)]
        note = f"the limit: {times:g} x python -c 'import torch, hydra'"
        records.append(Record(name, median(taken[name]), median(limits), median(ratios), "s", note,
                              min(ratios), max(ratios)))  # fmt: skip
    return records


def _seconds(command: list[str]) -> float:
    """Return the wall-clock time of a Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
