"""Speed of training, and from images to boxes, relative to the network alone.

    ./scripts/bench training [model=resnet50] [images=1000] [source=generated] [device=cuda]
                             [rounds=3] [epochs=3]

The ratios show the cost of decoding, cropping and writing. The data are images of imagenette at 224
px, the size of its files, or generated ones (generated.py); the whole network is trained from
random weights; precision and device are auto (bf16 on a GPU, float32 on a CPU), channels_last.

    training           images/s of stage train, with the evaluation of each epoch on held-back
                       images, relative to the bare forward pass
    training_steps     the same, relative to bare steps (forward, backward, SGD) of the same batch
    images_to_boxes    images/s of explain (CAM) and localize, relative to the bare forward pass

The bare passes read normalised images on the device; the forward pass uses the best of several
batch sizes. Rounds alternate in the same process. On a CPU: model=mobilenet_v2 images=100.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.engine import checkpoint, runtime
from pipeline.engine.run import Run
from scripts.measure.generated import write_photographs
from scripts.measure.records import Record
from scripts.measure.runs import SHARED, compose
from scripts.measure.timing import synchronize

ROUNDS = 3
EPOCHS = 3  # that are timed, after one that reads the images
BATCHES = {"cpu": (8, 16, 32), "cuda": (64, 128, 256, 512)}
BATCH = {"cpu": 16, "cuda": 128}  # of training


def run(*given: str) -> list[Record]:
    """Return the three records.

    Args:
        given: Other values than these: model=resnet50 images=1000 source=imagenette device=auto
            rounds=3 epochs=3; epochs are those that are timed.
    """
    defaults = {"model": "resnet50", "images": "1000", "source": "imagenette", "device": "auto",
                "rounds": f"{ROUNDS}", "epochs": f"{EPOCHS}"}  # fmt: skip
    wanted = defaults | dict(argument.split("=", 1) for argument in given)
    name, count, epochs = wanted["model"], int(wanted["images"]), int(wanted["epochs"])
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        is_generated = wanted["source"] == "generated"
        root = write_photographs(images, count) if is_generated else _linked(images, count)

        def composed(outputs: str, *more: str) -> Run:
            return compose("cam", "data=folder", f"data.root={root}", f"model={name}",
                           "model.weights=null", "explain.split=all", "train.loggers=[]",
                           f"runtime.device={wanted['device']}",
                           f"outputs={folder}/{outputs}", *more)  # fmt: skip

        first = composed("first", "train.epochs=1", f"train.batch={BATCH['cpu']}")
        first.get_or_create("train")
        where, device = first.checkpoint, first.device
        trained = checkpoint.load(where, device)
        pixels = _pixels(first)
        best = max(BATCHES[device.type], key=lambda size: _forward(first, trained, pixels, size))
        rounds = []
        for n in range(int(wanted["rounds"])):
            forward = _forward(first, trained, pixels, best)
            steps = _steps(first, checkpoint.load(where, device), pixels, BATCH[device.type])
            sized = (f"train.batch={BATCH[device.type]}", f"seed={n}")
            short = composed(f"{n}", "train.epochs=1", *sized)
            long = composed(f"{n}", f"train.epochs={1 + epochs}", *sized)
            learned = epochs * len(first.data.ids("train"))
            training = learned / (_seconds(long, "train") - _seconds(short, "train"))
            boxes = composed(f"{n}", f"checkpoint={where}", "stages=[explain,localize]")
            boxes_rate = len(pixels) / _seconds(boxes, "explain", "localize")
            rounds.append((forward, steps, training, boxes_rate))
    forwards, bare_steps, trainings, to_boxes = (list(row) for row in zip(*rounds, strict=True))
    what = f"{name}, {first.precision}, {_device_name(device)}, torch {torch.__version__}"
    forward_note = f"bare forward, batch {best}, {len(pixels)} images, {what}"
    step_note = f"bare forward, backward and SGD, batch {BATCH[device.type]}, {what}"
    return [
        _record("training", trainings, forwards, forward_note),
        _record("training_steps", trainings, bare_steps, step_note),
        _record("images_to_boxes", to_boxes, forwards, forward_note),
    ]


def _record(name: str, ours: Sequence[float], theirs: Sequence[float], note: str) -> Record:
    ratios = [o / t for o, t in zip(ours, theirs, strict=True)]
    return Record(name, median(ours), median(theirs), median(ratios), "images/s", note,
                  min(ratios), max(ratios))  # fmt: skip


def _linked(root: Path, count: int) -> Path:
    """Fill a folder with links to `count` training images of imagenette, evenly of all classes."""
    folders = sorted((SHARED / "imagenette/train").resolve().iterdir())
    by_class = [sorted(folder.iterdir()) for folder in folders]
    for n in range(count):
        files = by_class[n % len(by_class)]
        if n // len(by_class) >= len(files):
            raise SystemExit(f"images={count}: only {sum(map(len, by_class))} exist")
        source = files[n // len(by_class)]
        place = root / source.parent.name / source.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)
    return root


def _pixels(run: Run) -> np.ndarray:
    """Return all images at the network's size, uint8 [n, H, W, 3]."""
    count = len(run.data.ids("all"))
    read = runtime.map_in_threads(
        lambda n: run.data.example("all", n, at=run.size).image, range(count), run.workers
    )
    return np.stack(list(read))


def _seconds(run: Run, *stages: str) -> float:
    started = time.perf_counter()
    for stage in stages:
        _, kept = run.get_or_create(stage)
        assert not kept
    return time.perf_counter() - started


def _forward(run: Run, trained: checkpoint.Checkpoint, pixels: np.ndarray, size: int) -> float:
    """Return images a second of the network alone."""
    with torch.inference_mode(), runtime.autocast(run.device, run.precision):
        return _timed(trained, pixels, size, lambda images, _: trained.network(images))


def _steps(run: Run, trained: checkpoint.Checkpoint, pixels: np.ndarray, size: int) -> float:
    """Return images a second of plain training steps; the resulting weights are not used."""
    network = trained.network.train().requires_grad_(True)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, nesterov=True)

    def step(images: Tensor, labels: Tensor) -> None:
        with runtime.autocast(run.device, run.precision):
            loss = F.cross_entropy(network(images).logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _timed(trained, pixels, min(size, len(pixels)), step)


def _timed(
    trained: checkpoint.Checkpoint,
    pixels: np.ndarray,
    size: int,
    work: Callable[[Tensor, Tensor], object],
) -> float:
    """Return images a second of `work` over batches that are on the device."""
    batches = [trained.tensor(pixels[n : n + size]) for n in range(0, len(pixels), size)]
    labels = torch.zeros(size, dtype=torch.long, device=batches[0].device)
    work(batches[0], labels[: len(batches[0])])
    synchronize(labels.device)
    started = time.perf_counter()
    for batch in batches:
        work(batch, labels[: len(batch)])
    synchronize(labels.device)
    return len(pixels) / (time.perf_counter() - started)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{torch.get_num_threads()} threads of a CPU"
