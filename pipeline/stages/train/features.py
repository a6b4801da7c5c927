"""Pooled features of a frozen network, computed once and kept in shards, which a head learns on.

A shard has float16 features and labels. They are memory-mapped: only the rows of a batch take
memory, and another head, objective or seed trains in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.engine import checkpoint, shards
from pipeline.engine.backends import compiled
from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.formats.arrays import map_arrays, read_notes, read_rows
from pipeline.results.shards import list_shards
from pipeline.stages.train.reading import Reading

if TYPE_CHECKING:
    from jaxtyping import Float16, Float32, Int

    from pipeline.model.classifier import Classifier


def write_pooled(
    images: SplitImages,
    compute: Compute,
    folder: Path,
    network: Classifier,
    normalization: tuple[Sequence[float], Sequence[float]],
) -> None:
    """Write the pooled features mean_ij f_k(i, j) of each image, float16 [n, K], and labels [n].

    What was unusual about the files of the images is written beside them.

    Args:
        images: of a split.
        compute: device, precision, threads.
        folder: where the shards are written.
        network: whose features are pooled; in eval mode afterwards.
        normalization: mean and standard deviation of the network's input.
    """
    import torch

    network.to(compute.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def work(batch: shards.PositionedExamples) -> shards.Arrays:
        with torch.inference_mode():
            maps = network.features(
                checkpoint.to_tensor(shards.stack_pixels(batch), *normalization, compute.device)
            )
            return {
                "features": maps.float().mean((2, 3)).half().cpu().numpy(),
                "labels": np.array([example.label for _, example in batch], np.int64),
                "positions": shards.stack_positions(batch),
                "several": np.array([example.is_first_of_several for _, example in batch]),
                "own_range": np.array([example.has_own_range for _, example in batch]),
            }

    with compiled([network], compute, len(images), images.size, folder):
        shards.write_image_shards(images, compute, folder, "features", work)


class Rows:
    """The rows of an array in shards: `rows[places]` reads the rows at these places alone."""

    def __init__(self, parts: Sequence[Float16[np.ndarray, "n K"]]) -> None:
        self.parts = [np.asarray(part) for part in parts if len(part)]  # plain views are faster
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.parts else 0

    def __getitem__(self, places: Int[np.ndarray, "b"]) -> Float32[np.ndarray, "b K"]:
        """Return the rows at some places, in the order of the places."""
        rows = np.empty((len(places), self.parts[0].shape[1] if self.parts else 0), np.float32)
        part_of = np.searchsorted(self.ends, places, side="right").tolist()
        # Indices from the end of each part. Row by row: a batch has few rows of the same part.
        behind = (places - self.ends[part_of]).tolist() if self.parts else []
        for n, (part, row) in enumerate(zip(part_of, behind, strict=True)):
            rows[n] = self.parts[part][row]
        return rows


def read_pooled(folder: Path) -> tuple[Rows, Int[np.ndarray, "n"], Reading]:
    """Return what `write_pooled` wrote: features, labels, and what was unusual about the files."""
    rows, labels, _, reading = read_positioned(folder)
    return rows, labels, reading


def read_positioned(
    folder: Path,
) -> tuple[Rows, Int[np.ndarray, "n"], Int[np.ndarray, "n"], Reading]:
    """Return features, labels, the position of each image, and what was unusual about the files."""
    parts, labels, positions, reading = [], [], [], Reading()
    for path in list_shards(folder):
        reading.skipped.update((int(n), why) for n, why in read_notes(path)["set_aside"])
        arrays = read_rows(path, ("labels", "positions", "several", "own_range"))
        if arrays:  # empty where all images were skipped
            parts.append(map_arrays(path)["features"])
            labels.append(arrays["labels"])
            positions.append(arrays["positions"])
            reading.several.update(arrays["positions"][arrays["several"]].tolist())
            reading.own_range.update(arrays["positions"][arrays["own_range"]].tolist())
    none = np.zeros(0, np.int64)
    all_labels, all_positions = (np.concatenate([none, *each]) for each in (labels, positions))
    return Rows(parts), all_labels, all_positions, reading
