"""Self-produced guidance (SPG): train branches to segment the object from confident pixels of the
class map, each branch from the map of the one before it.

    mask(p; high, low) = 0 where p < low,  1 where p > high,  else ignored
    loss = CE(s, y) + BCE(B2, mask(M; .7, .01)) + BCE(B1, mask(B2; .5, .05))
                    + BCE(C, mask((B1 + B2) / 2; .7, .1))

M is CAM's map of the true class from 0 to 1. B1 reads `layers[0]`, B2 `layers[1]`, their last
convolutions shared; C reads what the head reads. All are compared at the size of the image; masks
take no gradient. Where fewer than 30 pixels of 224 x 224 (in proportion) are above `high`, those
above 0.7 times the maximum are the object.

Zhang et al., "Self-produced Guidance for Weakly-supervised Object Localization", ECCV 2018; the
thresholds are wsolevaluation's (Choe et al. 2020).

What differs: the network's GAP head is the classifier, without the paper's three further
convolutions, and the branches have `width` channels, where the paper has 512. The paper's map is
the classifier's, `saliency=cam`; C's is the branch `foreground`, the same for all classes.
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
    compute_class_maps,
    count_channels,
    run_with_layers,
    scale_to_unit,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int

GUIDANCE = "guidance"
MIN_OBJECT_SHARE = 30 / 224**2  # of the pixels
FALLBACK_HIGH = 0.7  # of the maximum: replaces `high` where fewer pixels are above it


@dataclass(frozen=True)
class SPG:
    """Self-produced guidance.

    Args:
        layers: the layers that the branches B1 and B2 read.
        width: channels of the branches.
        from_map: high and low of the class map, which B2 is trained on.
        from_b2: high and low of B2's map, which B1 is trained on.
        from_both: high and low of the mean of B1's and B2's maps, which C is trained on.
        label_smoothing: from 0 to below 1; 0 in the paper.
    """

    layers: tuple[str, str] = ("below", "last")
    width: int = 128
    from_map: tuple[float, float] = (0.7, 0.01)
    from_b2: tuple[float, float] = (0.5, 0.05)
    from_both: tuple[float, float] = (0.7, 0.1)
    label_smoothing: float = 0.1

    needs_images = True

    def __post_init__(self) -> None:
        thresholds = {
            "from_map": self.from_map, "from_b2": self.from_b2, "from_both": self.from_both
        }  # fmt: skip
        for name, (high, low) in thresholds.items():
            if not 0 <= low < high <= 1:
                raise ValueError(f"{name}={[high, low]}: expected high above low, from 0 to 1")
        if self.width < 1:
            raise ValueError(f"width={self.width}: expected 1 channel or more")
        check_smoothing(self.label_smoothing)

    def wrap(self, network: Any) -> Any:
        """Add the branches to a network, and return the network.

        Args:
            network: a `pipeline.model.classifier.Classifier`, which is changed.

        Raises:
            UserError: The network has no GAP head or no such layer, or has such a branch already.
        """
        device = network.class_weights.device
        low, high, last = count_channels(network, (*self.layers, "last"))
        guidance = Guidance(self.layers, (low, high), self.width).to(device)
        add_branch(network, GUIDANCE, guidance, "spg")
        add_branch(network, FOREGROUND, Confirmed(last, self.width).to(device), "spg")
        return network

    def __call__(
        self, network: Any, inputs: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss and the logits of a batch; see `pipeline.protocols.Objective`."""
        output = run_with_layers(network, inputs, ("last", GUIDANCE, FOREGROUND))
        activations, logits = output.activations, output.logits.float()
        size = inputs.shape[2:]
        with torch.no_grad():
            maps = compute_class_maps(network.class_weights, activations["last"], labels)
            attention = scale_to_unit(_upsample(maps[:, None], size))
        both = _upsample(activations[GUIDANCE], size)
        b1, b2 = both[:, :1], both[:, 1:]
        c = _upsample(activations[FOREGROUND], size)
        loss = (
            cross_entropy(logits, labels, self.label_smoothing)
            + compute_masked_loss(b2, mask_by_thresholds(attention, *self.from_map))
            + compute_masked_loss(b1, mask_by_thresholds(b2, *self.from_b2))
            + compute_masked_loss(
                c, mask_by_thresholds(both.mean(1, keepdim=True), *self.from_both)
            )
        )
        return loss, logits


class Guidance(nn.Module):
    """The branches B1 and B2.

    Args:
        reads: the layers that they read.
        channels: of these layers.
        width: channels of the branches.
    """

    def __init__(self, reads: tuple[str, str], channels: tuple[int, int], width: int) -> None:
        super().__init__()
        self.reads = reads
        self.b1, self.b2 = (_build_conv(count, width) for count in channels)
        self.shared = nn.Sequential(_build_conv(width, width), nn.Conv2d(width, 1, 1))

    def forward(
        self, low: Float[Tensor, "b K h w"], high: Float[Tensor, "b L i j"]
    ) -> Float[Tensor, "b 2 h w"]:
        """Compute the probabilities of the object at the resolution of the finer layer."""
        b1, b2 = self.shared(self.b1(low)), self.shared(self.b2(high))
        size = [max(b1.shape[axis], b2.shape[axis]) for axis in (2, 3)]
        both = torch.cat([_upsample(maps, size) for maps in (b1, b2)], 1)
        return both.float().sigmoid()


class Confirmed(nn.Module):
    """The branch C.

    Args:
        channels: of the layer `last`, which it reads.
        width: channels of the branch.
    """

    reads = ("last",)

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.steps = nn.Sequential(_build_conv(channels, width), nn.Conv2d(width, 1, 1))

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b 1 h w"]:
        """Compute the probability of the object at the resolution of the layer."""
        logits: Tensor = self.steps(features)
        return logits.float().sigmoid()


def _build_conv(channels: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU())


def _upsample(maps: Tensor, size: Any) -> Tensor:
    return functional.interpolate(maps.float(), list(size), mode="bilinear", align_corners=False)


def mask_by_thresholds(
    maps: Float[Tensor, "b 1 H W"], high: float, low: float
) -> Float[Tensor, "b 1 H W"]:
    """Mask maps by two thresholds, without gradient.

    Args:
        maps: from 0 to 1.
        high: above it is the object; where too few pixels are, those above 0.7 times the maximum.
        low: below it is the background, even where the object is by the rule of too few pixels.

    Returns:
        1: object; 0: background; nan: neither.
    """
    maps = maps.detach()
    above = maps > high
    few = above.float().mean((1, 2, 3), keepdim=True) < MIN_OBJECT_SHARE
    above |= few & (maps > FALLBACK_HIGH * maps.amax((1, 2, 3), keepdim=True))
    masks = torch.full_like(maps, torch.nan).masked_fill(above, 1)
    return masks.masked_fill(maps < low, 0)


def compute_masked_loss(
    probability: Float[Tensor, "b 1 H W"], target: Float[Tensor, "b 1 H W"]
) -> Float[Tensor, ""]:
    """Compute the mean binary cross-entropy over pixels where the target is not nan; 0 if none."""
    is_known = ~target.isnan()
    with torch.autocast(probability.device.type, enabled=False):
        losses = functional.binary_cross_entropy(
            probability, target.nan_to_num(0), reduction="none"
        )
        return (losses * is_known).sum() / is_known.sum().clamp(min=1)
