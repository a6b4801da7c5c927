"""Speed on a GPU, relative to the bare network on it: forward, maps, boxes, training, `best`.

What runs of the command line need (Hydra and others) is imported where it is used: without it the
rest is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from pipeline.engine import runtime, shards
from scripts.measure.generated import write_photographs
from scripts.measure.gpu_rows import Measured, Setting, Skip
from scripts.measure.speed_saliency import Bench
from scripts.measure.timing import Compared, Work, compare, measure_seconds, synchronize

CAM, BOXES, TRAINING = 0.95, 0.8, 0.95  # of the bare forward pass, and of bare training steps
CLASSES = 10  # of CUB-30
MAX_DECODED = 512  # images


def measure_maps(setting: Setting) -> Iterator[Measured]:
    """Compare CAM, Grad-CAM and the gradient with the forward pass at the same precision."""
    bench = _build(setting)
    for bf16 in (False, True):
        precision = "bf16" if bf16 else "float32"
        for name, aim in (("cam", CAM), ("gradcam", None), ("gradient", None)):
            if bf16 and name == "gradient":
                continue  # always float32
            taken = _compare(setting, bench.method(name, bf16), bench.forward(bf16))
            yield _ratio(f"{name} / forward, {precision}", taken, setting, bench.batch, aim)


def measure_training(setting: Setting) -> Iterator[Measured]:
    """Compare training and the path from files to boxes with bare loops on the same images."""
    from scripts.measure import speed_training

    count, rounds, epochs = ("24", "1", "1") if setting.is_rehearsal else ("2000", "2", "2")
    records = speed_training.run(
        f"model={setting.network}", f"images={count}", "source=generated", f"rounds={rounds}",
        f"epochs={epochs}", f"device={setting.device}",
    )  # fmt: skip
    aims = {"training_steps": TRAINING, "images_to_boxes": BOXES}
    for record in records:
        yield Measured(name=record.name, value=record.ratio or 0.0, unit="of the bare loop",
                       aim=aims.get(record.name), ours=record.ours, theirs=record.theirs,
                       note=record.peer)  # fmt: skip


def measure_decoding(setting: Setting) -> Iterator[Measured]:
    """Measure how many JPEG files a second the workers, and nvJPEG, decode."""
    import torchvision

    from pipeline.formats import photo

    count = min(setting.images, MAX_DECODED)
    root = write_photographs(setting.folder / "decoded", count)
    paths = sorted(root.rglob("*.jpg"))
    workers = runtime.count_workers(None)
    size = (setting.side, setting.side)
    read = partial(_read_scaled, photo, size)
    started = time.perf_counter()
    for _ in runtime.map_in_threads(read, paths, workers):
        pass
    ours = len(paths) / (time.perf_counter() - started)
    note = f"JPEG of 375 x 500, scaled to {setting.side}"
    yield Measured(name=f"decoded by {workers} workers", value=ours, unit="images/s", note=note)
    if setting.device.type != "cuda":
        raise Skip("nvJPEG needs a CUDA device")
    files = [torchvision.io.read_file(str(path)) for path in paths]
    decode = partial(torchvision.io.decode_jpeg, device=setting.device)

    def on_gpu() -> object:
        return [decode(files[n : n + 64]) for n in range(0, len(files), 64)]

    on_gpu()
    theirs = len(paths) / measure_seconds(on_gpu, setting.device)
    yield Measured(name="decoded by nvJPEG", value=theirs, unit="images/s", note="not scaled")


def measure_best(setting: Setting) -> Iterator[Measured]:
    """Measure the stages of `best` on ten classes of CUB-30, or on the embedded set."""
    from scripts.measure.runs import compose

    data, what = _ten_classes(setting)
    run = compose("best", *data, f"runtime.device={setting.device}",
                  f"outputs={setting.folder}/best", "train.loggers=[]",
                  "stages=[train,refine,explain,localize]")  # fmt: skip
    total = 0.0
    for stage in ("train", "refine", "explain", "localize"):
        started = time.perf_counter()
        run.get_or_create(stage)
        synchronize(setting.device)
        taken = time.perf_counter() - started
        total += taken
        yield Measured(name=f"best, {stage}", value=taken, unit="s", note=what)
    yield Measured(name="best, all", value=total, unit="s", note=what)


def measure_overlap(setting: Setting) -> Iterator[Measured]:
    """Compare pseudo-labels by GrabCut with one and two batches on the GPU at once."""
    if setting.device.type != "cuda":
        raise Skip("on a CPU each worker computes batches of its own")
    from scripts.measure.runs import compose

    images = 512
    first = compose("best", f"data.images={images}", "data.val_images=32", "train.epochs=1",
                    f"runtime.device={setting.device}", f"outputs={setting.folder}/o0")  # fmt: skip
    trained, _ = first.get_or_create("train")
    rates = {}
    for number, feeders in enumerate((2, 1, 2), 1):  # the first is the warm-up
        run = compose("best", f"data.images={images}", "data.val_images=32", "refine.steps=1",
                      f"runtime.device={setting.device}", f"checkpoint={trained}",
                      "stages=[refine]", f"outputs={setting.folder}/o{number}")  # fmt: skip
        with patch.object(shards, "FEEDERS", feeders):
            rates[feeders] = images / _time_refine(run)
    yield Measured(name="pseudo-labels with two batches at once / one", value=rates[2] / rates[1],
                   unit="times as fast", ours=rates[2], theirs=rates[1])  # fmt: skip


def measure_cuda_graph(setting: Setting) -> Iterator[Measured]:
    """Compare the forward pass, captured as a CUDA graph, with the eager one."""
    if setting.device.type != "cuda":
        raise Skip("CUDA graphs need a CUDA device")
    for batch in (1, 16, setting.batch):
        bench = Bench(setting.device, batch, setting.side, setting.network)
        forward = bench.forward(bf16=True)
        stream = torch.cuda.Stream(setting.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(setting.device))
        with torch.cuda.stream(stream):  # CUDA's manual: warm up on a side stream
            for _ in range(3):
                forward()
        torch.cuda.current_stream(setting.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            forward()
        taken = _compare(setting, graph.replay, forward)
        yield _ratio(f"CUDA graph / eager, bf16, batch {batch}", taken, setting, batch, None)


def measure_compiled(setting: Setting) -> Iterator[Measured]:
    """Compare the forward pass by torch.compile with the eager one."""
    bench = _build(setting)
    for bf16 in (False, True):
        precision = "bf16" if bf16 else "float32"
        started = time.perf_counter()
        compiled = torch.compile(bench.theirs)

        def work(compiled: Any = compiled, bf16: bool = bf16) -> object:
            with torch.inference_mode(), bench.autocast(bf16):
                return compiled(bench.last)

        try:
            work()
        except Exception as error:  # no compiler, or an operation that it does not know
            line = (str(error).splitlines() or [""])[0]
            raise Skip(f"torch.compile: {type(error).__name__}: {line[:160]}") from error
        synchronize(setting.device)
        spent = time.perf_counter() - started
        taken = _compare(setting, work, bench.forward(bf16))
        measured = _ratio(f"torch.compile / eager, {precision}", taken, setting, bench.batch, None)
        yield measured
        yield Measured(name=f"torch.compile, first call, {precision}", value=spent, unit="s")


def _build(setting: Setting) -> Bench:
    return Bench(setting.device, setting.batch, setting.side, setting.network)


def _compare(setting: Setting, ours: Work, theirs: Work) -> Compared:
    return compare(ours, theirs, setting.device, setting.rounds, setting.seconds)


def _ratio(name: str, taken: Compared, setting: Setting, batch: int, aim: float | None) -> Measured:
    """Return the speed of a work as a share of that of the bare forward pass."""
    return Measured(
        name=name, value=taken.ratio, unit="of its speed", aim=aim, low=taken.low, high=taken.high,
        ours=batch / taken.ours, theirs=batch / taken.theirs,
        note=f"{setting.network}, {setting.side} px, batch {batch}, channels_last, images/s",
    )  # fmt: skip


def _read_scaled(photo: Any, size: tuple[int, int], path: Path) -> Any:
    return photo.read(path, at=size)


def _time_refine(run: Any) -> float:
    started = time.perf_counter()
    run.get_or_create("refine")
    return time.perf_counter() - started


def _ten_classes(setting: Setting) -> tuple[tuple[str, ...], str]:
    """Return the overrides of the data set, and what it is."""
    from scripts.measure.runs import SHARED

    cub = SHARED / "cub30/CUB_200_2011/images"
    if setting.is_rehearsal or not cub.is_dir():
        sizes = ("data.images=96", "data.val_images=24", "refine.steps=2", "train.epochs=1")
        return (sizes if setting.is_rehearsal else ()), "the embedded set"
    root = setting.folder / "cub10"
    for folder in sorted(cub.resolve().iterdir())[:CLASSES]:
        (root / folder.name).mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            (root / folder.name / path.name).symlink_to(path)
    weights = (SHARED / "weights/mobilenet_v2_imagenet.pth").resolve()
    data = ("data=folder", f"data.root={root}", "model=mobilenet_v2", f"model.weights={weights}")
    return data, f"{CLASSES} classes of CUB-30"


MEASUREMENTS = (
    measure_maps, measure_training, measure_decoding, measure_overlap, measure_best,
    measure_cuda_graph, measure_compiled,
)  # fmt: skip
