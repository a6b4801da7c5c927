"""Images through a frozen network, once: what a head learns on, in shards on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import checkpoint, shards
from pipeline.records import Split
from pipeline.run import Run

if TYPE_CHECKING:
    from pipeline.model.classifier import Classifier


def pooled(
    run: Run,
    folder: Path,
    network: Classifier,
    mean: Sequence[float],
    std: Sequence[float],
    split: Split,
) -> None:
    """mean_ij f_k(i, j) of each image, float16 [n, K], with the labels [n]."""
    import torch

    network.to(run.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def work(batch: shards.Labelled) -> shards.Arrays:
        with torch.inference_mode():
            maps = network.features(
                checkpoint.to_tensor(shards.pixels(batch), mean, std, run.device)
            )
            return {
                "features": maps.float().mean((2, 3)).half().cpu().numpy(),
                "labels": np.array([example.label for _, example in batch], np.int64),
            }

    shards.over(
        folder,
        "features",
        len(run.data.ids(split)),
        run.config["runtime"]["shard"],
        shards.batch_of(run),
        shards.through_network(run, split, work),
        shards.concatenated,
    )
