"""Work is shards: a pure function over numbered pieces of images, each shard written whole.

A killed run goes on from the shards that are there, and memory does not grow with the data set.
Pieces flow through the workers without a stop between shards; a shard is written when its last
piece has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.engine import ranks, runtime
from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.engine.progress import show_progress
from pipeline.errors import SkippedImage, UserError
from pipeline.formats.arrays import read_arrays, write_arrays
from pipeline.formats.files import read_json, write_json
from pipeline.results.shards import Arrays, Skipped, list_shards, shard_path
from pipeline.types import Example

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int


Part = TypeVar("Part")
PositionedExamples = list[tuple[int, Example]]


def write_shards(
    folder: Path,
    what: str,
    count: int,
    size: int,
    piece: int,
    flow: Callable[[Iterator[range]], Iterator[Part]],
    join: Callable[[Sequence[Part]], tuple[Arrays, Skipped]],
    source: Any = None,
) -> None:
    """Write every shard of `count` positions that is not there yet.

    `flow` turns ranges of at most `piece` positions into parts, in order; `join` makes one shard's
    arrays of its parts. The sizes are those that the folder was begun with, so that what a killed
    run left fits; where it cannot fit, as other positions are counted or those of another
    `source`, it goes.

    Of several ranks each takes its part of the shards; all come back once all are written.
    """
    plan = folder / "plan.json"
    if ranks.current_world().rank == 0:
        _begin(plan, {"shard": size, "piece": piece, "count": count, "source": source})
    ranks.barrier()
    begun = read_json(plan)
    size, piece = begun["shard"], begun["piece"]
    own = ranks.shard_for_rank(runtime.split_into_shards(count, size))
    todo = [(n, p) for n, p in own if not _is_whole(shard_path(folder, n))]
    pieces = [
        (number, positions[start : start + piece])
        for number, positions in todo
        for start in range(0, len(positions), piece)
    ]
    left = sum(len(positions) for _, positions in todo)
    mine = sum(len(positions) for _, positions in own)
    with show_progress(what, mine, mine - left) as advance:
        parts = flow(iter([positions for _, positions in pieces]))
        numbered = zip(pieces, parts, strict=True)
        for number, group in groupby(numbered, key=lambda item: item[0][0]):
            found: list[Part] = []
            for (_, positions), part in group:
                found.append(part)
                advance(len(positions))
            arrays, aside = join(found)
            write_arrays(shard_path(folder, number), arrays, set_aside=aside)
    ranks.barrier()


def _begin(plan: Path, wanted: dict[str, Any]) -> None:
    """Keep the sizes that a folder was begun with; begin it anew where its shards cannot fit."""
    begun = read_json(plan) if plan.is_file() else {}
    if any(begun.get(name) != wanted[name] for name in ("count", "source")):
        for shard in list_shards(plan.parent):
            shard.unlink()
        write_json(plan, wanted)


def _is_whole(path: Path) -> bool:
    """Whether a shard can be read: its header says how long the file is."""
    if not path.is_file():
        return False
    try:
        read_arrays(path)
    except UserError:
        return False
    return True


def concatenate_parts(parts: Sequence[tuple[Arrays, Skipped]]) -> tuple[Arrays, Skipped]:
    """The `join` of parts that are arrays themselves; one without images has none."""
    found = [arrays for arrays, _ in parts if arrays]
    names = found[0] if found else ()
    whole = {name: np.concatenate([arrays[name] for arrays in found]) for name in names}
    return whole, [one for _, aside in parts for one in aside]


def write_image_shards(
    images: SplitImages,
    compute: Compute,
    folder: Path,
    what: str,
    work: Callable[[PositionedExamples], Arrays],
    positions: Int[np.ndarray, m] | None = None,
) -> None:
    """Write shards of what `work` makes of the images of a split, a batch at a time.

    Args:
        images: the split.
        compute: device, threads, and how many images a batch and a shard have.
        folder: where the shards are written; those that are there already are kept.
        what: what a progress bar calls it.
        work: from a batch of examples with their positions to arrays, a row an example.
        positions: of the images, where not all are wanted.
    """
    through = network_flow(images, compute, work)

    def flow(pieces: Iterator[range]) -> Iterator[tuple[Arrays, Skipped]]:
        if positions is None:
            return through(pieces)
        return through(positions[piece].tolist() for piece in pieces)

    write_shards(
        folder,
        what,
        len(images if positions is None else positions),
        compute.shard,
        compute.batch,
        flow,
        concatenate_parts,
        None if positions is None else positions.tolist(),
    )


def network_flow(
    images: SplitImages, compute: Compute, work: Callable[[PositionedExamples], Arrays]
) -> Callable[[Iterator[Sequence[int]]], Iterator[tuple[Arrays, Skipped]]]:
    """A `flow`: images read at the input's size and handed to `work`, a batch at a time.

    On a CPU each worker reads and computes its own batches with one thread: nothing waits for
    anything, whereas operations spread over threads wait for the slowest at every layer. An
    accelerator gets its batches from this thread, read ahead by the workers.
    """

    def read(positions: Sequence[int]) -> tuple[PositionedExamples, Skipped]:
        found = [images.read(position, images.size) for position in positions]
        good = [(p, e) for p, e in zip(positions, found, strict=True) if isinstance(e, Example)]
        bad = [
            (p, str(e))
            for p, e in zip(positions, found, strict=True)
            if isinstance(e, SkippedImage)
        ]
        return good, bad

    def answer(batch: tuple[PositionedExamples, Skipped]) -> tuple[Arrays, Skipped]:
        good, bad = batch
        if not good:
            return {}, bad
        with compute.autocast():
            return work(good), bad

    def flow(pieces: Iterator[Sequence[int]]) -> Iterator[tuple[Arrays, Skipped]]:
        if not compute.is_cpu:
            yield from map(
                answer,
                runtime.map_in_threads(read, pieces, compute.workers, 2 * compute.workers + 2),
            )
            return
        with single_threaded_torch():
            yield from runtime.map_in_threads(
                lambda positions: answer(read(positions)),
                pieces,
                compute.workers,
                compute.workers + 2,
            )

    return flow


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Threads that start within compute with one thread each; this one gets its own back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stack_pixels(batch: PositionedExamples) -> np.ndarray:
    """uint8 [b, H, W, 3] of a batch of one size."""
    return np.stack([example.image for _, example in batch])


def stack_positions(batch: PositionedExamples) -> np.ndarray:
    return np.array([position for position, _ in batch], np.int32)


def stack_labels(batch: PositionedExamples, device: torch.device) -> torch.Tensor:
    import torch

    return torch.tensor([example.label for _, example in batch], device=device)
