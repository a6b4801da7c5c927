"""The stages of a network: what lies between one halving of its maps and the next.

A stage begins with the part whose maps are at most two thirds as high as those before; what has no
weights (a pooling, say) belongs to what follows it. So stage n computes at a stride of 2^n, where a
network halves one part at a time:

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

PROBE = 224  # pixels of an image that is no more than its shape


def stages_of(body: nn.Module) -> list[tuple[str, ...]]:
    """The names of a body's parts, in the order they run, a tuple for each stage.

    From shapes alone: `body` may lie on the meta device, and is run there. Raises UserError where
    its maps are never halved on the way, as in a plain transformer.
    """
    heights: dict[str, int] = {}  # of what each part answers, in the order they run

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            grid = isinstance(output, Tensor) and output.ndim == 4
            heights.setdefault(name, output.shape[2] if grid else 0)

        return hook

    parts = dict(_parts(body))
    handles = [part.register_forward_hook(watch(name)) for name, part in parts.items()]
    body.eval()
    try:
        with torch.no_grad():
            body(torch.zeros(1, 3, PROBE, PROBE, device=next(body.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    stages: list[list[str]] = [[]]
    before = PROBE
    for name, height in heights.items():
        if 0 < height <= before * 2 / 3:
            if _weights(parts, stages[-1]):
                stages.append([])
            before = height
        stages[-1].append(name)
    if len(stages) > 1 and not _weights(parts, stages[-1]):
        stages[-2:] = [stages[-2] + stages[-1]]
    if len(stages) < 2:
        raise UserError(
            "train.freeze=stages:N: this network has one stage, its maps are never halved on the "
            "way; possible: backbone, none"
        )
    return [tuple(stage) for stage in stages]


def _parts(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """What a body is made of: chains taken apart, everything else whole."""
    found = []
    for name, child in module.named_children():
        chain = type(child).forward is nn.Sequential.forward
        if chain and next(child.children(), None) is not None:
            found += _parts(child, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", child))
    return found


def _weights(parts: dict[str, nn.Module], names: list[str]) -> bool:
    return any(True for name in names for _ in parts[name].parameters())
