"""Images through a frozen network, once: what a head learns on, in shards on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import checkpoint, runtime, store
from pipeline.records import Example, SetAside, Split
from pipeline.run import Run


def examples(
    run: Run, split: Split, positions: Iterable[int]
) -> Iterator[tuple[int, Example | SetAside]]:
    """Images at the network's input size, in order, decoded ahead by the run's workers."""
    data, size = run.data, run.data.size

    def read(position: int) -> tuple[int, Example | SetAside]:
        try:
            return position, data.example(split, position, at=size)
        except SetAside as problem:
            return position, problem

    return runtime.stream(read, positions, run.workers, 2 * run.config["runtime"]["batch"])


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.safetensors"


def over_shards(
    folder: Path,
    what: str,
    count: int,
    size: int,
    make: Callable[[range], tuple[dict[str, Any], Any]],
) -> None:
    """Write every shard that is not there yet: `make(positions)` gives its arrays and what was
    set aside. The shard size is the one that the folder was begun with."""
    plan = folder / "plan.json"
    if not plan.is_file():
        store.write_json(plan, {"count": count, "shard": size})
    size = store.read_json(plan)["shard"]
    todo = [(n, p) for n, p in runtime.shards(count, size) if not shard_path(folder, n).is_file()]
    left = sum(len(positions) for _, positions in todo)
    with runtime.progress(what, count, count - left) as advance:
        for number, positions in todo:
            arrays, set_aside = make(positions)
            store.write_arrays(shard_path(folder, number), arrays, set_aside=set_aside)
            advance(len(positions))


def pooled(run: Run, folder: Path, network: Any, mean: Any, std: Any, split: Split) -> None:
    """mean_ij f_k(i, j) of each image, float16 [n, K], with the labels."""
    import torch

    network.to(run.device, memory_format=torch.channels_last).eval()
    empty = np.zeros((0, network.class_weights.shape[1]), np.float16)

    def shard(positions: range) -> tuple[dict[str, Any], list[Any]]:
        set_aside: list[Any] = []
        features, labels = [], []
        with torch.inference_mode(), runtime.autocast(run.device, run.precision):
            found = good(examples(run, split, positions), set_aside)
            for batch in runtime.batches(found, run.config["runtime"]["batch"]):
                images = np.stack([example.image for _, example in batch])
                maps = network.features(checkpoint.to_tensor(images, mean, std, run.device))
                features.append(maps.float().mean((2, 3)).half().cpu().numpy())
                labels += [example.label for _, example in batch]
        return {
            "features": np.concatenate(features) if features else empty,
            "labels": np.array(labels, np.int64),
        }, set_aside

    over_shards(folder, "features", len(run.data.ids(split)), run.config["runtime"]["shard"], shard)


def good(
    found: Iterable[tuple[int, Example | SetAside]], set_aside: list[Any]
) -> Iterator[tuple[int, Example]]:
    """The images that could be read; the others are noted with their reason."""
    for position, example in found:
        if isinstance(example, SetAside):
            set_aside.append([position, str(example)])
        else:
            yield position, example
