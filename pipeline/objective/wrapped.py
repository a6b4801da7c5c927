"""Functions of the objectives that change the network or read its layers in training.

A network that is asked for activations cuts the graph at the earliest of them. In training the
graph must reach all weights that are trained, so that activations are recorded here instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.protocols import RunsInParts
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Int

FOREGROUND = "foreground"  # the branch that saliency=foreground shows
PROBE_SIDE = 224  # pixels of the images that shapes are computed for


def run_with_layers(
    network: Any, images: Float[Tensor, "b 3 H W"], layers: Sequence[str]
) -> NetworkOutput:
    """Run a network and return activations of its layers and branches, without cutting the graph.

    Args:
        network: a `pipeline.model.classifier.Classifier`.
        images: standardised by the network's mean and deviation.
        layers: names of layers and branches, as in the network's argument `at`.

    Returns:
        Logits, and activations by name, in the order of `layers`.
    """
    if isinstance(network, RunsInParts):
        logits, *tensors = network.run_parts(
            lambda part, batch: _list_tensors(run_with_layers(part, batch, layers)), images
        )
        return NetworkOutput(logits, dict(zip(layers, tensors, strict=True)))
    branches = {name: network.branches[name] for name in layers if name in network.branches}
    read = [name for branch in branches.values() for name in branch.reads]
    activations: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            activations[name] = output
            return output.clone()  # what follows may change it in place

        return hook

    handles = [
        network.body.get_submodule(resolve_path(network, name)).register_forward_hook(watch(name))
        for name in dict.fromkeys([*layers, *read])
        if name not in branches
    ]
    try:
        logits = network(images).logits
    finally:
        for handle in handles:
            handle.remove()
    for name, branch in branches.items():
        activations[name] = branch(*(activations[layer] for layer in branch.reads))
    return NetworkOutput(logits, {name: activations[name] for name in layers})


def _list_tensors(output: NetworkOutput) -> list[Tensor]:
    return [output.logits, *output.activations.values()]


def add_branch(network: Any, name: str, branch: nn.Module, objective: str) -> None:
    """Add a branch to a network.

    Args:
        network: a `pipeline.model.classifier.Classifier`, which is changed.
        name: the name of the branch.
        branch: a module with `reads`, see `Classifier.branches`.
        objective: the name of the objective, for an error.

    Raises:
        UserError: The network has a branch of this name already.
    """
    if name in network.branches:
        raise UserError(f"objective={objective}: the network has a branch {name!r} already")
    network.branches[name] = branch


def count_channels(network: nn.Module, layers: Sequence[str]) -> list[int]:
    """Count the channels of each layer.

    Shapes alone are computed, on a copy of the network, and no random numbers are drawn.

    Raises:
        UserError: A layer is not there or gives no feature maps.
    """
    shapes = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad():
        output: NetworkOutput = shapes(
            torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device="meta"), at=tuple(layers)
        )
    return [output.activations[name].shape[1] for name in layers]


def resolve_path(network: Any, layer: str) -> str:
    """Return a layer's path within the network's body; empty: it is the body itself."""
    named: Mapping[str, str] = {"last": network.last, "below": network.below or "below"}
    return named.get(layer, layer)


def collect_modules_behind(network: Any, layer: str, objective: str) -> nn.Sequential:
    """Collect the modules of the body that run after a layer, in order.

    Args:
        network: a `pipeline.model.classifier.Classifier`.
        layer: its name.
        objective: the name of the objective, for an error.

    Raises:
        UserError: The layer is inside a module that is no chain (nn.Sequential), so that only the
            code of that module defines what runs after it.
    """
    within: nn.Module = network.body
    after: list[nn.Module] = []
    for part in filter(None, resolve_path(network, layer).split(".")):
        if type(within).forward is not nn.Sequential.forward:
            raise UserError(
                f"objective={objective}: what runs behind layer {layer!r} is not known, as the "
                f"network is no chain of modules there; give objective.layer=, a layer that "
                "stands in a chain (nn.Sequential), or take another model"
            )
        names = list(within._modules)
        steps: list[Any] = list(within._modules.values())
        place = names.index(part)
        after[:0] = steps[place + 1 :]
        within = steps[place]
    return nn.Sequential(*after)


def compute_class_maps(
    weights: Float[Tensor, "C K"], features: Float[Tensor, "b K h w"], labels: Int[Tensor, "b"]
) -> Float[Tensor, "b h w"]:
    """Compute CAM's map of each image's label: sum_k w_k^y f_k, in float32.

    Args:
        weights: of the GAP head.
        features: that the head reads.
        labels: the class of each image.
    """
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum("bk,bkhw->bhw", weights[labels].float(), features.float())


def scale_to_unit(maps: Float[Tensor, "... h w"]) -> Float[Tensor, "... h w"]:
    """Scale each map to [0, 1] by its minimum and maximum; a constant map becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-8)
