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

from pipeline import ranks, runtime, store
from pipeline.records import Example, Problem, SetAside, Size, Split

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int

    from pipeline.run import Run

Part = TypeVar("Part")
Arrays = dict[str, np.ndarray]
Aside = list[tuple[int, str]]
"""Positions of images that could not be used, and why."""
Labelled = list[tuple[int, Example]]


def path_of(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.safetensors"


def written(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


def over(
    folder: Path,
    what: str,
    count: int,
    size: int,
    piece: int,
    flow: Callable[[Iterator[range]], Iterator[Part]],
    join: Callable[[Sequence[Part]], tuple[Arrays, Aside]],
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
    if ranks.world().rank == 0:
        _begin(plan, {"shard": size, "piece": piece, "count": count, "source": source})
    ranks.barrier()
    begun = store.read_json(plan)
    size, piece = begun["shard"], begun["piece"]
    own = ranks.mine(runtime.shards(count, size))
    todo = [(n, p) for n, p in own if not _is_whole(path_of(folder, n))]
    pieces = [
        (number, positions[start : start + piece])
        for number, positions in todo
        for start in range(0, len(positions), piece)
    ]
    left = sum(len(positions) for _, positions in todo)
    mine = sum(len(positions) for _, positions in own)
    with runtime.progress(what, mine, mine - left) as advance:
        parts = flow(iter([positions for _, positions in pieces]))
        numbered = zip(pieces, parts, strict=True)
        for number, group in groupby(numbered, key=lambda item: item[0][0]):
            found: list[Part] = []
            for (_, positions), part in group:
                found.append(part)
                advance(len(positions))
            arrays, aside = join(found)
            store.write_arrays(path_of(folder, number), arrays, set_aside=aside)
    ranks.barrier()


def _begin(plan: Path, wanted: dict[str, Any]) -> None:
    """Keep the sizes that a folder was begun with; begin it anew where its shards cannot fit."""
    begun = store.read_json(plan) if plan.is_file() else {}
    if any(begun.get(name) != wanted[name] for name in ("count", "source")):
        for shard in written(plan.parent):
            shard.unlink()
        store.write_json(plan, wanted)


def _is_whole(path: Path) -> bool:
    """Whether a shard can be read: its header says how long the file is."""
    if not path.is_file():
        return False
    try:
        store.read_arrays(path)
    except Problem:
        return False
    return True


def concatenated(parts: Sequence[tuple[Arrays, Aside]]) -> tuple[Arrays, Aside]:
    """The `join` of parts that are arrays themselves; one without images has none."""
    found = [arrays for arrays, _ in parts if arrays]
    names = found[0] if found else ()
    whole = {name: np.concatenate([arrays[name] for arrays in found]) for name in names}
    return whole, [one for _, aside in parts for one in aside]


def of_images(
    run: Run,
    folder: Path,
    what: str,
    split: Split,
    work: Callable[[Labelled], Arrays],
    positions: Int[np.ndarray, m] | None = None,
) -> None:
    """Write shards of what `work` makes of the images of a split, a batch at a time; of all, or of
    those at the positions given."""
    through = through_network(run, split, work)

    def flow(pieces: Iterator[range]) -> Iterator[tuple[Arrays, Aside]]:
        if positions is None:
            return through(pieces)
        return through(positions[piece].tolist() for piece in pieces)

    over(
        folder,
        what,
        len(run.data.ids(split) if positions is None else positions),
        run.config["runtime"]["shard"],
        batch_of(run),
        flow,
        concatenated,
        None if positions is None else positions.tolist(),
    )


def through_network(
    run: Run, split: Split, work: Callable[[Labelled], Arrays]
) -> Callable[[Iterator[Sequence[int]]], Iterator[tuple[Arrays, Aside]]]:
    """A `flow`: images read at the input's size and handed to `work`, a batch at a time.

    On a CPU each worker reads and computes its own batches with one thread: nothing waits for
    anything, whereas operations spread over threads wait for the slowest at every layer. An
    accelerator gets its batches from this thread, read ahead by the workers.
    """

    def read(positions: Sequence[int]) -> tuple[Labelled, Aside]:
        found = [read_image(run, split, position, run.size) for position in positions]
        good = [(p, e) for p, e in zip(positions, found, strict=True) if isinstance(e, Example)]
        bad = [
            (p, str(e)) for p, e in zip(positions, found, strict=True) if isinstance(e, SetAside)
        ]
        return good, bad

    def answer(batch: tuple[Labelled, Aside]) -> tuple[Arrays, Aside]:
        good, bad = batch
        if not good:
            return {}, bad
        with runtime.autocast(run.device, run.precision):
            return work(good), bad

    def flow(pieces: Iterator[Sequence[int]]) -> Iterator[tuple[Arrays, Aside]]:
        if run.device.type != "cpu":
            yield from map(answer, runtime.stream(read, pieces, run.workers, 2 * run.workers + 2))
            return
        with one_thread_each():
            yield from runtime.stream(
                lambda positions: answer(read(positions)), pieces, run.workers, run.workers + 2
            )

    return flow


def read_image(run: Run, split: Split, position: int, at: Size | None = None) -> Example | SetAside:
    """An image scaled to `at`, or as it is; or the reason why it cannot be used."""
    try:
        return run.data.example(split, position, at=at)
    except SetAside as problem:
        return problem


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Threads that start within compute with one thread each; this one gets its own back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batch_of(run: Run) -> int:
    """`runtime.batch`: by default as many as fit the caches of a core, or feed an accelerator."""
    wanted = run.config["runtime"]["batch"]
    return int(wanted or (16 if run.device.type == "cpu" else 128))


def pixels(batch: Labelled) -> np.ndarray:
    """uint8 [b, H, W, 3] of a batch of one size."""
    return np.stack([example.image for _, example in batch])


def positions_of(batch: Labelled) -> np.ndarray:
    return np.array([position for position, _ in batch], np.int32)


def labels_of(batch: Labelled, device: torch.device) -> torch.Tensor:
    import torch

    return torch.tensor([example.label for _, example in batch], device=device)
