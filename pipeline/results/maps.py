"""The maps and the classification that stage explain leaves, read from its shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.formats.arrays import read_arrays
from pipeline.results.shards import list_shards
from pipeline.types import SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32


def iterate_maps(shard: Path, ids: Sequence[str]) -> Iterator[tuple[int, SaliencyMap]]:
    """The maps of one shard with the positions of their images."""
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
    """Position, class and per-channel values [3, H, W] in [-1, 1] where a method has them."""
    arrays, _ = read_arrays(shard)
    for n, channels in enumerate(arrays.get("row_colour", ())):
        yield int(arrays["row_image"][n]), int(arrays["row_class"][n]), channels


@dataclass(frozen=True)
class Classification:
    """What the network took each image for, the best first."""

    image: Int32[np.ndarray, n]
    size: Int32[np.ndarray, "n 2"]
    top: Int32[np.ndarray, "n k"]
    score: Float32[np.ndarray, "n k"]


def load_classification(folder: Path) -> Classification:
    found = [read_arrays(shard)[0] for shard in list_shards(folder)]
    found = [arrays for arrays in found if arrays]
    return Classification(
        *(
            np.concatenate([a[name] for a in found])
            for name in ("image", "size", "top", "top_score")
        )
    )


def load_skipped(folder: Path) -> dict[int, str]:
    """Positions of the images that could not be used, and why."""
    bad: dict[int, str] = {}
    for shard in list_shards(folder):
        bad.update((int(position), why) for position, why in read_arrays(shard)[1]["set_aside"])
    return bad
