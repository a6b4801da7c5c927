"""Small vision transformers with random weights, and what they compute, written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

SIDE, CLASSES = 32, 5
KINDS = ("torchvision", "timm", "timm_unfused_mean", "deit_distilled")


@dataclass
class Computed:
    """Attention [b, heads, n, n] and tokens [b, n, K] of each block, in one graph."""

    matrices: list[Tensor]
    tokens: list[Tensor]
    logits: Tensor
    head: Callable[[Tensor], Tensor]
    others: int

    @property
    def read(self) -> list[int]:
        """The tokens that the head reads."""
        return list(range(self.others)) or list(range(self.tokens[0].shape[1]))


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 3,
                             "num_heads": 2, "num_classes": CLASSES}  # fmt: skip
    network: nn.Module
    if kind == "torchvision":
        network = VisionTransformer(SIDE, 8, 3, 2, 16, 32, num_classes=CLASSES)
    elif kind == "deit_distilled":
        network = pytest.importorskip("timm.models.deit").VisionTransformerDistilled(**sizes)
    else:
        timm = pytest.importorskip("timm.models.vision_transformer")
        mean = {"class_token": False, "global_pool": "avg"} if kind.endswith("mean") else {}
        network = timm.VisionTransformer(**sizes, **mean)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0, 0.5 if "qkv" in name or "in_proj" in name else 0.3)
    if kind == "timm_unfused_mean":
        blocks: Any = network.blocks
        for block in blocks:
            block.attn.fused_attn = False
    return network


def compute(network: Any, images: Tensor) -> Computed:
    """Run a network of `build` from its layers, with nothing of the package."""
    if isinstance(network, VisionTransformer):
        patches = network._process_input(images)
        tokens = torch.cat([network.class_token.expand(len(images), -1, -1), patches], 1)
        tokens = tokens + network.encoder.pos_embedding
        blocks = [
            (b.ln_1, b.self_attention.in_proj_weight, b.self_attention.in_proj_bias,
             b.self_attention.out_proj, b.ln_2, b.mlp) for b in network.encoder.layers
        ]  # fmt: skip

        def head(given: Tensor) -> Tensor:
            logits: Tensor = network.heads(network.encoder.ln(given)[:, 0])
            return logits

        others = 1
    else:
        tokens = network._pos_embed(network.patch_embed(images))
        blocks = [
            (b.norm1, b.attn.qkv.weight, b.attn.qkv.bias, b.attn.proj, b.norm2, b.mlp)
            for b in network.blocks
        ]

        def head(given: Tensor) -> Tensor:
            logits: Tensor = network.forward_head(network.norm(given))
            return logits

        others = network.num_prefix_tokens
    matrices, given = [], []
    for norm1, weight, bias, out, norm2, mlp in blocks:
        packed = norm1(tokens) @ weight.T + bias
        query, key, value = packed.unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        matrix = (query @ key.transpose(2, 3) / 8**0.5).softmax(3)
        tokens = tokens + out((matrix @ value).transpose(1, 2).flatten(2))
        tokens = tokens + mlp(norm2(tokens))
        matrices.append(matrix)
        given.append(tokens)
    return Computed(matrices, given, head(tokens), head, others)


def to_grid(values: Tensor, others: int) -> Tensor:
    """The values [n] of all tokens as a map of the 4 x 4 patches."""
    return values[others:].reshape(SIDE // 8, SIDE // 8)
