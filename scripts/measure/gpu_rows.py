"""The rows of ./scripts/gpu: each is written when it is measured, and none is left out."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

LEAST_SECONDS = 2.0  # of time left, below which no measurement begins
MEASURED, SKIPPED, FAILED = "measured", "skipped", "failed"


class Skip(Exception):
    """A measurement that this machine does not allow; its text says why."""


class _TimeIsUp(BaseException):
    """The part's time is up. No handler of Exception within a measurement may stop it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured, and how much.

    Attributes:
        device: What is measured.
        is_rehearsal: Whether counts are so small that only the script is tried, and no aim is held.
        folder: For files that are deleted at the end.
        network: A network of torchvision with a head `fc`.
        side: Of its input, in pixels.
        batch: Images in a batch.
        images: Files on disk.
        rounds: How often each of two works is measured in turns.
        seconds: How long each of these measurements takes at least.
    """

    device: torch.device
    is_rehearsal: bool
    folder: Path
    network: str = "resnet50"
    side: int = 224
    batch: int = 128
    images: int = 4096
    rounds: int = 5
    seconds: float = 0.3

    @classmethod
    def of(cls, device: torch.device, folder: Path, is_rehearsal: bool) -> Setting:
        """Return the setting of a device.

        Args:
            device: What is measured.
            folder: For files that are deleted at the end.
            is_rehearsal: Whether counts are small.
        """
        if not is_rehearsal:
            return cls(device=device, is_rehearsal=False, folder=folder)
        return cls(
            device=device, is_rehearsal=True, folder=folder, network="resnet18", side=64, batch=4,
            images=24, rounds=2, seconds=0.01,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number of a measurement.

    Attributes:
        name: What it is.
        value: The number that the aim is about.
        unit: Its unit.
        aim: What it should reach; None: nothing.
        at_most: Whether `aim` is the most that it may be, and not the least.
        low: The lowest of the rounds, where there are several.
        high: The highest.
        ours: Another number that it was computed from, as images a second.
        theirs: That of the peer.
        note: How it was measured.
    """

    name: str
    value: float
    unit: str
    aim: float | None = None
    at_most: bool = False
    low: float | None = None
    high: float | None = None
    ours: float | None = None
    theirs: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the aim is reached; None where there is none."""
        if self.aim is None:
            return None
        return self.value <= self.aim if self.at_most else self.value >= self.aim


Measurement = Callable[[Setting], Iterator[Measured]]


class Rows:
    """A file of JSON lines that grows by a row for each number.

    Args:
        path: The file; what it held is deleted.
        part: check, speed or peers.
        setting: What is measured.
    """

    def __init__(self, path: Path, part: str, setting: Setting) -> None:
        self.path, self.part, self.setting = path, part, setting
        self.counts: Counter[str] = Counter()
        self.missed: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
        self._append({"status": "machine", **describe_machine(setting.device)})

    def write(self, measured: Measured, seconds: float) -> None:
        """Write a number.

        Args:
            measured: The number.
            seconds: How long it took.
        """
        holds = None if self.setting.is_rehearsal else measured.holds
        if holds is False:
            self.missed.append(measured.name)
        values = {key: value for key, value in asdict(measured).items() if value is not None}
        self._count(MEASURED, {**values, "holds": holds, "seconds": round(seconds, 2)})

    def skip(self, name: str, reason: str) -> None:
        """Write that something was not measured, and why."""
        self._count(SKIPPED, {"name": name, "reason": reason})

    def fail(self, name: str, error: BaseException) -> None:
        """Write that a measurement failed, and print where."""
        traceback.print_exception(error)
        line = (str(error).splitlines() or [""])[0]
        self._count(FAILED, {"name": name, "reason": f"{type(error).__name__}: {line}"})

    def summarize(self) -> list[str]:
        """Return the last lines of the output: how many rows of each kind there are."""
        counts = ", ".join(f"{self.counts[kind]} {kind}" for kind in (MEASURED, SKIPPED, FAILED))
        lines = [f"{self.part}: {counts}; {self.path}"]
        if self.setting.is_rehearsal:
            lines.append("a rehearsal: counts are small, and no aim was held")
        elif self.missed:
            lines.append(f"{len(self.missed)} below the aim: {', '.join(self.missed)}")
        return lines

    @property
    def exit_code(self) -> int:
        """1 where a measurement failed or an aim was missed, or nothing was measured."""
        return int(bool(self.counts[FAILED] or self.missed or not self.counts[MEASURED]))

    def _count(self, status: str, values: dict[str, Any]) -> None:
        self.counts[status] += 1
        self._append({"status": status, **values})

    def _append(self, row: dict[str, Any]) -> None:
        """Write a row so that it is there even if the machine is taken away."""
        row = {"part": self.part, "rehearsal": self.setting.is_rehearsal, **row}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(json.dumps(row), flush=True)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a measurement was made on.

    Args:
        device: What is measured.
    """
    import torchvision

    described = {
        "device": str(device), "cores": os.cpu_count(), "python": platform.python_version(),
        "torch": torch.__version__, "torchvision": torchvision.__version__,
    }  # fmt: skip
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {
            "gpu": properties.name, "gpu_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }  # fmt: skip
    return described


def measure_all(rows: Rows, measurements: Sequence[Measurement], limit: float) -> None:
    """Run measurements one after another, and write a row for each number, skip and failure.

    Args:
        rows: Where they are written.
        measurements: Named `measure_<what>`.
        limit: Seconds for all together. What runs then is stopped; what is left is skipped.
    """
    ends = time.monotonic() + limit
    for measurement in measurements:
        name = measurement.__name__.removeprefix("measure_")
        left = ends - time.monotonic()
        if left < LEAST_SECONDS:
            rows.skip(name, f"the {limit:g} s of this part are over")
            continue
        try:
            with _stopped_after(left):
                _write_numbers(rows, measurement)
        except _TimeIsUp:
            rows.skip(name, f"not complete when the {limit:g} s of this part were over")
        except (Skip, ModuleNotFoundError) as error:
            if isinstance(error, ModuleNotFoundError) and _is_ours(error.name):
                rows.fail(name, error)
            else:
                rows.skip(name, str(error) or type(error).__name__)
        except Exception as error:
            rows.fail(name, error)
        if rows.setting.device.type == "cuda":
            torch.cuda.empty_cache()


def _write_numbers(rows: Rows, measurement: Measurement) -> None:
    started = time.monotonic()
    for measured in measurement(rows.setting):
        rows.write(measured, time.monotonic() - started)
        started = time.monotonic()


def _is_ours(module: str | None) -> bool:
    """Return whether a module is a part of this project, so that its absence is a defect."""
    return (module or "").partition(".")[0] in ("pipeline", "scripts", "tests")


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise _TimeIsUp within the block once so many seconds are over."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def print_error(text: str) -> int:
    """Print an error of the arguments; return the exit code."""
    print(f"gpu: {text}", file=sys.stderr)
    return 2
