"""Speed from images to boxes (decode, forward, CAM, threshold, write) beside the forward pass.

All 1,701 images of CUB-30, frozen MobileNetV2 at 224, bf16 and channels_last for both. The forward
pass has the same images in memory, at the best of several batch sizes; rounds alternate in the same
process. `experiment=best` measures the map of the localization head instead, after some minutes of
training it.
"""

from __future__ import annotations

import tempfile
import time
from statistics import median

import numpy as np
import torch

from pipeline.engine import checkpoint, runtime
from pipeline.engine.run import Run
from scripts.measure.records import Record
from scripts.measure.runs import CUB, compose

ROUNDS = 5
BATCHES = (8, 16, 32, 64)
FIXED = ("explain.split=all", "precision=bf16")


def run(experiment: str = "experiment=cam") -> list[Record]:
    """Return images a second of a recipe, `experiment=NAME`, beside those of the forward pass."""
    recipe = experiment.partition("=")[2]
    with tempfile.TemporaryDirectory() as folder:
        first = compose(recipe, *CUB, *FIXED, f"outputs={folder}/0")
        for stage in ("train", "refine"):
            if stage in first.config["stages"]:
                first.get_or_create(stage)
        trained_in = first.checkpoint
        trained = checkpoint.load(trained_in, first.device)
        images = _in_memory(first)
        _ours(first)  # warm-up
        best = max(BATCHES, key=lambda size: _bare(trained, images[:512], size, first))
        rounds = []
        for n in range(1, ROUNDS + 1):
            theirs = _bare(trained, images, best, first)
            again = compose(recipe, *CUB, *FIXED, f"outputs={folder}/{n}",
                            f"checkpoint={trained_in}", "stages=[explain,localize]")  # fmt: skip
            rounds.append((_ours(again), theirs))
    ours, theirs = median(o for o, _ in rounds), median(t for _, t in rounds)
    ratio = median(o / t for o, t in rounds)
    note = f"bare forward, bf16 channels_last, batch {best}, {len(images)} images, torch " + str(
        torch.__version__
    )
    name = "images_to_boxes" if recipe == "cam" else f"images_to_boxes_{recipe}"
    return [Record(name, ours, theirs, ratio, "images/s", note)]


def _in_memory(run: Run) -> np.ndarray:
    """Return all images at the network's size, uint8 [n, H, W, 3]."""
    count = len(run.data.ids("all"))
    read = runtime.map_in_threads(
        lambda n: run.data.example("all", n, at=run.size).image, range(count), run.workers
    )
    return np.stack(list(read))


def _ours(run: Run) -> float:
    """Return images a second of stages explain and localize."""
    started = time.perf_counter()
    for stage in ("explain", "localize"):
        _, kept = run.get_or_create(stage)
        assert not kept
    return len(run.data.ids("all")) / (time.perf_counter() - started)


def _bare(trained: checkpoint.Checkpoint, images: np.ndarray, size: int, run: Run) -> float:
    """Return images a second of the network alone, with normalised batches in memory."""
    batches = [trained.tensor(images[n : n + size]) for n in range(0, len(images), size)]
    with torch.inference_mode(), runtime.autocast(run.device, run.precision):
        trained.network(batches[0])
        started = time.perf_counter()
        for batch in batches:
            trained.network(batch)
        return len(images) / (time.perf_counter() - started)
