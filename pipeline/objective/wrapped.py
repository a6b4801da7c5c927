"""What objectives share that change the network: its layers in training, and its class maps.

A network that is asked for layers cuts the graph at the earliest of them. In training it must reach
back to whatever learns, so that layers are watched here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Int

FOREGROUND = "foreground"  # the branch that saliency=foreground shows
PROBE = 224  # pixels of an image that is no more than its shape


def with_layers(
    network: Any, images: Float[Tensor, "b 3 H W"], layers: Sequence[str]
) -> NetworkOutput:
    """The answer with activations of layers and branches; the graph reaches as far as weights
    learn."""
    branches = {name: network.branches[name] for name in layers if name in network.branches}
    read = [name for branch in branches.values() for name in branch.reads]
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            found[name] = output
            return output.clone()  # what follows may write over it

        return hook

    handles = [
        network.body.get_submodule(path_of(network, name)).register_forward_hook(watch(name))
        for name in dict.fromkeys([*layers, *read])
        if name not in branches
    ]
    try:
        logits = network(images).logits
    finally:
        for handle in handles:
            handle.remove()
    for name, branch in branches.items():
        found[name] = branch(*(found[layer] for layer in branch.reads))
    return NetworkOutput(logits, {name: found[name] for name in layers})


def add_branch(network: Any, name: str, branch: nn.Module, objective: str) -> None:
    """Raises UserError where the network has a branch of this name."""
    if name in network.branches:
        raise UserError(f"objective={objective}: the network has a branch {name!r} already")
    network.branches[name] = branch


def channels_of(network: nn.Module, layers: Sequence[str]) -> list[int]:
    """K of each layer, from shapes alone: nothing is computed, nothing drawn.

    Raises UserError for a layer that is not there or gives no feature maps.
    """
    shapes = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad():
        answer: NetworkOutput = shapes(
            torch.zeros(1, 3, PROBE, PROBE, device="meta"), at=tuple(layers)
        )
    return [answer.activations[name].shape[1] for name in layers]


def path_of(network: Any, layer: str) -> str:
    """Where in the body a layer is, empty: it is the body itself."""
    named: Mapping[str, str] = {"last": network.last, "below": network.below or "below"}
    return named.get(layer, layer)


def behind(network: Any, layer: str, objective: str) -> nn.Sequential:
    """The modules that run behind `layer`, in order, without the head.

    Raises UserError where the body is no chain of modules there.
    """
    within: nn.Module = network.body
    after: list[nn.Module] = []
    for part in filter(None, path_of(network, layer).split(".")):
        if type(within).forward is not nn.Sequential.forward:
            raise UserError(
                f"objective={objective}: what runs behind layer {layer!r} cannot be told, for the "
                f"network is no chain of modules there; give objective.layer=, a layer that "
                "stands in a chain (nn.Sequential), or take another model"
            )
        names = list(within._modules)
        steps: list[Any] = list(within._modules.values())
        place = names.index(part)
        after[:0] = steps[place + 1 :]
        within = steps[place]
    return nn.Sequential(*after)


def class_maps(
    weights: Float[Tensor, "C K"], features: Float[Tensor, "b K h w"], labels: Int[Tensor, "b"]
) -> Float[Tensor, "b h w"]:
    """The map of each image's own class as CAM has it: sum_k w_k^y f_k."""
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum("bk,bkhw->bhw", weights[labels].float(), features.float())


def unit(maps: Float[Tensor, "... h w"]) -> Float[Tensor, "... h w"]:
    """Each map from 0 to 1 by its least and greatest value; a constant map becomes 0."""
    least, most = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - least) / (most - least).clamp(min=1e-8)
