"""Results of single images that an earlier run computed, found again by the images' content.

A result whose key differs from an earlier one only in the images has each unchanged image's part
already. An image is unchanged where name, size and time of its file are those of then, or else
where the hash of its content is. Its class must be the same, too.

    images.safetensors   `name` (hash), `size`, `time` (ns), `content` (hash), `label` of each image
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.engine import ranks, runtime, store
from pipeline.formats.arrays import read_arrays, write_arrays
from pipeline.formats.files import read_json
from pipeline.formats.stored import hash_content
from pipeline.ops.hashing import hash_of
from pipeline.results.maps import load_skipped
from pipeline.results.shards import Arrays, shard_path

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Int64

STAMPS_FILE = "images.safetensors"
KEY_FILE = "cache_key.json"
OF_IMAGES = ("data", "split")  # parts of the key of stage explain that say which images
OPEN_SHARDS = 4  # kept in memory
UNKNOWN = 0
BACKGROUND = -2  # in place of the hash of the labels of an image that is known to show no class


class ImageFiles(Protocol):
    """Images of which most are files, in the order of the positions of a result."""

    def __len__(self) -> int: ...

    @property
    def ids(self) -> Sequence[str]:
        """The name of each image."""

    @property
    def labels(self) -> Int[np.ndarray, n]:
        """The class of each image; -1 where it has none."""

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes."""

    @property
    def label_sets(self) -> Bool[np.ndarray, "n C"]:
        """Which classes each image has."""

    @property
    def backgrounds(self) -> Bool[np.ndarray, n]:
        """Which images are known to show no class."""

    @property
    def has_files(self) -> bool:
        """Whether the images are files."""

    def location(self, position: int) -> str:
        """Return where the bytes of an image are."""

    def stamp(self, position: int) -> tuple[int, int]:
        """Return the size of an image's file in bytes and its time of change in ns."""


@dataclass(frozen=True)
class Stamps:
    """What tells whether an image is the same, in the order of positions.

    Attributes:
        name: hash of the name of the image.
        size: of the file, in bytes.
        time: of the last change of the file, in ns.
        content: hash of the file; UNKNOWN as long as it was not computed.
        label: the class of the image; a hash of all where it may have several.
    """

    name: Int64[np.ndarray, n]
    size: Int64[np.ndarray, n]
    time: Int64[np.ndarray, n]
    content: Int64[np.ndarray, n]
    label: Int64[np.ndarray, n]

    def write(self, folder: Path) -> None:
        """Write the stamps into the folder of a result."""
        write_arrays(folder / STAMPS_FILE, dict(vars(self)))

    def hash_file(self, images: ImageFiles, position: int) -> None:
        """Compute the hash of an image's file, best soon after it was read, unless it is known.

        Args:
            images: of the result.
            position: of the image.
        """
        if self.content[position] == UNKNOWN:
            self.content[position] = _hash(images, position)

    def hash_files(self, images: ImageFiles, positions: Sequence[int], workers: int) -> None:
        """Compute the hashes of some images' files that are not known.

        Args:
            images: of the result.
            positions: of the images.
            workers: threads.
        """
        hashed = runtime.map_in_threads(
            lambda n: self.hash_file(images, n), iter(positions), workers
        )
        for _ in hashed:
            pass

    def join_ranks(self) -> None:
        """Exchange the hashes that the ranks computed, each of the images that it read."""
        for content in ranks.all_gather(self.content):
            np.copyto(self.content, content, where=self.content == UNKNOWN)

    def take(self, hashes: Mapping[int, int]) -> None:
        """Note hashes that a worker computed, by position."""
        for position, content in hashes.items():
            self.content[position] = content

    @classmethod
    def read(cls, folder: Path) -> Stamps:
        """Return the stamps of a result."""
        return cls(**read_arrays(folder / STAMPS_FILE)[0])


class GatheredStamps:
    """The hashes that a worker computes, in the place of the stamps that another process has."""

    def __init__(self) -> None:
        self._content: dict[int, int] = {}

    def hash_file(self, images: ImageFiles, position: int) -> None:
        """Compute the hash of an image's file; the arguments are those of `Stamps.hash_file`."""
        self._content[position] = _hash(images, position)

    def hand_over(self) -> dict[int, int]:
        """Return the hashes since the last call, by position."""
        content, self._content = self._content, {}
        return content


@dataclass(frozen=True)
class EarlierImages:
    """An earlier result, and which of its images are here again.

    Attributes:
        folder: of the result.
        positions: of each image here the position there; -1 where it is not there.
    """

    folder: Path
    positions: Int64[np.ndarray, n]

    @property
    def count(self) -> int:
        """How many images are there."""
        return int((self.positions >= 0).sum())

    def has(self, position: int) -> bool:
        """Return whether an image is there."""
        return bool(self.positions[position] >= 0)


def without_images(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cache key of stage explain without what says which images it is of."""
    return {name: value for name, value in key.items() if name not in (*OF_IMAGES, "stage")}


def find_earlier(
    images: ImageFiles,
    results: Path,
    key: Mapping[str, Any],
    workers: int,
    select: Callable[[Mapping[str, Any]], Any] = without_images,
) -> tuple[EarlierImages | None, Stamps | None]:
    """Find the newest result of a stage in which each image's part was made in the same way.

    Args:
        images: of the result that is wanted.
        results: the folder with the results of the stage.
        key: the cache key of the result that is wanted.
        workers: threads that hash files.
        select: from a cache key to what an image's part depends on besides the image and its class.

    Returns:
        The images that are there; None where there is no such result. And the stamps of all images;
        None where they are no files.
    """
    if not images.has_files:
        return None, None
    stat = [images.stamp(position) for position in range(len(images))]
    size, time = np.array(stat, np.int64).reshape(-1, 2).T
    name = np.array([int(hash_of(id), 16) >> 1 for id in images.ids], np.int64)
    label = _number_labels(images)
    with store.Store(results.parent).lock():  # none is removed meanwhile, nor what is used now
        folder = _newest(results, select, select(key))
    then = None if folder is None else Stamps.read(folder)
    positions = np.full(len(images), -1, np.int64)
    content = np.full(len(images), UNKNOWN, np.int64)
    if then is not None:
        now = list_rows(name, size, time, label)
        place = {k: n for n, k in enumerate(list_rows(then.name, then.size, then.time, then.label))}
        positions[:] = [place.get(row, -1) for row in now]
        kept = positions >= 0
        content[kept] = then.content[positions[kept]]
    stamps = Stamps(name, size, time, content, label)
    if then is not None and folder is not None:
        perhaps = np.flatnonzero((positions < 0) & np.isin(size, then.size)).tolist()
        stamps.hash_files(images, perhaps, workers)
        rows = enumerate(list_rows(then.content, then.label))
        by_content = {row: n for n, row in rows if row[0] > UNKNOWN}
        for n in perhaps:
            positions[n] = by_content.get((int(content[n]), int(label[n])), -1)
        for n in load_skipped(folder):
            positions[positions == n] = -1
    if folder is None or not (positions >= 0).any():
        return None, stamps
    return EarlierImages(folder, positions), stamps


def _number_labels(images: ImageFiles) -> Int64[np.ndarray, n]:
    """Return the class of each image; where it may have several, a hash of all."""
    if not images.is_multi_label:
        return np.asarray(images.labels, np.int64)
    numbers = [int(hash_of(row.tolist()), 16) >> 1 for row in images.label_sets]
    return np.where(images.backgrounds, BACKGROUND, np.array(numbers, np.int64))


def list_rows(*columns: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Yield the numbers of several columns side by side.

    Args:
        columns: of the same length.
    """
    return zip(*(column.tolist() for column in columns), strict=True)


def _hash(images: ImageFiles, position: int) -> int:
    """Return 63 bits of the hash of a file; a file that cannot be read has none of its own."""
    with suppress(OSError):
        return int(hash_content(images.location(position)), 16) >> 1
    return -1 - position


def _newest(results: Path, select: Callable[[Mapping[str, Any]], Any], wanted: Any) -> Path | None:
    """Return the newest complete result whose key has the wanted part; it is used now."""
    having = [path.parent for path in results.glob(f"*/{STAMPS_FILE}")]
    for folder in sorted(having, key=lambda path: -path.stat().st_mtime_ns):
        if (
            (folder / store.DONE).is_file()
            and select(read_json(folder / KEY_FILE)) == wanted
            and store.use(folder)
        ):
            return folder
    return None


def take_arrays(earlier: EarlierImages, positions: Sequence[int]) -> list[Arrays]:
    """Return the rows of some images in the shards of the earlier result, renumbered.

    Args:
        earlier: the result.
        positions: of images that are there.
    """
    size = int(read_json(earlier.folder / "plan.json")["shard"])
    here: dict[int, list[int]] = {}  # an image may be here several times
    for position in positions:
        here.setdefault(int(earlier.positions[position]), []).append(position)
    by_shard: dict[int, list[int]] = {}
    for there in here:
        by_shard.setdefault(there // size, []).append(there)
    taken = []
    for number, wanted in by_shard.items():
        arrays = _open_shard(str(shard_path(earlier.folder, number)))
        for n in range(max(len(here[there]) for there in wanted)):
            place = {there: here[there][n] for there in wanted if n < len(here[there])}
            taken.append(_select_rows(arrays, place))
    return taken


def _select_rows(arrays: Arrays, place: Mapping[int, int]) -> Arrays:
    """Return the rows of some images; `place` is from a position there to that here."""
    chosen: Arrays = {}
    for name, values in arrays.items():
        of = arrays["row_image" if name.startswith("row_") else "image"]
        rows = values[np.isin(of, list(place))]
        if name in ("image", "row_image"):
            rows = np.array([place[int(n)] for n in rows], values.dtype)
        chosen[name] = rows
    return chosen


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: str) -> Arrays:
    return read_arrays(Path(path))[0]


def join_in_order(parts: Sequence[Arrays]) -> Arrays:
    """Join arrays of several images, in the order of the positions.

    Args:
        parts: rows of images each, with the same names.
    """
    nonempty = [arrays for arrays in parts if arrays]
    if len(nonempty) <= 1:
        return dict(nonempty[0]) if nonempty else {}
    joined = {name: np.concatenate([part[name] for part in nonempty]) for name in nonempty[0]}
    orders = {
        name: np.argsort(joined[name], kind="stable")
        for name in ("image", "row_image")
        if name in joined
    }
    return {
        name: values[orders["row_image" if name.startswith("row_") else "image"]]
        for name, values in joined.items()
    }
