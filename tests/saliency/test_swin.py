"""Rollout through Swin's windows equals products of matrices between all tokens, written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock, swin_t

import pipeline
from pipeline.errors import UserError
from pipeline.model.windows import locate_windows
from pipeline.saliency.attention_rollout import AttentionRollout
from pipeline.saliency.gradient_rollout import GradientRollout
from pipeline.saliency.legrad import LeGrad

WINDOW, CLASSES = 4, 5


def build(kind: str, side: int) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module
    if kind == "torchvision":
        network = SwinTransformer([4, 4], 8, [2, 2], [2, 2], [WINDOW, WINDOW], num_classes=CLASSES)
    else:
        timm = pytest.importorskip("timm.models.swin_transformer")
        network = timm.SwinTransformer(side, 4, embed_dim=8, depths=(2, 2), num_heads=(2, 2),
                                       window_size=WINDOW, num_classes=CLASSES)  # fmt: skip
        if kind == "timm_fused":
            for module in network.modules():
                if isinstance(module, timm.WindowAttention):
                    module.fused_attn = True
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and "bias_table" not in name:
            nn.init.normal_(parameter, 0, 0.5)
        elif "bias" in name:
            nn.init.normal_(parameter, 0, 0.3)
    return network.eval()


@dataclass
class Computed:
    """Attention [b, heads, n, n] between all tokens of each block's padded grid, in one graph."""

    matrices: list[Tensor]
    grids: list[tuple[int, int]]
    logits: Tensor


def compute(network: Any, images: Tensor) -> Computed:
    """Run a network of `build` from its layers, with attention between all tokens of a grid."""
    is_timm = hasattr(network, "patch_embed")
    if is_timm:
        tokens = network.patch_embed(images)
        stages = [(getattr(layer, "downsample", None), layer.blocks) for layer in network.layers]
    else:
        tokens = network.features[0](images)
        stages = [(None, network.features[1]), (network.features[2], network.features[3])]
    matrices, grids = [], []
    for number, (merge, blocks) in enumerate(stages):
        tokens = merge(tokens) if number else tokens
        for place, block in enumerate(blocks):
            matrix, tokens = attend(block, tokens, WINDOW // 2 if place % 2 else 0)
            matrices.append(matrix)
            grids.append((tokens.shape[1], tokens.shape[2]))
    head: nn.Module = network.head.fc if is_timm else network.head
    return Computed(matrices, grids, head(network.norm(tokens).mean((1, 2))))


def attend(block: Any, tokens: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """Compute a block: tokens see each other in the same window, unless the shift wraps around."""
    height, width = tokens.shape[1:3]
    normed = F.pad(block.norm1(tokens), (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    rows, columns = normed.shape[1:3]
    y, x = (part.flatten() for part in torch.meshgrid(
        torch.arange(rows), torch.arange(columns), indexing="ij"))  # fmt: skip
    windows, places, regions = [], [], []
    for position, side in ((y, rows), (x, columns)):
        moved = shift if side > WINDOW else 0
        rolled = (position - moved) % side
        windows.append(rolled // WINDOW)
        places.append(rolled % WINDOW)
        # What the roll brought from the other end lies in the last rows.
        regions.append(
            (rolled >= side - moved) if moved else torch.zeros_like(rolled, dtype=torch.bool)
        )
    same = torch.ones(len(y), len(y), dtype=torch.bool)
    for part in (*windows, *regions):
        same &= part[:, None] == part
    offsets = [part[:, None] - part + WINDOW - 1 for part in places]
    index = (offsets[0] * (2 * WINDOW - 1) + offsets[1]).where(same, 0)
    bias = block.attn.relative_position_bias_table[index].permute(2, 0, 1)
    packed = (normed.flatten(1, 2) @ block.attn.qkv.weight.T) + block.attn.qkv.bias
    query, key, value = packed.unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key.mT / query.shape[-1] ** 0.5 + bias
    matrix = scores.masked_fill(~same, float("-inf")).softmax(3)
    mixed = block.attn.proj((matrix @ value).transpose(1, 2).flatten(2))
    tokens = tokens + mixed.unflatten(1, (rows, columns))[:, :height, :width]
    return matrix, tokens + block.mlp(block.norm2(tokens))


def multiply(rows: Tensor, matrices: list[Tensor], grids: list[tuple[int, int]]) -> Tensor:
    """Multiply rows [b, n] of the last grid by the dense matrices of all blocks and merges."""
    for number in reversed(range(len(matrices))):
        height, width = grids[number]
        padded = width + -width % WINDOW
        kept = torch.tensor([y * padded + x for y in range(height) for x in range(width)])
        matrix = matrices[number][:, kept][:, :, kept]
        rows = (rows[:, None] @ matrix)[:, 0]
        if number and grids[number - 1] != grids[number]:
            rows = rows @ average_merged(grids[number - 1])
    return rows


def average_merged(grid: tuple[int, int]) -> Tensor:
    """Return the matrix whose rows average the tokens that are merged to each."""
    height, width = grid
    merged = torch.zeros(-(-height // 2) * -(-width // 2), height * width)
    for y in range(height):
        for x in range(width):
            merged[y // 2 * -(-width // 2) + x // 2, y * width + x] = 1
    return merged / merged.sum(1, keepdim=True)


CASES = [("torchvision", 32), ("torchvision", 40), ("timm", 32), ("timm_fused", 32)]


@pytest.mark.parametrize(("kind", "side"), CASES)
def test_rollouts_are_products_of_all_matrices(kind: str, side: int) -> None:
    network = build(kind, side)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    wrapped: Any = pipeline.wrap(network, images=images)
    computed = compute(network, images)
    torch.testing.assert_close(computed.logits, network(images), rtol=1e-4, atol=1e-4)
    last = computed.grids[-1]
    rows = torch.full((2, last[0] * last[1]), 1 / (last[0] * last[1]))
    classes = torch.tensor([[1, 3], [0, 1]])

    fused = [matrix.mean(1) + torch.eye(matrix.shape[2]) for matrix in computed.matrices]
    fused = [matrix / matrix.sum(2, keepdim=True) for matrix in fused]
    wanted = multiply(rows, fused, computed.grids).unflatten(1, computed.grids[0])
    rolled = AttentionRollout()(wrapped, images, lambda logits: classes)
    assert rolled.maps.shape == (2, 2, side // 4, side // 4)
    assert wanted.std() > 0
    for column in range(2):
        torch.testing.assert_close(rolled.maps[:, column], wanted.detach(), rtol=1e-3, atol=1e-6)

    weighted = GradientRollout()(wrapped, images, lambda logits: classes)
    for column in range(2):
        score = computed.logits.gather(1, classes[:, column : column + 1]).sum()
        gradients = torch.autograd.grad(score, computed.matrices, retain_graph=True)
        matrices = [
            (gradient * matrix).relu().mean(1) + torch.eye(matrix.shape[2])
            for gradient, matrix in zip(gradients, computed.matrices, strict=True)
        ]
        wanted = multiply(rows, matrices, computed.grids).unflatten(1, computed.grids[0]).detach()
        peak = float(wanted.abs().max())
        torch.testing.assert_close(weighted.maps[:, column], wanted, rtol=0, atol=1e-3 * peak)


def test_legrad_says_why_it_cannot() -> None:
    network = build("torchvision", 32)
    wrapped: Any = pipeline.wrap(network)
    with pytest.raises(UserError, match=r"stages differ in width \(Swin\).*gradient_rollout"):
        LeGrad()(wrapped, torch.randn(1, 3, 32, 32), lambda logits: logits.argmax(1)[:, None])


@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout"])
def test_swin_t_as_it_is(method: str) -> None:
    torch.manual_seed(0)
    network = swin_t(weights=None).eval()
    images = torch.randn(1, 3, 112, 112)  # the last stages have fewer tokens than a window
    explained = pipeline.explain(network, images, method, target=7)
    assert tuple(explained.maps.shape) == (1, 28, 28)
    assert explained.maps.std() > 0


def test_windows_are_those_of_the_rolled_and_padded_grid() -> None:
    assert locate_windows((2, 4), 2, (0, 0)).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert locate_windows((2, 4), 2, (0, 1)).tolist() == [[1, 2, 5, 6], [3, 0, 7, 4]]
    assert locate_windows((3, 2), 2, (0, 0)).tolist() == [[0, 1, 2, 3], [4, 5, -1, -1]]


class Blocks(nn.Module):
    """Two blocks of Swin between tokens [b, h, w, K] or [b, n, K]."""

    def __init__(self, is_flat: bool) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, CLASSES)
        blocks: list[nn.Module] = [
            SwinTransformerBlock(8, 2, [WINDOW] * 2, [shift] * 2) for shift in (0, 2)
        ]
        self.blocks = nn.ModuleList([FlatSwin(block) if is_flat else block for block in blocks])

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).permute(0, 2, 3, 1)
        tokens = tokens.flatten(1, 2) if isinstance(self.blocks[0], FlatSwin) else tokens
        for block in self.blocks:
            given = block(tokens)
            tokens = given[0] if isinstance(given, tuple) else given
        logits: Tensor = self.head(tokens.flatten(1, -2).mean(1))
        return logits


class FlatSwin(nn.Module):
    """A block that reads and gives tokens [b, n, K] of 8 x 8 patches, as Hugging Face's."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.block(tokens.unflatten(1, (8, 8))).flatten(1, 2),)


def test_tokens_in_a_row_are_a_grid_too() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    maps = []
    for is_flat in (False, True):
        torch.manual_seed(0)
        network = Blocks(is_flat).eval()
        wrapped: Any = pipeline.wrap(network, images=images)
        maps.append(GradientRollout()(wrapped, images, lambda logits: logits.topk(2)[1]).maps)
    assert maps[0].flatten(2).std(2).min() > 0
    torch.testing.assert_close(maps[1], maps[0])
