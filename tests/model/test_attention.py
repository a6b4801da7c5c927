"""The recorded attention is that of the network, and refused where there is none."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock

import pipeline
from pipeline.errors import UserError
from pipeline.model.attention import record_attentions
from tests.saliency.transformers import KINDS, SIDE, build, compute


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_network_computes(kind: str, images: Tensor) -> None:
    network = build(kind).eval()
    expected = compute(network, images)
    answer = record_attentions(network, network, images)
    torch.testing.assert_close(answer.logits, network(images))
    for ours, theirs in zip(answer.matrices, expected.matrices, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(answer.tokens, expected.tokens, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (answer.others, answer.grid) == (expected.others, (4, 4))
    torch.testing.assert_close(
        answer.read(answer.tokens[0]), expected.head(expected.tokens[0]), rtol=1e-4, atol=1e-4
    )


class Block(nn.Module):
    """Attention by nn.MultiheadAttention with a mask, of which it reads the weights, too."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        given = tokens if self.batch_first else tokens.transpose(0, 1)
        out, weights = self.attention(given, given, given, attn_mask=mask)
        out = out if self.batch_first else out.transpose(0, 1)
        mixed: Tensor = tokens + out + weights.mean() * tokens
        return mixed


class Masked(nn.Module):
    def __init__(self, mask: Tensor, batch_first: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.blocks = nn.ModuleList(Block(batch_first) for _ in range(2))
        self.head, self.mask = nn.Linear(8, 3), mask

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        for block in self.blocks:
            tokens = block(tokens, self.mask)
        logits: Tensor = self.head(tokens.mean(1))
        return logits


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["bool", "float", "per_head"])
def test_masks_and_weights_of_multihead_attention(
    kind: str, batch_first: bool, images: Tensor
) -> None:
    torch.manual_seed(0)
    hidden = torch.rand(16, 16) < 0.3
    mask = hidden & ~torch.eye(16, dtype=torch.bool)
    if kind == "float":
        mask = torch.where(mask, -torch.inf, torch.randn(16, 16))
    elif kind == "per_head":
        mask = mask.repeat(4, 1, 1)
    network = Masked(mask, batch_first).eval()
    answer = record_attentions(network, network, images)
    torch.testing.assert_close(answer.logits, network(images))
    for matrix in answer.matrices:
        assert matrix.shape == (2, 2, 16, 16)
        torch.testing.assert_close(matrix.sum(3), torch.ones(2, 2, 16))
        if kind == "bool":
            assert (matrix[:, :, mask] == 0).all()


def test_what_is_kept_of_a_matrix_has_no_graph(images: Tensor) -> None:
    network = build("torchvision").eval()
    answer = record_attentions(network, network, images, lambda matrix: matrix.mean(1))
    expected = compute(network, images)
    for kept, matrix in zip(answer.matrices, expected.matrices, strict=True):
        assert not kept.requires_grad
        torch.testing.assert_close(kept, matrix.mean(1).detach())
    assert answer.tokens[-1].is_leaf
    (gradients,) = torch.autograd.grad(answer.logits.sum(), answer.tokens[-1])
    assert (gradients.abs().amax(2) > 0).tolist() == [[True] + [False] * 16] * 2


def test_windows_and_networks_without_attention_are_refused(images: Tensor) -> None:
    class OtherWindows(SwinTransformerBlock):  # type: ignore[misc]
        """Windows that nobody says lie as Swin's."""

    swin = SwinTransformer([2, 2], 8, [2, 2], [2, 2], [4, 4], num_classes=3, block=OtherWindows)
    with pytest.raises(UserError, match=r"nor within windows as Swin's.*8 x 2 x 16 x 16.*gradcam"):
        pipeline.explain(swin, images, "legrad")
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    convolutions(images)
    with pytest.raises(UserError, match="no self-attention between tokens"):
        record_attentions(convolutions, convolutions, images)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in swin.modules())
    assert torch.is_grad_enabled()


def test_blocks_side_by_side_are_refused(images: Tensor) -> None:
    class Parallel(Masked):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.patches(images).flatten(2).mT
            tokens = sum(block(tokens, self.mask) for block in self.blocks)
            logits: Tensor = self.head(tokens.mean(1))
            return logits

    network = Parallel(torch.zeros(16, 16), True).eval()
    with pytest.raises(UserError, match=r"'blocks\.1' does not read what block 'blocks\.0' gives"):
        record_attentions(network, network, images)


def test_two_threads_on_one_network_do_not_mix() -> None:
    network = build("timm").train()
    batches = [torch.randn(2, 3, SIDE, SIDE) for _ in range(2)]

    def explain(n: int) -> list[Any]:
        methods = ("attention_rollout", "gradient_rollout", "legrad")
        return [pipeline.explain(network, batches[n], m, target=1).maps for m in methods]

    expected = [explain(n) for n in range(2)]
    wrong: list[int] = []

    def work(n: int) -> None:
        for _ in range(8):
            maps = explain(n)
            if not all(torch.allclose(a, b) for a, b in zip(maps, expected[n], strict=True)):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert network.training
