"""`./scripts/bench all`: what we say about speed, measured here, with the peers, in one table.

Each bench of JOBS runs in a process of its own, with bounded sizes. outputs/bench/all.md and
all.json have a row for each number: the ratio and its spread over the rounds, the aim, and whether
it is reached; and a row for each bench that did not run, with the reason. A ratio above 1 says
that ours is faster, or below its limit.

    ./scripts/bench all [minutes=30] [only=saliency,startup]
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.measure import records
from scripts.measure.records import Record, format_number

MINUTES = 30.0  # of all together
LEAST_SECONDS = 20.0  # of time left, below which no bench begins
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")  # of a CPU, that matter
LIMIT = 1.0  # the ratio of a number that is just at its limit

FORWARD, TORCHCAM, GRAD_CAM, CAPTUM = 0.95, 1.3, 3.0, 1.1
CAM_AIMS = {
    "cam_vs_forward": FORWARD,
    "cam_vs_forward_float32": FORWARD,
    "cam_vs_torchcam_float32": TORCHCAM,
    "gradcam_vs_torchcam_float32": TORCHCAM,
    "gradcam_vs_pytorch_grad_cam_float32": GRAD_CAM,
}
COMPILED = 1.6
BACKEND_AIMS = {f"{name}_onnxruntime": COMPILED for name in ("cam", "scorecam", "rise")}
CAPTUM_AIMS = {
    f"{name}_vs_captum": CAPTUM
    for name in ("gradient", "guided_backprop", "integrated_gradients", "deeplift")
}


@dataclass(frozen=True)
class Job:
    """A bench with its sizes.

    Attributes:
        bench: Its name.
        arguments: Its arguments.
        minutes: After how many it is stopped.
        aims: The least ratio by the name of the number. A number whose peer is a limit has 1.
    """

    bench: str
    arguments: tuple[str, ...]
    minutes: float
    aims: Mapping[str, float] = field(default_factory=dict)


# The minutes are about twice what each takes on two idle cores that multiply bf16.
JOBS = (
    Job("saliency", tuple(CAM_AIMS), 7, CAM_AIMS),
    Job("saliency", ("rounds=3", *CAPTUM_AIMS), 8, CAPTUM_AIMS),
    Job("images_to_boxes", ("precision=float32", "backends=torch,onnxruntime", "split=val",
        "rounds=2"), 6, {"images_to_boxes": 0.8, "images_to_boxes_onnxruntime": 1.5}),
    Job("backends", (), 4, BACKEND_AIMS),
    Job("training_threads", (), 3, {"parts_of_processes": 0.9}),
    Job("startup", (), 4),
    Job("training", ("model=mobilenet_v2", "images=100", "source=generated"), 6),
    Job("api", ("calls=200", "rounds=5"), 3),
    Job("export", ("imagenette",), 3),
    Job("memory", ("100", "300", "900"), 4),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        bench: The bench.
        record: Its number; None where it did not run.
        aim: The ratio that it should reach; None: it has none.
        reason: Why the bench did not run.
    """

    bench: str
    record: Record | None = None
    aim: float | None = None
    reason: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the aim is reached; None where there is none."""
        if self.record is None or self.record.ratio is None or self.aim is None:
            return None
        return self.record.ratio >= self.aim


def run(*arguments: str) -> int:
    """Run all benches, print the table and write it.

    Args:
        arguments: `minutes=N` for all together; `only=a,b`: some of the benches.

    Returns:
        1 where an aim is missed or a bench failed, 2 for wrong arguments, else 0.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    only = [name for name in given.pop("only", "").split(",") if name]
    minutes = float(given.pop("minutes", MINUTES))
    known = sorted({job.bench for job in JOBS})
    if given or not {*only} <= {*known}:
        print(f"usage: scripts/bench all [minutes=N] [only=A,B]; names: {', '.join(known)}",
              file=sys.stderr)  # fmt: skip
        return 2
    machine = {**describe_machine(), "load_before": list(os.getloadavg())}
    rows, started = [], time.monotonic()
    jobs = [job for job in JOBS if not only or job.bench in only]
    for job in jobs:
        left = 60 * minutes - (time.monotonic() - started)
        rows += run_job(job, left)
        print("\n".join(format_row(row) for row in rows[-1:]), file=sys.stderr, flush=True)
    machine["load_after"] = list(os.getloadavg())
    machine["minutes"] = round((time.monotonic() - started) / 60, 1)
    text = format_table(machine, rows)
    print(text)
    print(f"written to {write(machine, rows, text)}")
    missed = [row for row in rows if row.holds is False]
    failed = [row for row in rows if row.reason]
    print(f"{len(rows) - len(failed)} numbers, {len(missed)} below the aim, "
          f"{len(failed)} benches not complete")  # fmt: skip
    return int(bool(missed or any("failed" in row.reason for row in failed)))


def run_job(job: Job, left: float) -> list[Row]:
    """Run a bench in a process of its own.

    Args:
        job: The bench.
        left: Seconds that all benches have left.

    Returns:
        A row for each of its numbers, or one with the reason why there is none.
    """
    if left < LEAST_SECONDS:
        return [Row(job.bench, reason="not begun: the time of all benches was over")]
    seconds = min(60 * job.minutes, left)
    command = [sys.executable, "-m", "scripts.measure", "bench", job.bench, *job.arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return [Row(job.bench, reason=f"not complete after {seconds / 60:.1f} minutes")]
    finally:
        if process.poll() is None:  # also after Ctrl-C, which a session of its own does not get
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    last = (errors.strip().splitlines() or [""])[-1]
    if process.returncode == 1 and "so nothing was measured" in last:
        return [Row(job.bench, reason=last)]
    if process.returncode != 0:
        return [Row(job.bench, reason=f"failed with exit code {process.returncode}: {last}")]
    return [Row(job.bench, record, find_aim(job, record)) for record in records.read(job.bench)]


def find_aim(job: Job, record: Record) -> float | None:
    """Return the least ratio of a number; None where nothing is said about it.

    Args:
        job: The bench.
        record: The number.
    """
    is_limit = record.peer.removeprefix("the ").startswith("limit")
    return job.aims.get(record.name, LIMIT if is_limit else None)


def describe_machine() -> dict[str, Any]:
    """Return what was measured on: CPU, what it multiplies, cores, torch."""
    import torch

    from pipeline.engine.runtime import count_workers

    described = Path("/proc/cpuinfo")
    lines = described.read_text(errors="replace").splitlines() if described.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in lines)}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": count_workers(None),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def format_table(machine: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the machine and the rows as a page of Markdown.

    Args:
        machine: As `describe_machine` returns it, with the load and the minutes.
        rows: Of all benches.
    """
    before, after = machine["load_before"][0], machine["load_after"][0]
    return "\n".join([
        f"{machine['cpu']} ({' '.join(machine['flags']) or 'no flags known'}), "
        f"{machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}; "
        f"load {before:.1f} before, {after:.1f} after; {machine['minutes']} minutes",
        "",
        "| bench | number | ours | theirs | unit | ratio | rounds | aim | | beside |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(format_row(row) for row in rows),
    ])  # fmt: skip


def format_row(row: Row) -> str:
    """Return a row of the table.

    Args:
        row: Of a number, or of a bench that did not run.
    """
    if row.record is None:
        cells = [row.bench, "-", "", "", "", "", "", "", "not measured", row.reason]
        return f"| {' | '.join(cells)} |"
    record = row.record
    spread = "" if record.low is None else f"{record.low:.2f} to {record.high:.2f}"
    verdict = {True: "holds", False: "missed", None: ""}[row.holds]
    cells = [
        row.bench, record.name, format_number(record.ours), format_number(record.theirs),
        record.unit, format_number(record.ratio), spread,
        "" if row.aim is None else f"{row.aim:g}", verdict, record.peer,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def write(
    machine: Mapping[str, Any], rows: Sequence[Row], text: str, outputs: Path = Path("outputs")
) -> Path:
    """Write the table as Markdown and as JSON; return the Markdown file.

    Args:
        machine: What was measured on.
        rows: Of all benches.
        text: The page.
        outputs: The folder of outputs.
    """
    path = outputs / "bench" / "all.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    values = [{**asdict(row), "holds": row.holds} for row in rows]
    document = {"machine": dict(machine), "rows": values}
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path
