"""Boxes and numbers of ILSVRC's 50,000 validation images from shards of their maps.

Drawn are the lists of `data=ilsvrc` (1,000 classes, sizes as ILSVRC's, 1.5 boxes an image, links to
a blank JPEG of each size, of which the header is read) and the shards that stage explain would
write: CAM-like maps of 7x7, as ResNet-50 gives them, and five predicted classes. Stages localize
and evaluate then run as in a run: boxes at a threshold, every curve and baseline, each number with
its interval and by class. Each count is measured in a process of its own; the time is that of the
processor, in all threads. The numbers of 1,000 classes cost the same for few maps as for many.

    evaluation_few, evaluation    ms of one core a map at a tenth of the maps (1,000 at least), and
                                  at all of them
    evaluation_localize           of these, stage localize
    evaluation_memory             peak memory in MB at all maps, imports included
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from scripts.measure.records import Record

if TYPE_CHECKING:
    from jaxtyping import Float32

    from pipeline.engine.run import Run
    from pipeline.results.shards import Arrays, Skipped

CLASSES, SIDE, TOP = 1000, 7, 5
SIZES = ((375, 500),) * 6 + ((333, 500), (500, 375), (500, 333), (480, 640))  # (height, width)
LIMIT = 9.0  # ms of one core a map
WARMING = 64  # maps that are measured before: the compiled part is loaded


def measure(maps: int) -> list[Record]:
    """Return time a map and peak memory of localize and evaluate.

    Args:
        maps: How many; a tenth of them, 1,000 at least, is measured, too.
    """
    with tempfile.TemporaryDirectory() as folder:
        fewer = max(maps // 10, CLASSES)  # of as many classes: the two lie on a line
        few, many = (_measure_apart(Path(folder, str(n)), n) for n in (fewer, maps))
    note = f"limit; {maps} maps of {SIDE}x{SIDE}, {CLASSES} classes"
    less = f"limit; {fewer} maps"
    return [
        Record("evaluation_few", few["ms"], LIMIT, LIMIT / few["ms"], "ms/map", less),
        Record("evaluation", many["ms"], LIMIT, LIMIT / many["ms"], "ms/map", note),
        Record("evaluation_localize", many["localize"], None, None, "ms/map", "of these"),
        Record("evaluation_memory", many["peak"], None, None, "MB",
               f"peak; {few['peak']:.0f} MB at {fewer} maps"),
    ]  # fmt: skip


def _measure_apart(folder: Path, count: int) -> dict[str, float]:
    """Measure in a process of its own: peaks of memory do not come down again."""
    child = subprocess.run(
        [sys.executable, "-m", "scripts.measure.data_evaluation", str(folder), str(count)],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    return dict(json.loads(child.stdout.splitlines()[-1]))


def _measure_here(folder: Path, count: int) -> dict[str, float]:
    """Return ms of one core a map, of these of stage localize, and the peak of memory in MB."""
    cv2.setNumThreads(1)
    _take_stages(folder / "warm", WARMING)
    seconds = _take_stages(folder / "all", count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "ms": 1000 * sum(seconds.values()) / count,
        "localize": 1000 * seconds["localize"] / count,
        "peak": peak / (1e6 if sys.platform == "darwin" else 1e3),
    }


def _take_stages(folder: Path, count: int) -> dict[str, float]:
    """Draw lists and shards, and return the processor time of localize and of evaluate."""
    from scripts.measure.runs import compose

    _draw_lists(folder / "lists", count)
    run = compose(
        "cam", "data=ilsvrc", f"data.root={folder}/lists", f"data.images={folder}/lists",
        "stages=[train,explain,localize,evaluate]", f"outputs={folder}/outputs",
    )  # fmt: skip
    run.store.get_or_create("train", run.cache_key("train"), lambda place: _save(run, place))
    run.store.get_or_create("explain", run.cache_key("explain"), lambda place: _draw(run, place))
    seconds = {}
    for stage in ("localize", "evaluate"):
        started = time.process_time()
        result, _ = run.get_or_create(stage)
        seconds[stage] = time.process_time() - started
    metrics = json.loads((result / "metrics.json").read_text(encoding="utf-8"))
    if not any(each["name"] == "max_box_acc_v2" and each["n"] == count for each in metrics):
        raise RuntimeError(f"MaxBoxAccV2 is not of {count} maps")
    return seconds


def _draw_lists(root: Path, count: int) -> None:
    """Write lists of wsolevaluation: an image of each class to train on, `count` scored ones."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    blanks = [root / f"{height}x{width}.jpg" for height, width in SIZES]
    for blank, size in zip(blanks, SIZES, strict=True):
        cv2.imwrite(str(blank), np.full((*size, 3), 127, np.uint8))
    parts = {"train-weaksup": ("train", CLASSES), "test": ("val", count)}
    for split, (part, images) in parts.items():
        lines: dict[str, list[str]] = {
            name: [] for name in ("image_ids", "class_labels", "image_sizes", "localization")
        }
        for n in range(images):
            of_class = n % CLASSES
            name = f"{part}/n{of_class:08d}/{n:08d}.JPEG"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(blanks[n % len(SIZES)], root / name)
            height, width = SIZES[n % len(SIZES)]
            lines["image_ids"].append(name)
            lines["class_labels"].append(f"{name},{of_class}")
            lines["image_sizes"].append(f"{name},{width},{height}")
            for _ in range(1 + n % 2):
                x0, y0 = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
                x1, y1 = (int(rng.integers(a + 40, b)) for a, b in ((x0, width), (y0, height)))
                lines["localization"].append(f"{name},{x0},{y0},{x1},{y1}")
        (root / split).mkdir()
        for name, text in lines.items():
            (root / split / f"{name}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")


def _save(run: Run, folder: Path) -> None:
    """Write a network of the classes: its maps are drawn, so its weights are not used."""
    from pipeline.engine import checkpoint
    from pipeline.model.classifier import Classifier, MeanLinear

    body, channels = run.model().body()
    network = Classifier(body, MeanLinear(channels, CLASSES), run.data.classes)
    card: dict[str, Any] = {"size": [224, 224], "mean": [0.5] * 3, "std": [0.25] * 3}
    checkpoint.save(folder, network, run.config["model"], card)


def _draw(run: Run, folder: Path) -> None:
    """Write the shards of stage explain."""
    from pipeline.engine import shards

    labels = run.images().labels

    def join(parts: Any) -> tuple[Arrays, Skipped]:
        return _draw_shard(np.concatenate(parts), labels), []

    compute = run.compute
    plan = shards.ShardPlan(count=len(labels), size=compute.shard, piece=compute.batch)
    shards.write_shards(folder, "draw", plan, lambda pieces: map(np.array, pieces), join)
    from pipeline.results.computed import Computed

    Computed(run.precision, run.device.type, {}).write(folder)


def _draw_shard(positions: np.ndarray, labels: np.ndarray) -> Arrays:
    """Return the arrays of a shard, as stage explain writes them."""
    rng = np.random.default_rng(int(positions[0]))
    count, own = len(positions), labels[positions].astype(np.int32)
    positions = positions.astype(np.int32)
    sizes = np.array([SIZES[n % len(SIZES)] for n in positions], np.int32)
    top = (own[:, None] + np.arange(TOP) + rng.integers(0, 2, (count, 1))) % CLASSES
    top = top.astype(np.int32)
    scores = np.sort(rng.dirichlet(np.ones(TOP), count), 1)[:, ::-1].astype(np.float32)
    return {
        "image": positions,
        "size": sizes,
        "several": np.zeros(count, bool),
        "own_range": np.zeros(count, bool),
        "top": top,
        "top_score": scores,
        "row_image": positions,
        "row_size": sizes,
        "row_class": own,
        "row_predicted": top[:, 0].copy(),
        "row_score": scores[:, 0].copy(),
        "row_scale": rng.uniform(5, 30, count).astype(np.float32),
        "row_map": _draw_maps(rng, count).astype(np.float16),
    }


def _draw_maps(rng: np.random.Generator, count: int) -> Float32[np.ndarray, "n h w"]:
    """Return maps of one object each, with noise, below 0 far from it as CAM is."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    centre, width = rng.uniform(0.2, 0.8, (2, count, 1, 1)), rng.uniform(0.1, 0.4, (count, 1, 1))
    bump = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2))
    values = bump - 0.2 + rng.normal(0, 0.08, bump.shape)
    return np.asarray(values / np.abs(values).max((1, 2), keepdims=True), np.float32)


if __name__ == "__main__":
    print(json.dumps(_measure_here(Path(sys.argv[1]), int(sys.argv[2]))))
