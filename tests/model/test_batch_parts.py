"""Training passes in parts of a batch equal those of the whole batch, on any number of cores."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.engine.choices import fill_defaults, instantiate, list_choices, read_choice
from pipeline.model.batch_parts import MAX_PARTS, SplitNetwork, count_parts, explain_whole
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.small import Small
from pipeline.objective.cross_entropy import CrossEntropy
from pipeline.protocols import WrappingObjective

SIZE = (32, 40)
LABELS = torch.tensor([0, 1, 2, 1, 0, 2, 1])


def build(body: nn.Module | None = None) -> Any:
    torch.manual_seed(0)
    made, channels = Small(width=2).body()
    head = MeanLinear(channels, 3)
    nn.init.normal_(head.class_weights)
    names = ("a", "b", "c")
    return Classifier(body or made, head, names, Small.last, Small.below).train()


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(LABELS), 3, *SIZE, generator=generator).to(dtype)


def objective_of(name: str) -> Any:
    return instantiate(name, fill_defaults(name, read_choice("objective", name)))


def learn(
    network: Any,
    parts: int = 3,
    cores: int = 2,
    objective: Any = None,
    dtype: torch.dtype = torch.float32,
    cast: bool = False,
) -> dict[str, Tensor]:
    """Return loss, gradients and buffers after a step; parts=0: of the network itself."""
    torch.manual_seed(5)
    objective = objective or CrossEntropy()
    with SplitNetwork(network, max(1, parts), cores, lambda count, size: parts) as split:
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss, _ = objective(split if parts else network, images(dtype), LABELS)
        loss.backward()
        assert not split.was_hooked
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **dict(network.named_buffers())}


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_step_is_that_of_the_whole_batch(parts: int) -> None:
    network = build().double()
    network.body.block2.requires_grad_(False).eval()  # as frozen parts are
    whole = learn(copy.deepcopy(network), 0, dtype=torch.float64)
    split = learn(copy.deepcopy(network), parts, dtype=torch.float64)
    assert not any("block2" in name and "running" not in name for name in whole if "conv" in name)
    assert split.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(split[name], tensor, rtol=1e-6, atol=1e-9, msg=name)


def test_the_number_of_cores_changes_no_bit() -> None:
    results = [learn(build(), 4, cores) for cores in (1, 2, 4, 4)]
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(other[name], tensor), name


def test_bfloat16_loses_no_more_than_in_whole_batches() -> None:
    exact, whole, split = learn(build(), 0), learn(build(), 0, cast=True), learn(build(), cast=True)

    def error(of: dict[str, Tensor]) -> float:
        return sum(float((of[n] - t).norm() / t.norm().clamp(min=1e-3)) for n, t in exact.items()
                   if "." in n and t.is_floating_point())  # fmt: skip

    assert 0 < error(split) < 1.5 * error(whole)


@pytest.mark.parametrize("name", [name for name in list_choices("objective") if name != "adl"])
def test_objectives_compute_the_same_in_parts(name: str) -> None:
    objective = objective_of(name)
    network = build()
    if isinstance(objective, WrappingObjective):
        network = objective.wrap(network)
    assert explain_whole(network, objective, SIZE, LABELS) is None
    whole, split = (learn(copy.deepcopy(network), parts, objective=objective) for parts in (0, 3))
    assert split.keys() == whole.keys()
    for key, tensor in whole.items():
        torch.testing.assert_close(split[key], tensor, rtol=2e-3, atol=2e-4, msg=key)


class Mixes(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps - maps.mean(0, keepdim=True)


class Other(nn.BatchNorm2d):
    pass


class Uncopyable(nn.Module):
    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("no copies")

    def forward(self, maps: Tensor) -> Tensor:
        return maps


def hooking(network: Any, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    seen: list[Tensor] = []
    handle = network.body.register_forward_hook(lambda module, given, output: seen.append(output))
    logits = network(inputs).logits
    handle.remove()
    return functional.cross_entropy(logits, labels) + seen[0].mean(), logits


@pytest.mark.parametrize(
    ("module", "objective", "why"),
    [
        (nn.Dropout(), CrossEntropy(), "random numbers"),
        (Mixes(), CrossEntropy(), "depends on the other images"),
        (Other(8), CrossEntropy(), "Other computes the statistics of each part alone"),
        (Uncopyable(), CrossEntropy(), "cannot be copied: no copies"),
        (nn.ReLU(), hooking, "the objective registers hooks"),
        (nn.ReLU(), CrossEntropy(), None),
    ],
)
def test_what_cannot_be_split_is_said(
    module: nn.Module, objective: Callable[..., Any], why: str | None
) -> None:
    network = build()
    network.body.append(module)
    before, state = torch.get_rng_state(), copy.deepcopy(dict(network.named_buffers()))
    found = explain_whole(network, objective, SIZE, LABELS)  # type: ignore[arg-type]
    assert (found is None) == (why is None)
    assert why is None or why in str(found)
    assert torch.equal(torch.get_rng_state(), before)
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, state[name]), "the trial changes nothing"


def test_adl_is_not_split_as_its_layers_draw() -> None:
    objective = objective_of("adl")
    why = explain_whole(objective.wrap(build()), objective, SIZE, LABELS)
    assert "random numbers" in str(why)


def test_what_goes_wrong_in_a_part_is_raised_and_the_next_batch_is_computed() -> None:
    network = build()

    class Breaks(nn.Module):
        broken = False

        def forward(self, maps: Tensor) -> Tensor:
            if Breaks.broken and len(maps) == 2:  # the parts have 3, 2 and 2 images
                raise ValueError("broken")
            return maps

    network.body.append(Breaks())
    with SplitNetwork(network, 3, 2, lambda count, size: 3) as split:
        Breaks.broken = True
        with pytest.raises(ValueError, match="broken"):
            split(images())
        Breaks.broken = False
        split(images()).logits.sum().backward()
    assert network.body.block1.conv.weight.grad is not None


def test_passes_that_need_no_gradient_of_weights_are_whole() -> None:
    network = build()
    with SplitNetwork(network, 3, 2, lambda count, size: 3) as split:
        given = images().requires_grad_()
        torch.autograd.grad(split(given).logits.sum(), given)  # to the images
        with torch.no_grad():
            assert not split(images()).logits.requires_grad
        assert set(split(images(), at=("last",)).activations) == {"last"}
        assert split.class_weights is network.class_weights


def test_how_many_parts_a_batch_has() -> None:
    assert count_parts(64, (64, 64)) == 2
    assert count_parts(32, (64, 64)) == 2
    assert count_parts(31, (64, 64)) == 1
    assert count_parts(128, (64, 64)) == 4
    assert count_parts(32, (224, 224)) == MAX_PARTS == 8
    assert count_parts(8, (224, 224)) == 3
    assert count_parts(4, (224, 224)) == 2
    assert count_parts(1, (500, 500)) == 1
