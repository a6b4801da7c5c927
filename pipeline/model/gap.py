"""GAP heads, recognised by what they compute, whoever wrote the network.

    logits = W mean(f) + b                      mean, then a linear layer or a 1x1 convolution
    logits = W norm(mean(f)) + b                with a layer norm or batch norm between (ConvNeXt)
    logits = mean(relu(W f + b))                SqueezeNet; also without the ReLU
    f may be relu(g) of the network's last feature maps g (DenseNet)

A norm between is linear but for the image's own scale: layer norm gives (m - mean_k m) / s g + c,
so that W' = W g - mean_k(W g) has mean_ij sum_k W'_k f_k(i, j) = s (logit - constant); and batch
norm W' = W g / sqrt(var + eps). CAM's map with W' is then that of the head, times a positive number
for the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from pipeline.model.trace import Call, Trace

if TYPE_CHECKING:
    from jaxtyping import Float

TOLERANCE = 1e-3  # of the largest magnitude


@dataclass(frozen=True)
class GapHead:
    """Where a network has the class weights of its GAP head.

    Attributes:
        linear: the name of the linear layer or 1x1 convolution.
        norm: the name of the norm between the mean and the linear layer; None: there is none.
        relu: whether the head reads the ReLU of the last feature maps.
        last: the name of the layer that gives the feature maps that the head reads.
    """

    linear: str
    norm: str | None
    relu: bool
    last: str

    def class_weights(self, network: nn.Module) -> Float[Tensor, "C K"]:
        """Compute the weight of each feature map for each class from the network's weights now."""
        weight = cast(Tensor, network.get_submodule(self.linear).weight).flatten(1)
        if self.norm is None:
            return weight
        norm = network.get_submodule(self.norm)
        gain = norm.weight
        if isinstance(gain, Tensor):
            weight = weight * gain
        if isinstance(norm, nn.LayerNorm):
            return weight - weight.mean(1, keepdim=True)
        return weight / (cast(Tensor, norm.running_var) + cast(float, norm.eps)).sqrt()


def find_gap_head(trace: Trace, last: Call, logits: Float[Tensor, "b C"]) -> GapHead | None:
    """Find the GAP head of a network by what it computed; None: its head is another.

    Args:
        trace: of a forward pass of at least two different images.
        last: the call that gave the last feature maps.
        logits: what the network answered.
    """
    linear = next((call for call in reversed(trace.calls) if _may_give(call, logits)), None)
    if linear is None or linear.read is None:
        return None
    if linear.output.ndim == 4 and linear.output[0, 0].numel() > 1:
        return _find_convolution(trace, linear, logits)
    if not _same(linear.output.flatten(1), logits):
        return None
    maps = trace.maps_of(last)
    name = trace.name_of(last.output, last.end)
    if name is None:
        return None
    read = linear.read.flatten(1)
    # Changed in place, it holds what is behind the layer: its ReLU, or something unknown.
    if last.is_changed and maps.amin() < 0:
        return None
    for relu in (True,) if last.is_changed else (False, True):
        mean = (maps.relu() if relu else maps).mean((2, 3))
        if _same(mean, read):
            return GapHead(linear.name, None, relu, name)
        norm = _find_norm(trace, mean, read)
        if norm is not None:
            return GapHead(linear.name, norm, relu, name)
    return None


def _may_give(call: Call, logits: Tensor) -> bool:
    """Return whether a call is of a layer with a row of weights for each class."""
    module = call.module
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.out_channels == logits.shape[1]
    return isinstance(module, nn.Linear) and module.out_features == logits.shape[1]


def _find_convolution(trace: Trace, call: Call, logits: Tensor) -> GapHead | None:
    """Find a head that convolves to a map for each class, and averages that."""
    name = trace.name_of(call.read)
    maps = call.output
    gives = _same(maps.mean((2, 3)), logits) or _same(maps.relu().mean((2, 3)), logits)
    return GapHead(call.name, None, False, name) if gives and name is not None else None


def _find_norm(trace: Trace, mean: Tensor, read: Tensor) -> str | None:
    """Return the name of the norm that made `read` from `mean`; None where none did."""
    for call in trace.calls:
        is_norm = isinstance(call.module, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d)
        if not is_norm or call.read is None or call.read.numel() != mean.numel():
            continue
        if _same(call.read.flatten(1), mean) and _same(call.output.flatten(1), read):
            return call.name
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding."""
    if one.shape != other.shape:
        return False
    scale = float(other.float().abs().max())
    return bool(torch.allclose(one.float(), other.float(), rtol=0, atol=TOLERANCE * scale))
