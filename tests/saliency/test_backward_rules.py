"""What DeepLIFT, LRP and excitation backprop share: a mode that leaves nothing behind."""

from __future__ import annotations

import gc
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.ops.operations import Replaced, read_operation
from pipeline.protocols import SaliencyMethod
from pipeline.saliency.deeplift import DeepLIFT
from pipeline.saliency.excitation_backprop import ExcitationBackprop
from pipeline.saliency.gradient import Gradient
from pipeline.saliency.lrp import LRP
from tests.saliency.networks import KINDS, SIDE, build_network, check_threads
from tests.saliency.test_every_method import NO_RELU
from tests.saliency.test_relu_rules import Fails, classes, picture, same, state, written

METHODS: dict[str, SaliencyMethod] = {
    "deeplift": DeepLIFT(), "epsilon": LRP("epsilon", 0.1), "composite": LRP(),
    "excitation": ExcitationBackprop("input"), "contrastive": ExcitationBackprop("input", True),
}  # fmt: skip


def test_two_threads_on_one_network_do_not_mix() -> None:
    net, x = written(nn.ReLU(inplace=True)), picture(2, 3, 16, 20)
    check_threads(net, x, {"gradient": Gradient(), **METHODS}, classes(1), 5)


@pytest.mark.parametrize("name", METHODS)
def test_the_backward_pass_runs_each_convolution_once(name: str) -> None:
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    body = nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))
    net = Classifier(body, MeanLinear(8, 4), "abcd").eval()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        METHODS[name](net, picture(2, 3, 12, 12), classes(1))
    counts = {event.key: event.count for event in profiler.key_averages()}
    # The rule z^B of the first layer has three sums.
    assert counts["aten::convolution_backward"] == (4 if name == "composite" else 2)


@pytest.mark.parametrize("name", METHODS)
def test_dropout_in_place_changes_nothing(name: str) -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True)]
    x, maps = picture(2, 3, 12, 12), []
    for added in ([], [nn.Dropout(inplace=True)]):
        net = Classifier(nn.Sequential(*layers, *added), MeanLinear(8, 4), "abcd").eval()
        torch.nn.init.constant_(net.head.linear.weight, 0.5)
        torch.nn.init.zeros_(net.head.linear.bias)
        maps.append(METHODS[name](net, x, classes(1)).maps)
    assert torch.equal(*maps)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("where", ["forward", "choose", "refusal", "nothing"])
def test_nothing_is_left_behind(name: str, where: str) -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    if where == "forward":
        body.append(Fails())
    if where == "refusal":
        body.append(nn.Softmin(1))
    net = Classifier(body, MeanLinear(4, 2), "ab").eval()
    before = state(net)

    def choose(logits: Tensor) -> Tensor:
        if where == "choose":
            raise RuntimeError("in the middle")
        return logits.argmax(1, keepdim=True)

    x = picture(2, 3, 8, 8)
    if where == "nothing":
        METHODS[name](net, x, choose)
    else:
        with pytest.raises((RuntimeError, UserError), match=r"in the middle|softm"):
            METHODS[name](net, x, choose)
    after = state(net)
    assert after[0] == before[0]
    assert after[2:] == before[2:]
    for (a, *flags), (b, *wanted) in zip(after[1], before[1], strict=True):
        assert torch.equal(a, b)
        assert flags == wanted
    assert not x.requires_grad
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("name", METHODS)
def test_the_run_s_precision_layout_and_grad_mode_change_nothing(name: str) -> None:
    net, x = build_network("residual"), picture(2, 3, SIDE, SIDE)
    wanted = METHODS[name](net, x, classes(1, 2))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        explanation = METHODS[name](net, x, classes(1, 2))
    assert torch.equal(explanation.maps, wanted.maps)
    net.to(memory_format=torch.channels_last)
    last = METHODS[name](net, x.contiguous(memory_format=torch.channels_last), classes(1, 2))
    same(last.maps, wanted.maps, 1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_weights_that_learn_change_nothing_and_get_no_gradient(name: str) -> None:
    net, x = build_network("plain"), picture(2, 3, SIDE, SIDE)
    wanted = METHODS[name](net, x, classes(1)).maps
    net.requires_grad_(True)
    same(METHODS[name](net, x, classes(1)).maps, wanted)
    assert all(weight.grad is None for weight in net.parameters())


class Accepted(Exception):
    pass


def accept(logits: Tensor) -> Tensor:
    raise Accepted


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_is_known_from_the_shapes_alone(kind: str, name: str) -> None:
    """Check that a run refuses at start, where networks are tried on the meta device."""
    refused = {"deeplift": {"transformer"}, "excitation": NO_RELU, "contrastive": NO_RELU}
    net = deepcopy(build_network(kind)).to("meta")
    wanted = UserError if kind in refused.get(name, set()) else Accepted
    with torch.device("meta"), pytest.raises(wanted):
        METHODS[name](net, torch.zeros(1, 3, SIDE, SIDE), accept)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].sigmoid()


@pytest.mark.parametrize("name", METHODS)
def test_functions_that_hide_their_work_are_refused(name: str) -> None:
    net = written(Swish.apply)
    with pytest.raises(UserError, match=r"hides work in a function, Swish.*integrated_gradients"):
        METHODS[name](net, picture(1, 3, 8, 8), classes(0))


@pytest.mark.parametrize("name", METHODS)
def test_the_graph_is_freed_at_once(name: str) -> None:
    net, x = build_network("plain"), picture(1, 3, SIDE, SIDE)

    def nodes() -> int:
        return sum(
            type(item).__name__ == f"{Replaced.__name__}Backward" for item in gc.get_objects()
        )

    gc.collect()
    gc.disable()
    try:
        METHODS[name](net, x, classes(0))
        assert nodes() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("call", "name", "in_place"),
    [
        (lambda x: x.relu_(), "relu", True),
        (lambda x: torch.nn.functional.relu(x, True), "relu", True),
        (lambda x: torch.nn.functional.hardtanh(x, 0, 6, inplace=True), "hardtanh", True),
        (lambda x: torch.nn.functional.hardtanh(x, 0, 6), "hardtanh", False),
        (lambda x: x.__iadd__(1), "add", True),
        (lambda x: 1 - x, "rsub", False),
        (lambda x: x * 2, "mul", False),
        (lambda x: x.clip(0), "clamp", False),
        (lambda x: torch.concat([x, x]), "cat", False),
        (lambda x: x.T, "T", False),
    ],
)
def test_calls_are_described_alike_however_they_are_written(
    call: Any, name: str, in_place: bool
) -> None:
    seen: list[tuple[str, Any, Any]] = []

    class Spy(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if getattr(func, "__name__", "") == "__get__":
                seen.append(("T", None, func(*args)))
                return seen[-1][2]
            operation = read_operation(func, tuple(args), kwargs or {})
            wanted = operation()
            seen.append((operation.name, operation.target, wanted))
            return func(*args, **(kwargs or {}))

    x = torch.tensor([[-1.0, 7.0], [0.5, 2.0]])
    with Spy():
        result = call(x)
    assert seen[0][0] == name
    assert (seen[0][1] is x) == in_place
    assert torch.equal(seen[0][2], result)
