"""Maps and boxes by each backend, beside torch's eager forward pass, in processor time.

    ./scripts/bench backends [model=mobilenet_v2] [weights=FILE] [rounds=3]

A line for each kind of work and each backend: images a second of a core, and the ratio to the same
work by torch. Batch 16 at 224, float32, one thread, the same process, rounds in turn; compiling is
not counted. Processor time says the same on a busy machine as on an idle one. Score-CAM and RISE
explain one image, RISE with 64 masks. `ONEDNN_MAX_CPU_ISA=AVX2` in front gives what torch and
OpenVINO do on a CPU without AVX512; ONNX Runtime does not read it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from pipeline.engine.choices import instantiate, read_choice
from pipeline.model.backends import BACKENDS, is_installed
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.compiled import Compiled
from pipeline.model.torchvision import Torchvision
from scripts.measure.records import Record

BATCH, SIDE, CLASSES, MASKS = 16, 224, 30, 64
SINGLE = ("scorecam", "rise")  # explain one image
METHODS: dict[str, dict[str, Any]] = {"cam": {}, "gradcam": {}, "layercam_below": {},
                                      "scorecam": {}, "rise": {"masks": MASKS}}  # fmt: skip


def run(*arguments: str) -> list[Record]:
    """Return a record for each kind of work and each backend that is installed."""
    given = dict(argument.split("=", 1) for argument in arguments)
    rounds = int(given.get("rounds", 3))
    network = _build(given.get("model", "mobilenet_v2"), given.get("weights"))
    backends: dict[str, Compiled | None] = {name: Compiled(name) if name != "torch" else None
                for name in BACKENDS if is_installed(name)}  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            record
            for name, (work, count) in _list_work(network).items()
            for record in _compare(name, network, backends, work, count, rounds)
        ]
    finally:
        torch.set_num_threads(threads)


def _build(name: str, weights: str | None) -> Classifier:
    """Build a network with a GAP head; without weights, random ones are as fast."""
    torch.manual_seed(0)
    builder = Torchvision(name, weights)
    body, channels = builder.body()
    if weights is not None:
        body = builder.features(builder.load()[0])
    classes = [str(n) for n in range(CLASSES)]
    head = MeanLinear(channels, CLASSES)
    network = Classifier(body, head, classes, builder.last, builder.below).eval()
    network.to(memory_format=torch.channels_last)
    return network.requires_grad_(False)


def _list_work(network: Classifier) -> dict[str, tuple[Callable[[], object], int]]:
    """Return each kind of work, and how many images it is done for."""
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    work: dict[str, tuple[Callable[[], object], int]] = {}

    def forward() -> object:
        with torch.inference_mode():
            return network(images)

    def explain(method: Any, count: int) -> Callable[[], object]:
        classes = torch.arange(count)[:, None] % CLASSES
        return lambda: method(network, images[:count], lambda logits: classes)

    work["forward"] = forward, BATCH
    for name, options in METHODS.items():
        method = instantiate("saliency", {**read_choice("saliency", name), **options})
        count = 1 if name in SINGLE else BATCH
        work[name] = explain(method, count), count
    return work


def _compare(
    name: str,
    network: Classifier,
    backends: dict[str, Compiled | None],
    work: Callable[[], object],
    count: int,
    rounds: int,
) -> list[Record]:
    """Return a record of each backend for some work."""
    seconds: dict[str, list[float]] = {backend: [] for backend in backends}
    for n in range(rounds + 1):  # the first is a warm-up, in which networks are compiled
        for backend, compiled in backends.items():
            network.compiled = compiled
            started = time.process_time()
            work()
            if n > 0:
                seconds[backend].append(time.process_time() - started)
    network.compiled = None
    theirs = seconds["torch"]
    return [
        Record(
            f"{name}_{backend}",
            count / median(ours),
            count / median(theirs),
            median(t / o for o, t in zip(ours, theirs, strict=True)),
            "images/s of a core",
            f"torch {torch.__version__} eager, float32, channels_last, batch {BATCH}",
        )
        for backend, ours in seconds.items()
    ]
