"""What `pipeline.explain` costs beside the method that it calls, and whether it keeps memory.

resnet18 with random weights, 224x224, batch 16, float32. A round runs the method on the wrapped
network, the same through `explain`, and the method again; rounds alternate in one process.

    explain_METHOD        time of the method over that of explain: the median over the rounds
    again_METHOD          the same for the method run twice: what repeated runs of one code differ
    module_METHOD         explain of the bare module, whose layers are remembered
    function_METHOD       explain of the bare module with a function as target, which finds the
                          layers again in each call
    memory_after_calls    growth of resident memory from call 100 to the last, in MB, batch 1
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torchvision

import pipeline
from pipeline.api.catalogue import build_method
from scripts.measure.records import Record

METHODS = ("cam", "gradcam", "gradient")
ROUNDS, BATCH = 15, 16
CALLS, WARM_UP = 1000, 100
MAX_GROWTH = 20.0  # MB; allocators settle
Work = Callable[[], object]


def run(*arguments: str) -> list[Record]:
    """Return a record of each way to call each method, and the growth of memory.

    Args:
        *arguments: `calls=N` instead of 1000, `rounds=N` instead of 15.
    """
    given = dict(argument.split("=", 1) for argument in arguments)
    calls, rounds = int(given.get("calls", CALLS)), int(given.get("rounds", ROUNDS))
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval().requires_grad_(False)
    images = torch.randn(BATCH, 3, 224, 224)
    records = [record for name in METHODS for record in _compare(model, images, name, rounds)]
    growth = _measure_growth(model, images[:1, :, :64, :64], calls)
    note = f"limit; {calls} calls of gradcam"
    ratio = MAX_GROWTH / max(growth, 1e-9)
    return [*records, Record("memory_after_calls", growth, MAX_GROWTH, ratio, "MB", note)]


def _compare(model: torch.nn.Module, images: torch.Tensor, name: str, rounds: int) -> list[Record]:
    """Return a record for each way to call a method."""
    network, method = pipeline.wrap(model), build_method(name, None, {})
    classes = torch.zeros(len(images), 1, dtype=torch.int64)

    def plain() -> object:
        return method(network, images, lambda logits: classes)

    def explain(module: torch.nn.Module, target: object = 0) -> Work:
        return lambda: pipeline.explain(module, images, name, target=target)

    ways: dict[str, Work] = {
        "explain": explain(network), "again": plain, "module": explain(model),
        **({} if name == "cam" else {"function": explain(model, lambda output: output[:, 0])}),
    }  # fmt: skip
    for work in (plain, *ways.values()):
        work()
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    speeds: dict[str, list[float]] = {way: [] for way in (*ways, "plain")}
    for number in range(rounds):
        before = _seconds(plain)
        order = list(ways.items())[:: 1 if number % 2 else -1]
        for way, work in order:
            seconds = _seconds(work)
            ratios[way].append(before / seconds)
            speeds[way].append(len(images) / seconds)
        speeds["plain"].append(len(images) / before)
    theirs = median(speeds["plain"])
    return [
        Record(f"{way}_{name}", median(speeds[way]), theirs, median(values), "images/s",
               f"the method itself, float32, torch {torch.__version__}",
               min(values), max(values))
        for way, values in ratios.items()
    ]  # fmt: skip


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _measure_growth(model: torch.nn.Module, images: torch.Tensor, calls: int) -> float:
    """Return by how many MB resident memory grows after the first calls."""
    first = 0.0
    for number in range(calls):
        pipeline.explain(model, images, "gradcam", target=number % 7)
        if number == min(WARM_UP, calls // 2):
            first = read_resident_memory()
    return read_resident_memory() - first


def read_resident_memory() -> float:
    """Return the resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
