"""Shards: map a function over numbered pieces of images, and write each shard atomically.

A killed run continues from the shards that exist, and memory does not grow with the data set.
The workers do not stop between shards; a shard is written when its last piece is computed, and
parts of it before, where it takes long (shard_parts.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.engine import memory_limit, ranks, runtime, shard_parts
from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.engine.progress import show_progress
from pipeline.engine.reuse import EarlierImages, join_in_order, take_arrays
from pipeline.engine.shard_parts import concatenate_parts
from pipeline.engine.spreading import Spread, current_spread, write_spread_shards
from pipeline.errors import SkippedImage, UserError
from pipeline.formats.arrays import read_arrays
from pipeline.formats.files import read_json, write_json
from pipeline.ops.label_sets import pack_label_sets
from pipeline.results.shards import Arrays, Skipped, list_shards, shard_path
from pipeline.types import Example
from pipeline.types.jobs import Job

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int


Part = TypeVar("Part")
PositionedExamples = list[tuple[int, Example]]

FEEDERS = 2  # batches on a GPU at once: one computes there while the other is on the CPU


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """How positions are divided into shards.

    Args:
        count: number of positions.
        size: positions in a shard.
        piece: positions that are computed together.
        source: what the positions count, as JSON-like values.
        unit: what the positions are, for the progress bar.
        reads: folders of other results that workers of a runner need to compute pieces.
    """

    count: int
    size: int
    piece: int
    source: Any = None
    unit: str = "images"
    reads: Sequence[Path] = ()

    @property
    def image_at(self) -> Callable[[int], int] | None:
        """From a position to that of its image in the split; None: positions are not of images."""
        if self.unit != "images":
            return None
        source = self.source
        return (lambda n: n) if source is None else (lambda n: int(source[n]))


def write_shards(
    folder: Path,
    what: str,
    plan: ShardPlan,
    flow: Callable[[Iterator[range]], Iterator[Part]],
    join: Callable[[Sequence[Part]], tuple[Arrays, Skipped]],
) -> None:
    """Write the shards of a plan that are missing.

    Of several ranks each writes its part of the shards; all return once all are written.

    Args:
        folder: where the shards are. Its plan.json holds the sizes of the first run, which also
            hold for later runs, so that the shards of a killed run fit. Where `count` or `source`
            differ from those in plan.json, all shards are deleted.
        what: the title of the progress bar.
        plan: how positions are divided.
        flow: from ranges of at most `plan.piece` positions to the part of each, in order.
        join: from the parts of a shard to its arrays and its skipped images. Where a shard has more
            than a piece, joining some of its parts, and concatenating, gives the same.
    """
    path = folder / "plan.json"
    if ranks.current_world().rank == 0:
        _begin(path, plan)
    ranks.barrier()
    begun = read_json(path)
    size, piece = begun["shard"], begun["piece"]
    if (spread := current_spread()) is not None:
        _write_spread(spread, folder, what, plan, (size, piece), flow, join)
        return
    shards = ranks.shard_for_rank(runtime.split_into_shards(plan.count, size))
    pieces = [
        (number, positions[start : start + piece], len(positions))
        for number, positions in shards
        if not _is_complete(shard_path(folder, number))
        for start in range(shard_parts.count_done(folder, number), len(positions), piece)
    ]
    left = sum(len(positions) for _, positions, _ in pieces)
    total = sum(len(positions) for _, positions in shards)
    with show_progress(what, total, total - left, plan.unit) as advance:
        written, shard = time.monotonic(), None
        parts = flow(iter([positions for _, positions, _ in pieces]))
        for (number, positions, count), part in zip(pieces, parts, strict=True):
            shard = shard or shard_parts.UnfinishedShard(folder, number, join, written)
            shard.add(part, len(positions))
            advance(len(positions))
            if shard.count < count:
                shard.save()
            else:
                shard.finish()
                written, shard = time.monotonic(), None
    ranks.barrier()
    if ranks.current_world().rank == 0:
        shard_parts.delete_parts(folder)  # of shards that a killed run had just completed


def _write_spread(
    spread: Spread,
    folder: Path,
    what: str,
    plan: ShardPlan,
    sizes: tuple[int, int],
    flow: Callable[[Iterator[range]], Iterator[Part]],
    join: Callable[[Sequence[Part]], tuple[Arrays, Skipped]],
) -> None:
    """Write the shards of a plan that are missing, as workers of a runner compute them.

    `sizes` are the positions in a shard and in a piece; the other arguments are as of
    `write_shards`.
    """
    size, piece = sizes
    jobs = [
        Job(number, positions.start, positions.stop, piece)
        for number, positions in runtime.split_into_shards(plan.count, size)
        if not _is_complete(shard_path(folder, number))
    ]
    left = sum(map(len, jobs))
    with show_progress(what, plan.count, plan.count - left, plan.unit) as advance:
        write_spread_shards(spread, folder, jobs, flow, join, advance, plan.image_at, plan.reads)
    shard_parts.delete_parts(folder)


def _begin(path: Path, plan: ShardPlan) -> None:
    """Write the plan of a folder, and delete its shards, unless it was begun with such a plan."""
    begun = read_json(path) if path.is_file() else {}
    if begun.get("count") != plan.count or begun.get("source") != plan.source:
        for shard in list_shards(path.parent):
            shard.unlink()
        shard_parts.delete_parts(path.parent)
        sizes = {"shard": plan.size, "piece": plan.piece}
        write_json(path, {**sizes, "count": plan.count, "source": plan.source})


def _is_complete(path: Path) -> bool:
    """Return whether a shard can be read: its header tells how long the file is."""
    if not path.is_file():
        return False
    try:
        read_arrays(path)
    except UserError:
        return False
    return True


def write_image_shards(
    images: SplitImages,
    compute: Compute,
    folder: Path,
    what: str,
    work: Callable[[PositionedExamples], Arrays],
    positions: Int[np.ndarray, m] | None = None,
    earlier: EarlierImages | None = None,
) -> None:
    """Write shards of the arrays that `work` computes from the images of a split.

    Args:
        images: the split.
        compute: device, threads, and how many images a batch and a shard have.
        folder: where the shards are written; existing shards are kept.
        what: the title of the progress bar.
        work: from a batch of examples with their positions to arrays, a row for each example.
        positions: of the images; None: all images of the split.
        earlier: a result that has some of the images of the split; None: there is none.
    """
    compute_batches = network_flow(images, compute, work, concatenate_arrays)

    def flow(pieces: Iterator[range]) -> Iterator[tuple[Arrays, Skipped]]:
        if earlier is not None:
            return flow_of_new_images(compute_batches, pieces, earlier)
        if positions is None:
            return compute_batches(pieces)
        return compute_batches(positions[piece].tolist() for piece in pieces)

    plan = ShardPlan(
        count=len(images if positions is None else positions),
        size=compute.shard,
        piece=compute.batch,
        source=None if positions is None else positions.tolist(),
    )
    write_shards(folder, what, plan, flow, concatenate_parts)


Flow = Callable[[Iterator[Sequence[int]]], Iterator[tuple[Arrays, Skipped]]]


def flow_of_new_images(
    compute: Flow, pieces: Iterator[range], earlier: EarlierImages | None
) -> Iterator[tuple[Arrays, Skipped]]:
    """Compute the images of each piece that an earlier result does not have; take the others.

    Args:
        compute: from the positions of each piece to its arrays and skipped images.
        pieces: of positions.
        earlier: the result; None: there is none.

    Yields:
        Arrays and skipped images of each piece.
    """
    if earlier is None:
        yield from compute(pieces)
        return
    pieces, again = tee(pieces)
    computed = compute([p for p in piece if not earlier.has(p)] for piece in pieces)
    for piece, (arrays, skipped) in zip(again, computed, strict=True):
        taken = take_arrays(earlier, [p for p in piece if earlier.has(p)])
        yield join_in_order([arrays, *taken]), skipped


def concatenate_arrays(parts: Sequence[Arrays]) -> Arrays:
    """Concatenate the arrays of the parts of a batch by name."""
    return parts[0] if len(parts) == 1 else concatenate_parts([(each, []) for each in parts])[0]


def network_flow(
    images: SplitImages,
    compute: Compute,
    work: Callable[[PositionedExamples], Arrays],
    join: Callable[[Sequence[Arrays]], Arrays] | None = None,
) -> Flow:
    """Return a function from pieces of positions to what `work` computes from their images.

    Images are read at the network's input size. On a CPU each worker reads and computes its
    batches with a single thread, as operations that are split over threads wait for the slowest
    thread at each layer. An accelerator is fed with batches that the workers read ahead; a GPU by
    FEEDERS threads, so that it computes while arrays are copied, packed or segmented on the CPU.

    Args:
        images: the split.
        compute: device, threads, and how many images a batch has.
        work: from a batch of examples with their positions to arrays.
        join: from the arrays of the parts of a batch to those of the batch. With it, a batch for
            which an accelerator has no memory is computed in parts; None: that is an error.

    Returns:
        From an iterator of pieces to an iterator of arrays and skipped images, in the same order.
    """
    limit = memory_limit.BatchLimit(compute.device)

    def read(positions: Sequence[int]) -> tuple[PositionedExamples, Skipped]:
        results = [images.read(position, images.size) for position in positions]
        examples = [
            (position, result)
            for position, result in zip(positions, results, strict=True)
            if isinstance(result, Example)
        ]
        skipped = [
            (position, str(result))
            for position, result in zip(positions, results, strict=True)
            if isinstance(result, SkippedImage)
        ]
        return examples, skipped

    def compute_batch(batch: tuple[PositionedExamples, Skipped]) -> tuple[Arrays, Skipped]:
        examples, skipped = batch
        if not examples:
            return {}, skipped
        with compute.autocast():
            if join is None or compute.is_cpu:
                return work(examples), skipped
            return join(limit.compute(lambda part: work([*part]), examples)), skipped

    def flow(pieces: Iterator[Sequence[int]]) -> Iterator[tuple[Arrays, Skipped]]:
        if not compute.is_cpu:
            batches = runtime.map_in_threads(read, pieces, compute.workers, 2 * compute.workers + 2)
            feeders = FEEDERS if compute.device.type == "cuda" else 0
            yield from runtime.map_in_threads(compute_batch, batches, feeders, FEEDERS + 1)
            return
        with single_threaded_torch():
            yield from runtime.map_in_threads(
                lambda positions: compute_batch(read(positions)),
                pieces,
                compute.workers,
                compute.workers + 2,
            )

    return flow


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Let threads that start within compute with a single thread each; restore the number after."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stack_pixels(batch: PositionedExamples) -> np.ndarray:
    """Stack the images of a batch, which have the same size, to uint8 [b, H, W, 3]."""
    return np.stack([example.image for _, example in batch])


def stack_positions(batch: PositionedExamples) -> np.ndarray:
    """Return the positions of a batch as int32 [b]."""
    return np.array([position for position, _ in batch], np.int32)


def stack_labels(batch: PositionedExamples, device: torch.device) -> torch.Tensor:
    """Return the classes of a batch as int64 [b] on a device; -1 where an image has none."""
    import torch

    return torch.tensor([example.label for _, example in batch], device=device)


def stack_label_sets(batch: PositionedExamples, classes: int, device: torch.device) -> torch.Tensor:
    """Return which classes each image of a batch has, as bool [b, C] on a device."""
    import torch

    labels = [example.label for _, example in batch]
    others = [example.other_labels for _, example in batch]
    return torch.from_numpy(pack_label_sets(labels, others, classes)).to(device)
