"""Self-produced guidance (SPG): what the class map is sure of teaches branches to tell object from
background, layer by layer, and what they find teaches the features back.

    mask(p; high, low) = 1 where p > high,  0 where p < low,  else no say
    loss = CE(s, y) + BCE(B2, mask(M; .7, .01)) + BCE(B1, mask(B2; .5, .05))
                    + BCE(C, mask((B1 + B2) / 2; .7, .1))

M is CAM's map of the true class from 0 to 1. B1 reads `layers[0]`, B2 `layers[1]`, their last
convolutions shared; C reads what the head reads. All are compared at the size of the image; masks
take no gradient. Where fewer than 30 pixels of 224 x 224 (in proportion) are above `high`, those
above 0.7 of the maximum are the object.

Zhang et al., "Self-produced Guidance for Weakly-supervised Object Localization", ECCV 2018; the
thresholds are wsolevaluation's (Choe et al. 2020).

What differs: the network's own GAP head is the classifier, without the paper's three further
convolutions, and the branches have `width` channels, where the paper has 512. The paper's map is
the classifier's, `saliency=cam`; C's is the branch `foreground`, the same for every class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.objective.cross_entropy import check_smoothing, cross_entropy
from pipeline.objective.wrapped import (
    FOREGROUND,
    add_branch,
    channels_of,
    class_maps,
    unit,
    with_layers,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int

GUIDANCE = "guidance"
FEWEST = 30 / 224**2  # share of the pixels that the object has at least
LOWERED = 0.7  # of the maximum: the object, where fewer are above `high`


@dataclass(frozen=True)
class SPG:
    layers: tuple[str, str] = ("below", "last")  # what the branches B1 and B2 read
    width: int = 128  # channels of the branches
    from_map: tuple[float, float] = (0.7, 0.01)  # high and low of the class map, which teaches B2
    from_b2: tuple[float, float] = (0.5, 0.05)  # of B2, which teaches B1
    from_both: tuple[float, float] = (0.7, 0.1)  # of the mean of B1 and B2, which teaches C
    label_smoothing: float = 0.1  # 0 in the paper

    needs_images = True

    def __post_init__(self) -> None:
        for name in ("from_map", "from_b2", "from_both"):
            high, low = getattr(self, name)
            if not 0 <= low < high <= 1:
                raise ValueError(f"{name}={[high, low]}: expected high above low, from 0 to 1")
        if self.width < 1:
            raise ValueError(f"width={self.width}: expected 1 channel or more")
        check_smoothing(self.label_smoothing)

    def wrap(self, network: Any) -> Any:
        """The network with the branches. Raises UserError where it has no GAP head, or no layer of
        that name."""
        device = network.class_weights.device
        low, high, last = channels_of(network, (*self.layers, "last"))
        guidance = Guidance(self.layers, (low, high), self.width).to(device)
        add_branch(network, GUIDANCE, guidance, "spg")
        add_branch(network, FOREGROUND, Confirmed(last, self.width).to(device), "spg")
        return network

    def __call__(
        self, network: Any, inputs: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        answer = with_layers(network, inputs, ("last", GUIDANCE, FOREGROUND))
        found, logits = answer.activations, answer.logits.float()
        size = inputs.shape[2:]
        with torch.no_grad():
            maps = class_maps(network.class_weights, found["last"], labels)
            attention = unit(_enlarged(maps[:, None], size))
        both = _enlarged(found[GUIDANCE], size)
        b1, b2 = both[:, :1], both[:, 1:]
        c = _enlarged(found[FOREGROUND], size)
        loss = (
            cross_entropy(logits, labels, self.label_smoothing)
            + where_sure(b2, mask(attention, *self.from_map))
            + where_sure(b1, mask(b2, *self.from_b2))
            + where_sure(c, mask(both.mean(1, keepdim=True), *self.from_both))
        )
        return loss, logits


class Guidance(nn.Module):
    """B1 and B2, probabilities of object [b, 2, h, w] at the resolution of the finer."""

    def __init__(self, reads: tuple[str, str], channels: tuple[int, int], width: int) -> None:
        super().__init__()
        self.reads = reads
        self.b1, self.b2 = (_conv(one, width) for one in channels)
        self.shared = nn.Sequential(_conv(width, width), nn.Conv2d(width, 1, 1))

    def forward(
        self, low: Float[Tensor, "b K h w"], high: Float[Tensor, "b L i j"]
    ) -> Float[Tensor, "b 2 h w"]:
        b1, b2 = self.shared(self.b1(low)), self.shared(self.b2(high))
        size = [max(b1.shape[axis], b2.shape[axis]) for axis in (2, 3)]
        both = torch.cat([_enlarged(one, size) for one in (b1, b2)], 1)
        return both.float().sigmoid()


class Confirmed(nn.Module):
    """C, the probability of object [b, 1, h, w]."""

    reads = ("last",)

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.steps = nn.Sequential(_conv(channels, width), nn.Conv2d(width, 1, 1))

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b 1 h w"]:
        logits: Tensor = self.steps(features)
        return logits.float().sigmoid()


def _conv(channels: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU())


def _enlarged(maps: Tensor, size: Any) -> Tensor:
    return functional.interpolate(maps.float(), list(size), mode="bilinear", align_corners=False)


def mask(maps: Float[Tensor, "b 1 H W"], high: float, low: float) -> Float[Tensor, "b 1 H W"]:
    """1: object, 0: background, nan: nobody is sure. Background has the last word."""
    maps = maps.detach()
    above = maps > high
    few = above.float().mean((1, 2, 3), keepdim=True) < FEWEST
    above |= few & (maps > LOWERED * maps.amax((1, 2, 3), keepdim=True))
    found = torch.full_like(maps, torch.nan).masked_fill(above, 1)
    return found.masked_fill(maps < low, 0)


def where_sure(
    probability: Float[Tensor, "b 1 H W"], wanted: Float[Tensor, "b 1 H W"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy over the pixels that the mask has a say on; 0 where there are none."""
    sure = ~wanted.isnan()
    with torch.autocast(probability.device.type, enabled=False):
        each = functional.binary_cross_entropy(probability, wanted.nan_to_num(0), reduction="none")
        return (each * sure).sum() / sure.sum().clamp(min=1)
