"""The maps and the classification that stage explain writes, read from its shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.formats.arrays import read_arrays, read_notes, read_rows
from pipeline.results.shards import list_shards
from pipeline.types import SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32

# Arrays of shards: whether the file of an image has further pages or frames, and whether an image
# of more than 8 bits is scaled from a range of its own.
SEVERAL, OWN_RANGE = "several", "own_range"
PROBABILITIES = "probabilities"  # an array of shards, where an image may have several classes


def iterate_maps(shard: Path, ids: Sequence[str]) -> Iterator[tuple[int, SaliencyMap]]:
    """Yield the maps of a shard with the positions of their images.

    Args:
        shard: the file.
        ids: the name of each image, by position.
    """
    arrays, _ = read_arrays(shard)
    for n, position in enumerate(arrays.get("row_image", ())):
        height, width = arrays["row_size"][n].tolist()
        yield (
            int(position),
            SaliencyMap(
                ids[position],
                int(arrays["row_class"][n]),
                int(arrays["row_predicted"][n]),
                float(arrays["row_score"][n]),
                arrays["row_map"][n],
                float(arrays["row_scale"][n]),
                (height, width),
            ),
        )


def iterate_channels(shard: Path) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the values of red, green and blue of each map of a shard, if the method has them.

    Yields:
        The position of the image, the class, and float16 [3, H, W] from -1 to 1.
    """
    arrays, _ = read_arrays(shard)
    for n, channels in enumerate(arrays.get("row_colour", ())):
        yield int(arrays["row_image"][n]), int(arrays["row_class"][n]), channels


@dataclass(frozen=True)
class Classification:
    """The classes that the network predicts for each image.

    Attributes:
        image: the position of each image.
        size: height and width of the original image.
        top: the most likely classes, the most likely first.
        score: their probabilities.
    """

    image: Int32[np.ndarray, n]
    size: Int32[np.ndarray, "n 2"]
    top: Int32[np.ndarray, "n k"]
    score: Float32[np.ndarray, "n k"]


def load_classification(folder: Path) -> Classification:
    """Return the classification of all images that a result of stage explain has."""
    names = ("image", "size", "top", "top_score")
    shards = [read_rows(shard, names) for shard in list_shards(folder)]
    shards = [arrays for arrays in shards if arrays]
    return Classification(*(np.concatenate([arrays[name] for arrays in shards]) for name in names))


def load_probabilities(folder: Path) -> dict[int, Float32[np.ndarray, C]]:
    """Return the probability of each class in each image, by position.

    Args:
        folder: a result of stage explain, of images that may have several classes.
    """
    shards = (read_rows(shard, ("image", PROBABILITIES)) for shard in list_shards(folder))
    return {
        int(position): probabilities
        for arrays in shards
        if PROBABILITIES in arrays
        for position, probabilities in zip(arrays["image"], arrays[PROBABILITIES], strict=True)
    }


def find_marked(folder: Path, mark: str) -> list[int]:
    """Return the positions of images that an array of the shards is true of, in their order.

    Args:
        folder: a result of stage explain.
        mark: the name of the array, SEVERAL or OWN_RANGE.
    """
    shards = (read_rows(shard, ("image", mark)) for shard in list_shards(folder))
    return sorted(
        int(position)
        for arrays in shards
        if mark in arrays
        for position in arrays["image"][arrays[mark]]
    )


def load_skipped(folder: Path) -> dict[int, str]:
    """Return why images could not be used, by their positions, in a result kept in shards."""
    skipped: dict[int, str] = {}
    for shard in list_shards(folder):
        reasons = read_notes(shard)["set_aside"]
        skipped.update((int(position), reason) for position, reason in reasons)
    return skipped
