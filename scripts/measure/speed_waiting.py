"""What it costs how OpenMP's threads wait: passively, or as OpenMP's libraries do by default.

    python -m scripts.measure bench waiting [load=4] [images=800]

One epoch of the embedded set is trained with each, in turn, in processes of its own: on the cores
as they are, and beside so many processes that compute without end. Processor time counts user and
system mode. The ratios are above 1 where the passive wait, the command line's default, costs less.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from pipeline.engine.passive_wait import OTHERS, VALUE, VARIABLE
from scripts.measure.records import Record

ROUNDS = 3
# What libgomp and libomp do where no variable is set: 300,000 turns of a loop, and 200 ms.
SPINNING = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
PASSIVE = {VARIABLE: VALUE}


def run(*given: str) -> list[Record]:
    """Return the records of processor and wall time, without and with a load.

    Args:
        given: another load or number of images, as load=8 images=400.
    """
    wanted = {"load": "4", "images": "800"} | dict(each.split("=", 1) for each in given)
    records = []
    for count in dict.fromkeys((0, int(wanted["load"]))):
        with _busy(count):
            rounds = [(_train(PASSIVE, wanted["images"]), _train(SPINNING, wanted["images"]))
                      for _ in range(ROUNDS)]  # fmt: skip
        where = (
            f"{count} busy processes beside, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}"
        )
        for n, what in enumerate(("wall", "processor")):
            ours, theirs = ([pair[k][n] for pair in rounds] for k in range(2))
            ratio = median(b / a for a, b in zip(ours, theirs, strict=True))
            name, note = f"{what}, {count} busy", f"spinning threads; {where}"
            records.append(Record(name, median(ours), median(theirs), ratio, "s", note))
    return records


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Let so many processes compute without end meanwhile."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _train(variables: dict[str, str], images: str) -> tuple[float, float]:
    """Train for an epoch; return wall and processor time of the process."""
    kept = {name: value for name, value in os.environ.items() if name not in (VARIABLE, *OTHERS)}
    with tempfile.TemporaryDirectory() as outputs:
        command = [sys.executable, "-m", "pipeline", "+experiment=cam", "stages=[train]",
                   "train.epochs=1", f"data.images={images}", f"outputs={outputs}"]  # fmt: skip
        before, started = sum(os.times()[2:4]), time.time()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**kept, **variables})
        return time.time() - started, sum(os.times()[2:4]) - before
