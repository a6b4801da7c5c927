"""What is measured of each image of all splits: its size, its kind of pixels, its hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.engine import runtime
from pipeline.engine.images import SplitImages, is_multi_label
from pipeline.engine.reuse import EarlierImages
from pipeline.engine.shard_parts import concatenate_parts
from pipeline.engine.shards import ShardPlan, flow_of_new_images, write_shards
from pipeline.errors import SkippedImage
from pipeline.formats import photo
from pipeline.formats.arrays import read_arrays
from pipeline.formats.stored import hash_content
from pipeline.ops.near_duplicates import CELLS, GREY_SIDE, measure_signature
from pipeline.ops.perceptual_hash import SIDE, measure_colour_range
from pipeline.protocols import DataSet, HasFiles
from pipeline.results.shards import Arrays, Skipped, list_shards
from pipeline.types import Example, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int, Int32, Int64, UInt8, UInt64

SPLITS: tuple[Split, ...] = ("train", "held_back", "calibration", "val", "test")
LEARNED: tuple[Split, ...] = ("train", "held_back")
MODES = (
    "other", "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB",
    "HSV", "I", "F", "I;16", "I;16L", "I;16B", "I;16N",
)  # fmt: skip
"""Pillow's modes; shards hold the position of a mode here."""
PIECE = 16  # images that a thread measures at a time


class CheckedImages:
    """The images of all splits, one after the other.

    Attributes:
        data: the data set.
        ids: the name of each image.
        labels: the class of each image, the first of several; -1 where it has none.
        sets: which classes each image has; None: it has one at most.
        backgrounds: which images are known to show no class.
        splits: the split of each image, as its position in SPLITS.
        places: the position of each image in its split.
    """

    def __init__(self, data: DataSet) -> None:
        """Read the lists of a data set."""
        self.data = data
        self.ids: list[str] = [id for split in SPLITS for id in data.ids(split)]
        counts = [len(data.ids(split)) for split in SPLITS]
        labels = [np.asarray(data.labels(split), np.int64) for split in SPLITS]
        self.labels: Int64[np.ndarray, n] = np.concatenate(labels)
        self.sets: Bool[np.ndarray, "n C"] | None = None
        parts = [SplitImages(data, split) for split in SPLITS]
        if is_multi_label(data):
            self.sets = np.concatenate([part.label_sets for part in parts])
        self.backgrounds: Bool[np.ndarray, n] = np.concatenate([p.backgrounds for p in parts])
        self.splits: Int64[np.ndarray, n] = np.repeat(np.arange(len(SPLITS)), counts)
        self.places: Int64[np.ndarray, n] = np.concatenate([np.arange(k) for k in counts])

    def __len__(self) -> int:
        return len(self.ids)

    def classes_of(self, number: int) -> tuple[int, ...]:
        """Return the classes of an image; also numbers of no class, -1 where it is not labelled."""
        if self.backgrounds[number]:
            return ()
        if self.sets is None or not self.sets[number].any():
            return (int(self.labels[number]),)
        return tuple(np.flatnonzero(self.sets[number]).tolist())

    def count_classes(self, chosen: Bool[np.ndarray, n], classes: int) -> Int[np.ndarray, c]:
        """Count the images of each class; an image of several counts for each of them.

        Args:
            chosen: which images count.
            classes: how many there are.
        """
        if self.sets is not None:
            return np.asarray(self.sets[chosen].sum(0))
        known = self.labels[chosen & (self.labels >= 0) & (self.labels < classes)]
        return np.bincount(known, minlength=classes)

    def split(self, number: int) -> Split:
        """Return the split of an image."""
        return SPLITS[int(self.splits[number])]

    def is_in(self, *splits: Split) -> Bool[np.ndarray, n]:
        """Return whether each image is in one of some splits."""
        return np.isin(self.splits, [SPLITS.index(split) for split in splits])

    @cached_property
    def _files(self) -> HasFiles | None:
        """The data set where its images are files; asking for a protocol takes some time."""
        return self.data if isinstance(self.data, HasFiles) else None

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes."""
        return self.sets is not None

    @property
    def label_sets(self) -> Bool[np.ndarray, "n C"]:
        """Which classes each image has, where it may have several."""
        assert self.sets is not None, "images have one class at most"
        return self.sets

    @property
    def has_files(self) -> bool:
        """Whether the images are files."""
        return self._files is not None

    def location(self, number: int) -> str:
        """Return where the bytes of an image are, as pipeline/formats/stored.py reads them."""
        assert self._files is not None, "only files have a location"
        return self._files.location(self.split(number), int(self.places[number]))

    def stamp(self, number: int) -> tuple[int, int]:
        """Return the size of an image's file in bytes and its time of change in ns."""
        assert self._files is not None, "only files have stamps"
        return self._files.stamp(self.split(number), int(self.places[number]))

    def read(self, number: int, at: Size | None = None) -> Example:
        """Read an image.

        Args:
            number: of the image.
            at: scale it to exactly this size; None: leave it as it is.

        Raises:
            SkippedImage: it cannot be read.
        """
        return self.data.example(self.split(number), int(self.places[number]), at=at)


@dataclass(frozen=True)
class Measured:
    """What was measured of each image; 0 where it cannot be read.

    Attributes:
        height: of the upright image, in pixels.
        width: of the upright image, in pixels.
        mode: position of Pillow's mode in MODES.
        is_deep: whether it has more than 8 bits in a channel.
        is_first_of_several: whether its file has further pages or frames.
        contrast: standard deviation of its grey values, from 0 to 127.5.
        colour_range: largest difference of two pixels in a channel, from 0 to 255.
        content: hash of its file; of its pixels where it is no file.
        perceptual: its perceptual hash.
        grey: its grey values at GREY_SIDE x GREY_SIDE pixels.
        chroma: its colours, Cr and Cb, in CELLS x CELLS cells.
        reasons: why images cannot be read, by the number of the image.
    """

    height: Int32[np.ndarray, n]
    width: Int32[np.ndarray, n]
    mode: Int32[np.ndarray, n]
    is_deep: Bool[np.ndarray, n]
    is_first_of_several: Bool[np.ndarray, n]
    contrast: Float32[np.ndarray, n]
    colour_range: Int32[np.ndarray, n]
    content: Int64[np.ndarray, n]
    perceptual: UInt64[np.ndarray, n]
    grey: UInt8[np.ndarray, "n 64"]
    chroma: UInt8[np.ndarray, "n 32"]
    reasons: dict[int, str]

    @property
    def is_read(self) -> Bool[np.ndarray, n]:
        """Whether each image can be read."""
        return np.asarray(self.height > 0)

    def describe_mode(self, number: int) -> str:
        """Return the mode of an image, and whether it has more than 8 bits."""
        bits = ", more than 8 bits" if self.is_deep[number] else ""
        return f"{MODES[int(self.mode[number])]}{bits}"


def measure_images(
    images: CheckedImages, folder: Path, shard: int, workers: int, has_hashes: bool,
    earlier: EarlierImages | None = None,
) -> None:  # fmt: skip
    """Measure all images and write the shards that are missing.

    Args:
        images: of all splits.
        folder: of the result.
        shard: images in a shard.
        workers: threads.
        has_hashes: whether the hashes are computed, which duplicates are found by.
        earlier: a result that has some of the images, which are not read; None: there is none.
    """

    def measure_piece(positions: Sequence[int]) -> tuple[Arrays, Skipped]:
        rows, skipped = [], []
        for number in positions:
            try:
                rows.append({"image": number, **_measure(images, number, has_hashes)})
            except SkippedImage as problem:
                skipped.append((number, str(problem)))
        names = rows[0] if rows else ()
        return {name: np.array([row[name] for row in rows]) for name in names}, skipped

    def measure(pieces: Iterator[Sequence[int]]) -> Iterator[tuple[Arrays, Skipped]]:
        return runtime.map_in_threads(measure_piece, pieces, workers)

    def flow(pieces: Iterator[range]) -> Iterator[tuple[Arrays, Skipped]]:
        return flow_of_new_images(measure, pieces, earlier)

    plan = ShardPlan(count=len(images), size=shard, piece=min(PIECE, shard))
    write_shards(folder, "check", plan, flow, concatenate_parts)


def _measure(images: CheckedImages, number: int, has_hashes: bool) -> dict[str, Any]:
    """Measure an image. Raise SkippedImage where it cannot be read."""
    content = 0
    if not images.has_files:
        example = images.read(number)
        pixels = np.ascontiguousarray(example.image)
        small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        mode, is_deep = "RGB", False
        if has_hashes:
            digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes())
            content = _to_int64(digest.hexdigest())
    else:
        example = images.read(number, (SIDE, SIDE))
        small = example.image
        location = images.location(number)
        mode, is_deep = photo.read_mode(location, name=images.ids[number])
        content = _to_int64(hash_content(location)) if has_hashes else 0
    perceptual, grey, chroma, contrast = measure_signature(small)
    return {
        "height": np.int32(example.size[0]),
        "width": np.int32(example.size[1]),
        "mode": np.int32(MODES.index(mode) if mode in MODES else 0),
        "is_deep": is_deep,
        "is_first_of_several": example.is_first_of_several,
        "contrast": np.float32(contrast),
        "colour_range": np.int32(measure_colour_range(small)),
        "content": np.int64(content),
        "perceptual": np.uint64(perceptual if has_hashes else 0),
        "grey": grey if has_hashes else np.zeros_like(grey),
        "chroma": chroma if has_hashes else np.zeros_like(chroma),
    }


def _to_int64(digest: str) -> int:
    """Return 63 bits of a hash."""
    return int(digest[:16], 16) >> 1


def load_measured(folder: Path, count: int) -> Measured:
    """Return what `measure_images` wrote.

    Args:
        folder: of the result.
        count: number of images.
    """
    arrays: dict[str, np.ndarray] = {
        "height": np.zeros(count, np.int32),
        "width": np.zeros(count, np.int32),
        "mode": np.zeros(count, np.int32),
        "is_deep": np.zeros(count, bool),
        "is_first_of_several": np.zeros(count, bool),
        "contrast": np.zeros(count, np.float32),
        "colour_range": np.zeros(count, np.int32),
        "content": np.zeros(count, np.int64),
        "perceptual": np.zeros(count, np.uint64),
        "grey": np.zeros((count, GREY_SIDE**2), np.uint8),
        "chroma": np.zeros((count, 2 * CELLS**2), np.uint8),
    }
    reasons: dict[int, str] = {}
    for path in list_shards(folder):
        shard, notes = read_arrays(path)
        reasons |= {int(number): reason for number, reason in notes["set_aside"]}
        for name, values in arrays.items():
            if shard:
                values[shard["image"]] = shard[name]
    assert set(arrays) == {field.name for field in fields(Measured)} - {"reasons"}
    return Measured(**arrays, reasons=reasons)


def count_by_class(
    images: CheckedImages, classes: Sequence[str]
) -> dict[Split, Int[np.ndarray, c]]:
    """Return how many images each class has, by split; splits without images are left out.

    Args:
        images: of all splits.
        classes: the names of the classes.
    """
    counts: dict[Split, Int[np.ndarray, c]] = {}
    for split in SPLITS:
        is_here = images.is_in(split)
        if is_here.any():
            counts[split] = images.count_classes(is_here, len(classes))
    return counts
