"""Batch norm over all processes: with one it equals torch's; with two, see tests/test_ranks.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn

from pipeline.errors import UserError
from pipeline.model.synced_norm import SyncedBatchNorm2d, synchronize_batch_norm


@pytest.fixture
def one_process() -> Iterator[None]:
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_it_is_batch_norm_forward_and_backward(momentum: float | None, affine: bool) -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3, momentum=momentum, affine=affine)
    ours = synchronize_batch_norm(nn.Sequential(copy.deepcopy(plain)), "cpu")
    assert isinstance(ours[0], SyncedBatchNorm2d)
    for _ in range(3):
        maps = (3 + 2 * torch.randn(4, 3, 5, 6)).requires_grad_()
        same = maps.detach().clone().requires_grad_()
        gradients = torch.randn(4, 3, 5, 6)
        plain(maps).backward(gradients)
        ours(same).backward(gradients)
        torch.testing.assert_close(same.grad, maps.grad, rtol=1e-4, atol=1e-5)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(ours[0].state_dict()[name], tensor)
    if affine:
        torch.testing.assert_close(ours[0].weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.eval()(maps), plain.eval()(maps))


def test_another_batch_norm_is_refused() -> None:
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match="Other cannot be computed over the images of several"):
        synchronize_batch_norm(nn.Sequential(Other(3)), "cpu")
