"""Parts of a shard, written while it is computed: a killed run loses seconds of slow work.

    .shard-000003.part-0000.safetensors   arrays and skipped images of some positions, in order

Parts are joined when the shard is complete, to the bytes of a shard that was computed at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from pipeline.errors import UserError
from pipeline.formats.arrays import read_arrays, write_arrays
from pipeline.results.shards import Arrays, Skipped, shard_path

Part = TypeVar("Part")

PART_SECONDS = 10.0  # of work that are kept in memory alone
PATTERN = ".shard-*.part-*.safetensors"


class UnfinishedShard(Generic[Part]):
    """A shard that is being computed, from the parts that an earlier run wrote.

    Args:
        folder: of the result.
        number: of the shard.
        join: from computed pieces to arrays and skipped images.
        since: when the computation began, or the shard before was written; as time.monotonic().
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        join: Callable[[Sequence[Part]], tuple[Arrays, Skipped]],
        since: float,
    ) -> None:
        self.path = shard_path(folder, number)
        self._join = join
        self._written = [*_read_parts(self.path)]
        self._pieces: list[Part] = []
        self._write_at = since + PART_SECONDS
        self.count = sum(count for count, _ in self._written)

    def add(self, piece: Part, count: int) -> None:
        """Add what was computed from the next `count` positions."""
        self._pieces.append(piece)
        self.count += count

    def save(self) -> None:
        """Write a part of what was added, unless the last was written some seconds ago."""
        if time.monotonic() < self._write_at:
            return
        arrays, skipped = self._join(self._pieces)
        count = self.count - sum(count for count, _ in self._written)
        path = _part_path(self.path, len(self._written))
        write_arrays(path, arrays, set_aside=skipped, count=count)
        self._written.append((count, (arrays, skipped)))
        self._pieces = []
        self._write_at = time.monotonic() + PART_SECONDS

    def finish(self) -> None:
        """Write the whole shard, and delete its parts."""
        computed = [self._join(self._pieces)] if self._pieces else []
        parts = [part for _, part in self._written] + computed
        arrays, skipped = parts[0] if len(parts) == 1 else concatenate_parts(parts)
        write_arrays(self.path, arrays, set_aside=skipped)
        for number in range(len(self._written)):
            _part_path(self.path, number).unlink(missing_ok=True)


def count_done(folder: Path, number: int) -> int:
    """Return how many positions the parts of a shard hold."""
    return sum(count for count, _ in _read_parts(shard_path(folder, number)))


def delete_parts(folder: Path) -> None:
    """Delete the parts of all shards."""
    for path in folder.glob(PATTERN):
        path.unlink(missing_ok=True)


def concatenate_parts(parts: Sequence[tuple[Arrays, Skipped]]) -> tuple[Arrays, Skipped]:
    """Concatenate the arrays of parts by name; parts of which no image was readable have none."""
    nonempty = [arrays for arrays, _ in parts if arrays]
    names = nonempty[0] if nonempty else ()
    joined = {name: np.concatenate([arrays[name] for arrays in nonempty]) for name in names}
    return joined, [item for _, skipped in parts for item in skipped]


def _part_path(shard: Path, number: int) -> Path:
    return shard.with_name(f".{shard.stem}.part-{number:04d}{shard.suffix}")


def _read_parts(shard: Path) -> Iterator[tuple[int, tuple[Arrays, Skipped]]]:
    """Yield how many positions each part of a shard has, and what it holds, up to a damaged one."""
    number = 0
    while (path := _part_path(shard, number)).is_file():
        try:
            arrays, notes = read_arrays(path)
        except UserError:
            return
        yield notes["count"], (arrays, [(int(n), why) for n, why in notes["set_aside"]])
        number += 1
