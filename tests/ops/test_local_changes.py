"""Copies that differ in a rectangle: the logits of whole passes, with less work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.ops.local_changes import LocalChanges, can_run_locally
from tests.saliency.networks import KINDS, SIDE, build_network

SIZE = (9, 7)  # of the rectangle


def copy_with_changes(
    image: Tensor, corners: list[tuple[int, int]], size: tuple[int, int] = SIZE
) -> tuple[Tensor, Tensor]:
    """Return the rectangles of the copies, and the copies."""
    crops = torch.randn(len(corners), len(image), *size)
    copies = image.repeat(len(corners), 1, 1, 1)
    for copy, crop, (y, x) in zip(copies, crops, corners, strict=True):
        copy[:, y : y + size[0], x : x + size[1]] = crop
    return crops, copies


def list_corners(height: int, width: int) -> list[tuple[int, int]]:
    """Return the corners of the image, and places between them that no stride divides."""
    last = height - SIZE[0], width - SIZE[1]
    return [(0, 0), (0, last[1]), (last[0], 0), last, (5, 6), (last[0] // 2, last[1] - 3), (1, 11)]


@torch.no_grad()
def check(net: Callable[[Tensor], Tensor], image: Tensor, share: float = 1.0) -> None:
    """Check logits of two passes, and that the second takes at most a share of the work."""
    corners = list_corners(*image.shape[1:])
    crops, copies = copy_with_changes(image, corners)
    local = LocalChanges(image)
    local.run(net, crops[:4], corners[:4])
    for chosen in (slice(0, 4), slice(4, 7)):
        with FlopCounterMode(display=False) as whole:
            wanted = net(copies[chosen])
        with FlopCounterMode(display=False) as part:  # the image's own maps are known
            logits = local.run(net, crops[chosen], corners[chosen])
        assert logits is not None
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
        assert part.get_total_flops() <= share * whole.get_total_flops()


class Applied(nn.Module):
    """An operation between two convolutions, and the mean over positions."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.operation = nn.Conv2d(3, 8, 3, padding=1), operation
        self.norm = nn.BatchNorm2d(8).eval()
        nn.init.uniform_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        return (self.operation(self.norm(self.first(x))) ** 2).mean((2, 3))


def convolve(**arguments: Any) -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv2d(8, 8, **arguments)


def add_in_place(x: Tensor) -> Tensor:
    branch = convolve(kernel_size=3, padding=1)(x)
    branch += x
    return F.relu(branch, inplace=True) - 0.5 * x


LOCAL: dict[str, Callable[[Tensor], Tensor]] = {
    "same": convolve(kernel_size=3, padding=1),
    "not padded": convolve(kernel_size=(4, 2)),
    "padded much": convolve(kernel_size=3, padding=(4, 2)),
    "strided": convolve(kernel_size=3, stride=(2, 3), padding=1),
    "stride above kernel": convolve(kernel_size=1, stride=3),
    "dilated": convolve(kernel_size=3, dilation=(2, 1), padding=(1, 3)),
    "grouped": convolve(kernel_size=5, groups=8, padding=2, bias=False),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "max pool, ceiled": nn.MaxPool2d(3, 2, ceil_mode=True),
    "average pool": nn.AvgPool2d((2, 3)),
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "silu": F.silu,
    "clamp": lambda x: x.clamp(-0.2, 0.3),
    "dropout": nn.Dropout(0.5).eval(),
    "dropout that is overwritten": lambda x: F.dropout(x, 0.5, False).relu_() + x,
    "constants": lambda x: (x * 2 - torch.arange(8.0).view(1, 8, 1, 1)) / torch.tensor(3.0),
    "sum in place": add_in_place,
    "product": lambda x: x * convolve(kernel_size=3, padding=1)(x).sigmoid(),
    "concatenation": lambda x: torch.cat([x, convolve(kernel_size=3, padding=1)(x)], 1),
    "itself twice": lambda x: x + x * x,
}  # fmt: skip
WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "padding that reflects": convolve(kernel_size=3, padding=1, padding_mode="reflect"),
    "padding by name": convolve(kernel_size=3, padding="same"),
    "average pool, padded": nn.AvgPool2d(3, 2, 1),
    "gate of all": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "gate of all in place": lambda x: x.mul_(x.amax((2, 3), keepdim=True)),
    "weights of positions": lambda x: x * torch.linspace(0, 1, x.shape[3]),
    "flip": lambda x: x.flip(3) + x,
    "transposed": lambda x: x.mT.contiguous().softmax(2),
    "write": lambda x: x.index_fill(2, torch.tensor([3]), 0.0),
    "slice in place": lambda x: x[:, :4].mul_(2) + x[:, 4:],
    "size": lambda x: x.reshape(x.shape[0], x.size(1), -1, 1) * x.ndim,
    "keyword": lambda x: F.conv2d(input=x, weight=torch.ones(2, 8, 3, 3)),
    "batch norm of the batch": nn.BatchNorm2d(8, track_running_stats=False),
}  # fmt: skip


@pytest.mark.parametrize("name", LOCAL)
def test_an_operation_on_the_changed_part(name: str) -> None:
    check(Applied(LOCAL[name]), torch.randn(3, 40, 48), 0.4)


@pytest.mark.parametrize("name", WHOLE)
def test_an_operation_without_a_rule(name: str) -> None:
    check(Applied(WHOLE[name]), torch.randn(3, 40, 48))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network(kind: str) -> None:
    net = build_network(kind)
    assert can_run_locally(net) == (kind != "transformer")
    check(lambda images: net(images).logits, torch.randn(3, SIDE, SIDE))


@pytest.mark.parametrize(
    ("name", "share"),
    [("resnet18", 0.9), ("googlenet", 1.0), ("mobilenet_v3_small", 1.0), ("squeezenet1_1", 0.9),
     ("convnext_tiny", 1.0), ("swin_t", 1.0)],
)  # fmt: skip
def test_networks_of_torchvision(name: str, share: float) -> None:
    torch.manual_seed(0)
    of_googlenet: dict[str, Any] = {"aux_logits": False, "init_weights": False}
    arguments = of_googlenet if name == "googlenet" else {}
    net = torchvision.models.get_model(name, weights=None, **arguments).eval()
    check(net, torch.randn(3, 96, 96), share)


def test_channels_last_and_bfloat16() -> None:
    net, image = (
        build_network("residual").to(memory_format=torch.channels_last),
        torch.randn(3, 32, 32),
    )
    crops, copies = copy_with_changes(image, [(3, 4), (20, 24)])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = LocalChanges(image).run(lambda x: net(x).logits, crops, [(3, 4), (20, 24)])
        wanted = net(copies).logits
    assert logits is not None
    assert logits.dtype == wanted.dtype
    torch.testing.assert_close(logits, wanted, rtol=0.02, atol=0.02)


class Hidden(torch.autograd.Function):
    """Code that a mode does not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return x * 2

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> Any:
        raise NotImplementedError


@torch.jit.script
def swish(x: Tensor) -> Tensor:
    """Compute it in compiled code, in place."""
    return x.mul_(x.sigmoid())


@pytest.mark.parametrize("operation", [Hidden.apply, swish])
@torch.no_grad()
def test_code_that_is_not_seen_is_noticed(operation: Any) -> None:
    image, corners = torch.randn(3, 40, 48), [(3, 4)]
    crops, _ = copy_with_changes(image, corners)
    assert LocalChanges(image).run(Applied(operation), crops, corners) is None


def test_what_needs_whole_passes() -> None:
    assert not can_run_locally(nn.Sequential(torch.jit.script(nn.ReLU())))
    compiled = nn.Sequential(nn.ReLU())
    compiled.compile()
    assert not can_run_locally(compiled)
    assert not can_run_locally(torch.relu)
    hooked = nn.Sequential(nn.ReLU())
    hooked[0].register_forward_hook(lambda module, given, result: None)
    assert not can_run_locally(hooked)
    # Its own compiled code, which torch leaves out where a mode holds.
    assert not can_run_locally(nn.Sequential(nn.MultiheadAttention(4, 2)))


def test_nothing_is_left_behind() -> None:
    net, image = build_network("plain"), torch.randn(3, 32, 32)
    crops, _ = copy_with_changes(image, [(3, 4)])
    before, state = image.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    LocalChanges(image).run(lambda x: net(x).logits, crops, [(3, 4)])
    assert torch._C._len_torch_function_stack() == 0
    assert torch.equal(image, before)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    with pytest.raises(ValueError, match="of the network"):
        LocalChanges(image).run(raise_error, crops, [(3, 4)])
    assert torch._C._len_torch_function_stack() == 0


def raise_error(images: Tensor) -> Tensor:
    raise ValueError("of the network")
