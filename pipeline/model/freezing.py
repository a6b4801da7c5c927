"""The stages of a network: its parts between one halving of the feature maps and the next.

A stage begins with a part whose maps are at most two thirds as high as those before. A part without
weights (a pooling, say) belongs to the stage of what follows it. Where a network halves its maps
once a stage, stage n computes at a stride of 2^n:

    ResNet        conv1 | layer1 | layer2 | layer3 | layer4                   5 stages
    MobileNetV2   features 0-1 | 2-3 | 4-6 | 7-13 | 14-18                     5 stages
    VGG-16        what lies between its poolings: conv1 | ... | conv5         5 stages
    ConvNeXt      the stem (stride 4) and the first blocks | ...              4 stages
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError

PROBE_SIDE = 224  # pixels of the images that shapes are computed for


def list_stages(body: nn.Module) -> list[tuple[str, ...]]:
    """List the names of a body's parts, in the order in which they run, a tuple for each stage.

    Args:
        body: is run once, in eval mode. It may be on the meta device, as shapes alone are used.

    Raises:
        UserError: The maps are never halved, as in a plain transformer.
    """
    heights: dict[str, int] = {}  # of each part's output, in the order in which the parts run

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            grid = isinstance(output, Tensor) and output.ndim == 4
            heights.setdefault(name, output.shape[2] if grid else 0)

        return hook

    parts = dict(_list_parts(body))
    handles = [part.register_forward_hook(watch(name)) for name, part in parts.items()]
    body.eval()
    try:
        with torch.no_grad():
            body(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=next(body.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    stages: list[list[str]] = [[]]
    before = PROBE_SIDE
    for name, height in heights.items():
        if 0 < height <= before * 2 / 3:
            if _have_weights(parts, stages[-1]):
                stages.append([])
            before = height
        stages[-1].append(name)
    if len(stages) > 1 and not _have_weights(parts, stages[-1]):
        stages[-2:] = [stages[-2] + stages[-1]]
    if len(stages) < 2:
        raise UserError(
            "train.freeze=stages:N: this network has one stage, its maps are never halved; "
            "possible: backbone, none"
        )
    return [tuple(stage) for stage in stages]


def _list_parts(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """List the parts of a body with their names: of each nn.Sequential its parts, not itself."""
    parts = []
    for name, child in module.named_children():
        chain = type(child).forward is nn.Sequential.forward
        if chain and next(child.children(), None) is not None:
            parts += _list_parts(child, f"{prefix}{name}.")
        else:
            parts.append((f"{prefix}{name}", child))
    return parts


def _have_weights(parts: dict[str, nn.Module], names: list[str]) -> bool:
    return any(True for name in names for _ in parts[name].parameters())
