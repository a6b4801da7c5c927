"""Attention rollout, gradient-weighted rollout and LeGrad against their definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pipeline
from pipeline.errors import UserError
from pipeline.saliency.attention_rollout import AttentionRollout
from pipeline.saliency.legrad import LeGrad
from tests.conftest import TINY, Cli
from tests.saliency.transformers import CLASSES, KINDS, SIDE, Computed, build, compute, to_grid

TARGETS = [[4, 0, 4], [1, 2, 3]]


@pytest.fixture(scope="module", params=KINDS)
def explained(request: Any) -> tuple[nn.Module, Tensor, Computed]:
    network = build(request.param)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return network.train(), images, compute(network.eval(), images)


def explain(network: nn.Module, images: Tensor, method: str, **options: Any) -> Tensor:
    """Maps of TARGETS, [b, t, h, w], of a network in train mode; it is as it was afterwards."""
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = pipeline.explain(network, images, method, target=TARGETS, **options)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert torch.is_grad_enabled()
    return result.maps


@pytest.mark.parametrize(
    ("heads", "discard"), [("mean", 0.0), ("max", 0.0), ("min", 0.3), ("mean", 0.9)]
)
def test_attention_rollout(explained: Any, heads: str, discard: float) -> None:
    network, images, computed = explained
    maps = explain(network, images, "attention_rollout", heads=heads, discard=discard)
    for n in range(2):
        product = np.eye(computed.tokens[0].shape[1])
        for matrix in computed.matrices:
            fused = getattr(np, heads)(matrix[n].detach().double().numpy(), 0)
            least = np.argsort(fused, None)[: int(discard * fused.size)]
            fused.reshape(-1)[least] = 0
            mixed = 0.5 * fused + 0.5 * np.eye(len(fused))
            product = mixed / mixed.sum(1, keepdims=True) @ product
        rows = torch.from_numpy(product)[computed.read].mean(0)
        expected = to_grid(rows.float(), computed.others)
        for t in range(3):
            torch.testing.assert_close(maps[n, t], expected, rtol=1e-4, atol=1e-6)


def test_gradient_rollout(explained: Any) -> None:
    network, images, computed = explained
    maps = explain(network, images, "gradient_rollout")
    for n in range(2):
        for t, label in enumerate(TARGETS[n]):
            gradients = torch.autograd.grad(
                computed.logits[n, label], computed.matrices, retain_graph=True
            )
            relevance = torch.eye(computed.tokens[0].shape[1])
            for gradient, matrix in zip(gradients, computed.matrices, strict=True):
                mean = (gradient[n] * matrix[n].detach()).clamp(min=0).mean(0)
                relevance = relevance + mean @ relevance
            expected = to_grid(relevance[computed.read].mean(0), computed.others)
            torch.testing.assert_close(maps[n, t], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("blocks", [None, 2])
def test_legrad(explained: Any, blocks: int | None) -> None:
    network, images, computed = explained
    maps = explain(network, images, "legrad", blocks=blocks)
    used = list(zip(computed.matrices, computed.tokens, strict=True))[-(blocks or 3) :]
    network.eval()
    for n in range(2):
        for t, label in enumerate(TARGETS[n]):
            relevance = torch.zeros(computed.tokens[0].shape[1])
            for matrix, tokens in used:
                score = computed.head(tokens)[n, label]
                (gradient,) = torch.autograd.grad(score, matrix, retain_graph=True)
                relevance += gradient[n].clamp(min=0).mean((0, 1)) / len(used)
            expected = to_grid(relevance, computed.others)
            torch.testing.assert_close(maps[n, t], expected, rtol=1e-4, atol=1e-6)


def test_scores_of_the_caller_are_explained_by_the_tokens_that_they_read() -> None:
    """A score of one patch's token has this patch's row of the product."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner: Any = build("timm")

        def forward(self, images: Tensor) -> Tensor:
            tokens: Tensor = self.inner.forward_features(images)
            return tokens

    network = Tokens()
    images = torch.randn(1, 3, SIDE, SIDE)

    def score(tokens: Tensor) -> Tensor:
        return tokens[:, 1 + 6, 0]

    wrapped = pipeline.wrap(network, output=lambda tokens: tokens[:, 0], images=images)
    maps = pipeline.explain(wrapped, images, "gradient_rollout", target=score).maps
    assert maps[0].flatten().argmax() == 6
    assert maps.amax() > 1  # the identity is in it


def test_options_out_of_range_and_heads_of_zeros_are_refused() -> None:
    with pytest.raises(UserError, match=r"saliency.discard=1.0: expected 0 or more, and below 1"):
        AttentionRollout(discard=1.0)
    with pytest.raises(UserError, match=r"saliency.blocks=0: expected at least 1"):
        LeGrad(blocks=0)
    network: Any = build("torchvision")
    nn.init.zeros_(network.heads.head.weight)
    images = torch.randn(1, 3, SIDE, SIDE)
    for method in ("attention_rollout", "gradient_rollout"):
        with pytest.raises(UserError, match=r"depends on no token .* a head of zeros"):
            pipeline.explain(network, images, method, target=CLASSES - 1)


def test_heads_that_read_more_than_the_last_tokens_have_no_legrad() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build("timm")

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(images) + images.mean((1, 2, 3))[:, None] * 9
            return logits

    images = torch.randn(2, 3, SIDE, SIDE) + torch.tensor([0.0, 3.0]).view(2, 1, 1, 1)
    with pytest.raises(UserError, match=r"reads more than the tokens .* gradient_rollout needs no"):
        pipeline.explain(Skipping(), images, "legrad")
    assert pipeline.explain(Skipping(), images, "gradient_rollout").maps.std() > 0


def test_a_run_with_a_cnn_is_refused_before_it_is_trained(
    cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = "explain.methods=[gradcam,gradient_rollout]"
    assert cli("+experiment=cam", *TINY, names) == 2
    assert "no self-attention between tokens" in capsys.readouterr().err
    assert not (tmp_path / "outputs" / "train").exists()
