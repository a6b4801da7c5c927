"""Wall and processor time of each part of the main job, as it is after an installation.

    python -m scripts.measure bench main_job [train.epochs=1 ...]

`first` is a run of `+experiment=cam` with empty caches of compiled functions and parsed sources;
`later` is the same with these caches and a new folder of outputs; `again` the same once more,
where all results exist. Arguments are those of `python -m pipeline`. Processor time is that of all
threads and child processes, in user and system mode: it changes little where others use the cores.

`bare steps` is what the forward and backward passes and SGD's steps of the whole training take in
this process, without images, evaluation or logs; only for a network without weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from scripts.measure.records import Record
from scripts.measure.runs import compose

STEPS = 10  # that are timed; all take the same
Times = Mapping[str, Sequence[float]]  # wall and processor time by part


def run(*given: str) -> list[Record]:
    """Print a table of all parts, and return its records: processor time, with wall time noted.

    Args:
        given: overrides, as `python -m pipeline` takes them.
    """
    with tempfile.TemporaryDirectory() as folder:
        caches = {"NUMBA_CACHE_DIR": f"{folder}/numba", "XDG_CACHE_HOME": f"{folder}/cache"}
        runs = {
            name: _time_run(Path(folder), caches, (*given, f"outputs={folder}/{outputs}"))
            for name, outputs in (("first", "first"), ("later", "later"), ("again", "later"))
        }
    bare = _time_bare_steps(given)
    print(_table(runs, bare))
    records = [
        Record(f"{name}, {part}", seconds, None, None, "s", f"processor; wall {wall:.2f} s")
        for name, times in runs.items()
        for part, (wall, seconds) in times.items()
    ]
    if bare is not None:
        wall, seconds = bare
        note = f"processor; wall {wall:.2f} s"
        records.append(Record("bare steps", seconds, None, None, "s", note))
    return records


def _time_run(folder: Path, caches: Mapping[str, str], arguments: Sequence[str]) -> Times:
    """Run the main job in a process; return the times of its parts and of the whole process."""
    file = folder / "times.json"
    command = [sys.executable, "-m", "scripts.measure.stage_times", str(file), str(time.time()),
               "+experiment=cam", *arguments]  # fmt: skip
    before, started = sum(os.times()[2:4]), time.time()
    environment = {**os.environ, **caches}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    whole = [time.time() - started, sum(os.times()[2:4]) - before]
    return {**json.loads(file.read_text(encoding="utf-8")), "all": whole}


def _time_bare_steps(given: Sequence[str]) -> tuple[float, float] | None:
    """Return wall and processor time of all training steps; None where there are weights."""
    import torch
    from torch.nn import functional as F

    from pipeline.engine import runtime
    from pipeline.stages.train.recipe import Settings
    from pipeline.stages.train.training import build_network

    run = compose("cam", *given)
    if run.model().pretrained:
        return None
    options = run.options("train")
    settings = Settings.of(options, "scratch", 0)
    start = build_network(run.model(), run.data.classes, options, _refuse_check)
    network = start.network.to(run.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, nesterov=True)
    images = torch.rand(settings.batch, 3, *run.size, device=run.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(settings.batch, dtype=torch.long, device=run.device)

    def step() -> None:
        with runtime.autocast(run.device, run.precision):
            loss = F.cross_entropy(network(images).logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    before = time.time(), time.process_time()
    for _ in range(STEPS):
        step()
    count = settings.epochs * (len(run.data.ids("train")) // settings.batch)
    spent = (time.time() - before[0], time.process_time() - before[1])
    return spent[0] * count / STEPS, spent[1] * count / STEPS


def _refuse_check(*_: object) -> NoReturn:
    """Stand for the check of a pretrained head, which a network without weights does not have."""
    raise AssertionError("a network without weights has no head to check")


def _table(runs: Mapping[str, Times], bare: tuple[float, float] | None) -> str:
    """Return the lines of a table: processor and wall time of each part of each run."""
    parts = dict.fromkeys(part for times in runs.values() for part in times)
    rows = [["seconds", *(f"{name}, {what}" for name in runs for what in ("processor", "wall"))]]
    for part in [*(part for part in parts if part != "all"), "all"]:
        row = [part]
        for times in runs.values():
            wall, seconds = times.get(part, (0.0, 0.0))
            row += [f"{seconds:.2f}", f"{wall:.2f}"]
        rows.append(row)
    if bare is not None:
        rows.append(["bare steps", f"{bare[1]:.2f}", f"{bare[0]:.2f}", *[""] * (len(rows[0]) - 3)])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]),
                   *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )  # fmt: skip
