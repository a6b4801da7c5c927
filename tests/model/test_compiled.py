"""What a backend computes of a network is what torch computes, or the backend is refused."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.engine.choices import instantiate, read_choice
from pipeline.model import compiled as module
from pipeline.model.backends import BACKENDS, Backend, is_installed, open_session
from pipeline.model.chain import cut_chain
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.compiled import MAX_DIFFERENCE, Compiled
from pipeline.model.foreground import build_foreground_head
from pipeline.model.onnx_file import export_onnx
from pipeline.model.second_order import SecondOrderHead
from pipeline.types import NetworkOutput
from tests.model.test_behind import chain

OTHERS = [name for name in BACKENDS if name != "torch"]


@pytest.fixture(params=OTHERS)
def backend(request: pytest.FixtureRequest) -> Backend:
    if not is_installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return cast(Backend, request.param)


@pytest.fixture
def network() -> Classifier:
    return plain_chain()


def plain_chain() -> Classifier:
    """A chain of chains, without a module that stands in two places."""
    torch.manual_seed(0)
    body = nn.Sequential()
    body.add_module("stem", nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU()))
    body.add_module("block", Block())
    body.add_module("top", nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3), nn.ReLU()))
    network = Classifier(body, MeanLinear(5, 3), "abc", below="block")
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return network.requires_grad_(False).eval()


class Block(nn.Module):
    """Not a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu()) + x


def images(count: int = 3, side: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side + 4, generator=generator)


def run_both(
    network: Classifier, used: Compiled, at: tuple[str, ...], count: int = 3
) -> tuple[NetworkOutput, NetworkOutput]:
    network.compiled = None
    expected = network(images(count), at=at)
    network.compiled = used
    return network(images(count), at=at), expected


def check_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    gap, largest = (found - expected).abs().max(), expected.abs().max()
    assert gap.item() <= 1e-5 * largest.item()


LAYERS = [("last",), ("below",), ("stem",), ("stem.1",), ("block.first",), ("top.1", "stem"),
          ("last", "block.second", "below")]  # fmt: skip


@pytest.mark.parametrize("at", [(), *LAYERS])
@pytest.mark.parametrize("with_graph", [False, True])
def test_answers_and_gradients_are_those_of_torch(
    backend: Backend, network: Classifier, at: tuple[str, ...], with_graph: bool
) -> None:
    used = Compiled(backend)
    with torch.set_grad_enabled(with_graph):
        for count in (3, 1, 5):
            found, expected = run_both(network, used, at, count)
            check_equal(found.logits, expected.logits)
            assert list(found.activations) == list(at)
            for name in at:
                check_equal(found.activations[name], expected.activations[name])
    if with_graph and at:
        for answers in zip(at, gradients(found), gradients(expected), strict=True):
            check_equal(*answers[1:])
    assert used.refusals == []
    assert used.is_used == (bool(at) if with_graph else True)


def gradients(answer: NetworkOutput) -> tuple[torch.Tensor, ...]:
    score = answer.logits[:, 1].sum()
    return torch.autograd.grad(score, list(answer.activations.values()), allow_unused=False)


@pytest.mark.parametrize(
    ("at", "steps"),
    [(["last"], 7), (["below"], 4), (["stem"], 3), (["stem.0"], 1), (["block.first"], 3),
     (["last", "stem.1"], 2), (["top"], 7)],
)  # fmt: skip
def test_the_cut_lies_at_the_earliest_layer(network: Classifier, at: list[str], steps: int) -> None:
    cut = cut_chain(network, at)
    assert cut is not None
    assert cut.count == len(cut.before.parts) == steps
    assert len(cut.steps) == 7 - steps


def test_a_module_in_two_places_and_a_body_that_is_no_chain_have_no_cut() -> None:
    assert cut_chain(chain().eval(), ["below"]) is None
    whole = Classifier(Block(), MeanLinear(6, 3), "abc")
    assert cut_chain(whole, ["first"]) is None
    assert cut_chain(whole, ["last"]).count == 1, "the output of any body can be the cut"


def test_without_a_cut_torch_computes_what_needs_gradients_and_says_so_once(
    backend: Backend,
) -> None:
    network = chain().requires_grad_(False)
    used = Compiled(backend)
    for _ in range(2):
        found, expected = run_both(network, used, ("below",))
        assert torch.equal(found.logits, expected.logits)
    assert not used.is_used
    assert len(used.refusals) == 1
    assert "before below is no chain" in used.refusals[0]
    with torch.no_grad():
        found, expected = run_both(network, used, ("below",))
    check_equal(found.activations["below"], expected.activations["below"])
    assert used.is_used


def test_features_and_heads_are_compiled(backend: Backend, network: Classifier) -> None:
    network.branches["foreground"] = build_foreground_head(network, (24, 28)).eval()
    network.requires_grad_(False)
    used = Compiled(backend)
    with torch.no_grad():
        found, expected = run_both(network, used, ("foreground", "last"))
        for name in ("foreground", "last"):
            check_equal(found.activations[name], expected.activations[name])
        check_equal(network.features(images()), network.features_in_torch(images()))
    assert used.is_used
    assert used.refusals == []


@pytest.mark.parametrize("bias", [0.0, -14.0], ids=["some foreground", "hardly any"])
def test_object_classes_are_compiled(backend: Backend, network: Classifier, bias: float) -> None:
    """Small values of the foreground decide them where there is hardly any."""
    foreground = build_foreground_head(network, (24, 28)).eval()
    assert foreground.out.bias is not None
    torch.nn.init.constant_(foreground.out.bias, bias)
    classes = SecondOrderHead(("last", "last", "foreground"), last=5, channels=5, classes=3)
    with torch.no_grad():
        classes.fit_axes(network.features(images(8)))
    torch.nn.init.normal_(classes.linear.weight)
    torch.nn.init.ones_(classes.get_buffer("std"))
    network.branches["foreground"], network.branches["object_class"] = foreground, classes.eval()
    network.requires_grad_(False)
    used = Compiled(backend)
    with torch.no_grad():
        found, expected = run_both(network, used, ("foreground", "object_class"))
    gap = (found.activations["object_class"] - expected.activations["object_class"]).abs().max()
    assert gap <= MAX_DIFFERENCE * expected.activations["object_class"].abs().max()
    assert used.refusals == []
    assert used.is_used


def test_a_graph_that_cannot_be_exported_is_not_printed(
    network: Classifier, capfd: pytest.CaptureFixture[str]
) -> None:
    """torch would print it, at the end of a run of `best` 1,200 lines."""

    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.nn.functional.adaptive_avg_pool2d(x[x.mean((1, 2, 3)) > -9], (5, 3)),)

    with pytest.raises(Exception, match="adaptive"):
        export_onnx(Unknown().eval(), images(), ["out"])
    assert "graph" not in "".join(capfd.readouterr())


def test_threads_share_a_session(backend: Backend, network: Classifier) -> None:
    used = network.compiled = Compiled(backend, callers=4)

    def logits(n: int) -> np.ndarray:
        torch.set_num_threads(1)
        with torch.no_grad():
            return network(images(8)[n : n + 1], at=("last",)).logits.numpy()

    with ThreadPoolExecutor(4) as pool:
        found = np.concatenate(list(pool.map(logits, [n % 8 for n in range(64)])))
    network.compiled = None
    expected = network(images(8)).logits.numpy()
    assert np.abs(found.reshape(8, 8, 3) - expected).max() <= 1e-5
    assert used.is_used


def test_an_image_has_the_same_answer_in_any_batch(backend: Backend, network: Classifier) -> None:
    network.compiled = Compiled(backend)
    with torch.no_grad():
        together = network(images(8), at=("last",)).activations["last"]
        alone = torch.cat([network(each[None], at=("last",)).activations["last"]
                           for each in images(8)])  # fmt: skip
    check_equal(together, alone)


@pytest.mark.parametrize("method", ["cam", "gradcam", "scorecam", "rise", "ablationcam", "ddt",
                                    "gradient", "excitation_backprop", "occlusion"])  # fmt: skip
def test_maps_of_methods_are_those_of_torch(
    backend: Backend, network: Classifier, method: str
) -> None:
    options = {"rise": {"masks": 24}, "occlusion": {"window": 8, "stride": 4}}.get(method, {})
    built = instantiate("saliency", {**read_choice("saliency", method), **options})
    if method == "ddt":
        built = built.fitted(built.statistics(network, images(), torch.tensor([0, 1, 2])))

    def maps() -> torch.Tensor:
        return built(network, images(), lambda logits: torch.tensor([[0], [1], [2]])).maps

    expected = maps()
    network.compiled = Compiled(backend)
    found = maps()
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert network.compiled.is_used == (method not in ("gradient", "excitation_backprop"))


# -- what is refused


def break_sessions(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    def open_broken(*arguments: Any) -> object:
        session = open_session(*arguments)
        return lambda batch: [values * np.float32(factor) for values in session(batch)]

    monkeypatch.setattr(module, "open_session", open_broken)


def test_a_session_that_computes_otherwise_is_refused(
    backend: Backend, network: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_sessions(monkeypatch, 1 + 3 * MAX_DIFFERENCE)
    used = Compiled(backend)
    with torch.no_grad():
        for _ in range(2):
            found, expected = run_both(network, used, ("last",))
            assert torch.equal(found.activations["last"], expected.activations["last"])
    assert not used.is_used
    assert len(used.refusals) == 1
    assert used.refusals[0].startswith(f"runtime.backend={backend}: the network is computed by")
    assert "logits differs from torch's by 0.0003" in used.refusals[0]


def test_a_session_that_is_wrong_for_the_maps_alone_is_refused(
    backend: Backend, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is small beside the feature maps, whose weighted sum is small itself."""

    def open_broken(*arguments: Any) -> object:
        session = open_session(*arguments)

        def run(batch: np.ndarray) -> list[np.ndarray]:
            logits, maps = session(batch)
            maps = maps + 0.5 * MAX_DIFFERENCE * np.abs(maps).max()
            return [logits, maps.astype(np.float32)]

        return run

    monkeypatch.setattr(module, "open_session", open_broken)
    network.body.top[1].weight[0] *= 1e-3  # of the channel that alone has weights in the head
    network.body.top[1].bias[0] = 1e-3
    network.head.linear.weight[:, 1:] = 0
    used = network.compiled = Compiled(backend)
    with torch.no_grad():
        network(images(), at=("last",))
    assert not used.is_used
    assert "cam differs from torch's" in used.refusals[0]


def test_what_a_backend_raises_is_a_note(
    backend: Backend, network: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> object:
        raise RuntimeError("no such operator\nand more lines")

    monkeypatch.setattr(module, "open_session", fail)
    used = network.compiled = Compiled(backend)
    with torch.no_grad():
        answer = network(images())
    network.compiled = None
    assert torch.equal(answer.logits, network(images()).logits)
    assert used.refusals == [
        f"runtime.backend={backend}: the network is computed by torch (RuntimeError: no such "
        "operator)"
    ]


def test_a_network_whose_work_depends_on_the_image_is_refused(backend: Backend) -> None:
    """A file has one of its ways only: the probes take both."""

    class Choosing(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            return y if float(x.mean()) > 0 else -y

    torch.manual_seed(0)
    network = Classifier(nn.Sequential(Choosing(3, 4, 3)), MeanLinear(4, 2), "ab").eval()
    used = network.requires_grad_(False).compiled = Compiled(backend)
    with torch.no_grad():
        network(images())
    assert not used.is_used
    assert "differs from torch's" in used.refusals[0]


def test_training_autocast_and_copies_stay_with_torch(
    backend: Backend, network: Classifier
) -> None:
    used = network.compiled = Compiled(backend)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            network(images())
        network.train()
        network(images())
        network.eval()
    assert not used.is_used
    assert copy.deepcopy(network).compiled is None
    assert "compiled" not in network.state_dict()
