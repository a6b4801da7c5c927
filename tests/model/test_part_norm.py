"""Batch norm over the parts of a batch is torch's over the batch: values, gradients, buffers."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.model.part_exchange import PartExchange
from pipeline.model.part_norm import list_other_norms, replace_norms

SIZES = [3, 1, 4]  # images of the parts


def run_parts(norm: nn.Module, maps: Tensor, gradients: Tensor) -> tuple[Tensor, ...]:
    """Return normalized maps, and the gradients of maps and parameters, computed in parts."""
    exchange = PartExchange(len(SIZES), 2)
    parameters = [*norm.parameters()]

    def work(part: int, given: Tensor, upstream: Tensor) -> tuple[Any, ...]:
        replica = nn.Sequential(copy.deepcopy(norm, {id(t): t for t in norm.state_dict().values()}))
        for name, parameter in norm.named_parameters():
            replica[0].register_parameter(name, parameter)
        for name, buffer in norm.named_buffers():
            replica[0].register_buffer(name, buffer)
        replace_norms(replica, part)
        replica[0].exchange = exchange  # type: ignore[assignment]
        with exchange.computing():
            given = given.detach().requires_grad_()
            normed = replica(given)
            found = torch.autograd.grad(normed, [given, *parameters], upstream)
        return normed, *found

    with ThreadPoolExecutor(len(SIZES)) as pool:
        parts = list(pool.map(work, range(len(SIZES)), maps.split(SIZES), gradients.split(SIZES)))
    columns = list(zip(*parts, strict=True))
    whole = [torch.cat(columns[0]), torch.cat(columns[1])]
    return (*whole, *(sum(column) for column in columns[2:]))


KINDS = [
    (nn.BatchNorm2d(5), (8, 5, 4, 3)),
    (nn.BatchNorm2d(5, momentum=None), (8, 5, 4, 3)),
    (nn.BatchNorm2d(5, affine=False), (8, 5, 4, 3)),
    (nn.BatchNorm2d(5, track_running_stats=False), (8, 5, 4, 3)),
    (nn.BatchNorm1d(5), (8, 5)),
    (nn.BatchNorm3d(5, eps=0.1), (8, 5, 2, 3, 2)),
]


@pytest.mark.parametrize(("plain", "shape"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_batch_norm_of_the_whole_batch(
    plain: nn.Module, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    plain = copy.deepcopy(plain).to(dtype)
    for parameter in plain.parameters():
        nn.init.uniform_(parameter)
    ours = copy.deepcopy(plain)
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {}
    limits: dict[str, Any] = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    for _ in range(3):
        maps = (3 + 2 * torch.randn(shape, dtype=dtype)).requires_grad_()
        gradients = torch.randn(shape, dtype=dtype)
        if len(shape) == 4:
            maps = maps.detach().to(memory_format=torch.channels_last).requires_grad_()
        normed = plain(maps)
        wanted = (normed, *torch.autograd.grad(normed, [maps, *plain.parameters()], gradients))
        for mine, torchs in zip(run_parts(ours, maps, gradients), wanted, strict=True):
            torch.testing.assert_close(mine, torchs, **limits)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor)


def test_maps_of_bfloat16_lose_no_more_than_torchs() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5)
    maps, gradients = (torch.randn(8, 5, 9, 9).bfloat16() + 4 for _ in range(2))

    def torchs(dtype: torch.dtype) -> list[Tensor]:
        given = maps.to(dtype).requires_grad_()
        normed = copy.deepcopy(norm)(given)
        (found,) = torch.autograd.grad(normed, given, gradients.to(dtype))
        return [normed.float(), found.float()]

    ours = [tensor.float() for tensor in run_parts(copy.deepcopy(norm), maps, gradients)[:2]]
    for exact, mine, other in zip(torchs(torch.float32), ours, torchs(torch.bfloat16), strict=True):
        assert (mine - exact).norm() <= 1.5 * (other - exact).norm() + 1e-3 * exact.norm()


def test_a_batch_norm_of_another_kind_is_named() -> None:
    class Other(nn.BatchNorm2d):
        pass

    assert list_other_norms(nn.Sequential(nn.BatchNorm2d(3), Other(3))) == [
        f"{Other.__module__}.Other"
    ]
