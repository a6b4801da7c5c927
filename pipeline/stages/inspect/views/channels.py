"""Channels: images that excite one feature map, by gradient ascent on its mean.

    argmax_I  mean_ij A_k(I)[i, j] - lambda ||I||_2^2

Erhan, Bengio, Courville and Vincent, "Visualizing Higher-Layer Features of a Deep Network", 2009;
pipeline/visualize/ascent.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.stages.inspect.ascents import Goal, climbed
from pipeline.stages.inspect.inspection import Inspection

if TYPE_CHECKING:
    from torch import Tensor


def reads_data(options: Mapping[str, Any]) -> bool:
    return not options["channels"]  # the strongest are those of the images


def make(inspection: Inspection) -> list[str]:
    import torch

    layer, network = inspection.layer, inspection.trained.network
    wanted = inspection.channels()

    def climb(images: Tensor, which: Sequence[int]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            found = network(images, at=("input", layer)).activations
            score = found[layer].mean((2, 3))[torch.arange(len(which)), list(which)]
            (slope,) = torch.autograd.grad(score.sum(), found["input"])
        return score.detach(), slope

    titles, files = [f"feature map {n}" for n in wanted], [str(n) for n in wanted]
    heading = f", layer {layer}: what excites it"
    return climbed(
        inspection, Goal("channels", heading, "mean activation", wanted, titles, files, climb)
    )
