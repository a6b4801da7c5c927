"""Speed from images to boxes (decode, forward, CAM, threshold, write) beside the forward pass.

    ./scripts/bench images_to_boxes [experiment=cam] [precision=bf16] [backends=torch] [split=all]

The 1,701 images of CUB-30, frozen MobileNetV2 at 224, channels_last, the same precision for both.
The forward pass is torch's own and has the same images in memory, at the best of several batch
sizes; rounds alternate in the same process. `experiment=best` measures the map of the localization
head instead, after some minutes of training it. `backends=torch,onnxruntime,openvino
precision=float32` has a line for each; compiling is part of their time. With `clock=cpu` the ratio
is of processor time, which a busy machine changes little.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from pipeline.engine import checkpoint, runtime
from pipeline.engine.run import Run
from scripts.measure.records import Record
from scripts.measure.runs import CUB, compose

ROUNDS = 5
BATCHES = (8, 16, 32, 64)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def run(*arguments: str) -> list[Record]:
    """Return images a second of a recipe by each backend, beside those of the forward pass."""
    given = dict(argument.split("=", 1) for argument in arguments)
    recipe, clock = given.get("experiment", "cam"), CLOCKS[given.get("clock", "wall")]
    backends = given.get("backends", "torch").split(",")
    fixed = (f"explain.split={given.get('split', 'all')}",
             f"precision={given.get('precision', 'bf16')}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        first = compose(recipe, *CUB, *fixed, f"outputs={folder}/0", "runtime.backend=torch")
        for stage in ("train", "refine"):
            if stage in first.config["stages"]:
                first.get_or_create(stage)
        trained = checkpoint.load(first.checkpoint, first.device)
        images = _in_memory(first)
        _ours(first, clock)  # warm-up
        best = max(BATCHES, key=lambda size: _bare(trained, images[:512], size, first, clock))
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in backends}
        for n in range(1, int(given.get("rounds", ROUNDS)) + 1):
            for name in backends:
                theirs = _bare(trained, images, best, first, clock)
                again = compose(recipe, *CUB, *fixed, f"outputs={folder}/{n}{name}",
                                f"checkpoint={first.checkpoint}", "stages=[explain,localize]",
                                f"runtime.backend={name}")  # fmt: skip
                rounds[name].append((_ours(again, clock), theirs))
    name = "images_to_boxes" if recipe == "cam" else f"images_to_boxes_{recipe}"
    note = (
        f"bare forward by torch {torch.__version__}, {first.precision} channels_last, "
        f"batch {best}, {len(images)} images"
    )
    return [
        Record(
            name if backend == "torch" else f"{name}_{backend}",
            median(ours for ours, _ in pairs),
            median(theirs for _, theirs in pairs),
            median(ratios),
            "images/s",
            note,
            min(ratios),
            max(ratios),
        )
        for backend, pairs in rounds.items()
        for ratios in [[ours / theirs for ours, theirs in pairs]]
    ]


def _in_memory(run: Run) -> np.ndarray:
    """Return all images at the network's size, uint8 [n, H, W, 3]."""
    count = len(run.data.ids(run.split))
    read = runtime.map_in_threads(
        lambda n: run.data.example(run.split, n, at=run.size).image, range(count), run.workers
    )
    return np.stack(list(read))


def _ours(run: Run, clock: Callable[[], float]) -> float:
    """Return images a second of stages explain and localize."""
    started = clock()
    for stage in ("explain", "localize"):
        _, kept = run.get_or_create(stage)
        assert not kept
    return len(run.data.ids(run.split)) / (clock() - started)


def _bare(
    trained: checkpoint.Checkpoint,
    images: np.ndarray,
    size: int,
    run: Run,
    clock: Callable[[], float],
) -> float:
    """Return images a second of the network alone, with normalised batches in memory."""
    batches = [trained.tensor(images[n : n + size]) for n in range(0, len(images), size)]
    with torch.inference_mode(), runtime.autocast(run.device, run.precision):
        trained.network(batches[0])
        started = clock()
        for batch in batches:
            trained.network(batch)
        return len(images) / (clock() - started)
