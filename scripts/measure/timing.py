"""Time of work on a device: queued work is waited for, and rounds alternate in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

Work = Callable[[], object]
MAX_REPEATS = 10_000


@dataclass(frozen=True)
class Compared:
    """Two works that were measured in turns.

    Attributes:
        ours: Seconds of a call, the median of the rounds.
        theirs: Likewise.
        ratio: theirs / ours, the median of the ratios of the rounds; above 1: ours is faster.
        low: The lowest ratio of a round.
        high: The highest.
    """

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float


def synchronize(device: torch.device) -> None:
    """Wait for what a device has been asked to compute.

    Args:
        device: A GPU computes while Python goes on; a CPU does not.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def measure_seconds(work: Work, device: torch.device, repeats: int = 1) -> float:
    """Return the wall-clock seconds of a call, the mean of some in a row.

    Args:
        work: Is called.
        device: Where it computes.
        repeats: How often.
    """
    synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronize(device)
    return (time.perf_counter() - started) / repeats


def compare(
    ours: Work, theirs: Work, device: torch.device, rounds: int = 5, seconds: float = 0.2
) -> Compared:
    """Measure two works in turns.

    Both are called three times before: a GPU chooses its algorithms and raises its clocks.

    Args:
        ours: The first work.
        theirs: The second.
        device: Where both compute.
        rounds: How often each is measured.
        seconds: How long each measurement takes at least, of as many calls as that needs.
    """
    repeats = []
    for work in (ours, theirs):
        first = [measure_seconds(work, device) for _ in range(3)][-1]
        repeats.append(min(MAX_REPEATS, max(1, round(seconds / max(first, 1e-6)))))
    pairs = [
        (measure_seconds(ours, device, repeats[0]), measure_seconds(theirs, device, repeats[1]))
        for _ in range(rounds)
    ]
    ratios = [t / o for o, t in pairs]
    return Compared(
        median(o for o, _ in pairs), median(t for _, t in pairs),
        median(ratios), min(ratios), max(ratios),
    )  # fmt: skip
