"""`pipeline.explain` and what it does with any network, image and target."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import pipeline
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.saliency.eigencam import EigenCAM
from pipeline.saliency.gradcam import GradCAM
from pipeline.saliency.scorecam import ScoreCAM

NAMES = ("cat", "dog", "fox", "owl")
PREPARED = {"size": (32, 48), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


class Network(nn.Module):
    """A CNN whose parts have names of their own; batch norm and dropout tell the modes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(8, 10, 3, 2, 1), nn.BatchNorm2d(10), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.drop(self.top(self.stem(images)).mean((2, 3))))
        return logits


@dataclass
class Answer:
    """As Hugging Face's classifiers answer."""

    loss: None
    logits: Tensor


class Answering(nn.Module):
    """A network whose output is what a function makes of the logits."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.network, self.answer = Network(), answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(self.network(images))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def state_of(network: nn.Module) -> Any:
    return (
        [(name, module.training) for name, module in network.named_modules()],
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
        [parameter.grad for parameter in network.parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks)
         for module in network.modules()],
    )  # fmt: skip


def same_state(one: Any, other: Any) -> bool:
    tensors = all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    return bool(tensors and one[0] == other[0] and one[2:] == other[2:])


@pytest.mark.parametrize(
    "method", ["gradcam", "layercam", "cam", "gradient", "scorecam", "eigencam", "occlusion"]
)
def test_maps_are_those_of_our_own_network_of_the_same_weights(
    network: Network, images: Tensor, method: str
) -> None:
    head = MeanLinear(10, 4)
    head.linear = network.fc
    body = nn.Sequential(network.stem, network.top)
    ours = Classifier(body, head, NAMES, below="0").eval()
    expected = pipeline.explain(ours, images, method, target=[0, 1, 2])
    network.train()
    result = pipeline.explain(network, images, method, target=[0, 1, 2])
    torch.testing.assert_close(result.maps, expected.maps)
    assert result.maps.ndim == 3
    assert not result.maps.requires_grad


def test_the_network_is_as_it_was_also_after_an_error(network: Network, images: Tensor) -> None:
    network.train()
    network.top.eval()
    before = state_of(network)
    pipeline.explain(network, images, "layercam", layer="stem")
    with pytest.raises(UserError, match="layer 'nope': no such layer"):
        pipeline.explain(network, images, layer="nope")
    with pytest.raises(ZeroDivisionError):
        pipeline.explain(network, images, target=lambda output: 1 / 0)
    assert same_state(before, state_of(network))


def test_targets(network: Network, images: Tensor) -> None:
    wrapped = pipeline.wrap(network, classes=NAMES)

    def explain(target: Any) -> Any:
        return pipeline.explain(wrapped, images, "cam", target=target)

    every_class = explain([[0, 1, 2, 3]] * 3).maps
    assert every_class.shape == (3, 4, 8, 12)
    torch.testing.assert_close(explain([3, 0, 1]).maps, every_class[range(3), [3, 0, 1]])
    torch.testing.assert_close(explain("fox").maps, every_class[:, 2])
    torch.testing.assert_close(explain(torch.tensor([1, 1, 2])).maps[2], every_class[2, 2])
    assert explain(["cat", "dog", "owl"]).labels == ["cat", "dog", "owl"]
    top = explain("top2")
    assert top.classes.tolist() == top.logits.topk(2).indices.tolist()
    with pytest.warns(UserWarning, match="target=top5: the network has 4 classes, all of which"):
        assert explain("top5").maps.shape == (3, 4, 8, 12)
    predicted = explain("predicted").classes
    assert predicted.tolist() == top.logits.argmax(1).tolist()
    for wrong in (4, "cow", [0, 1], [[0], [1, 2], [3]], 1.5, [True, False, True]):
        with pytest.raises(UserError, match="target"):
            explain(wrong)


@pytest.mark.parametrize(
    "target",
    [np.int64(2), np.array(2), torch.tensor(2), [np.int64(2)] * 3, (torch.tensor(2),) * 3,
     np.full(3, 2, np.uint8)],
)  # fmt: skip
def test_any_integer_is_a_class(network: Network, images: Tensor, target: Any) -> None:
    expected = pipeline.explain(network, images, target=2)
    result = pipeline.explain(network, images, target=target)
    assert result.classes.tolist() == [2, 2, 2]
    torch.testing.assert_close(result.maps, expected.maps)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("cta", "target=cta: neither a rule nor a class; did you mean 'cat'"),
        (4, "target=4: no class has this index; the network has 4 classes, with the indices 0 to"),
        ([0, 1], "target: 2 given for 3 images"),
        ("top9", "target=top9: the network has 4 classes; give top4"),
        (np.float64(1), "expected a class"),
        (np.bool_(True), "expected a class"),
    ],
)
def test_a_wrong_target_is_told_as_what_it_is(
    network: Network, images: Tensor, target: Any, told: str
) -> None:
    with pytest.raises(UserError) as error:
        pipeline.explain(network, images, target=target, classes=NAMES)
    assert told in str(error.value)
    assert "true" not in str(error.value)  # of images without labels


@pytest.mark.parametrize(
    ("target", "count", "told"),
    [
        ("tabby", 4, r"4 classes have numbers and no names; .* classes=\[...\], or .* target=3;"),
        ("tabby", 1000, r"weights.meta\['categories'\] .*, target=281, which it is among ImageNet"),
        ("tabyb", 1000, r"the index of the class, target=281; or 'predicted'"),
        ("true", 4, "the images have no labels"),
    ],
)
def test_a_name_where_classes_have_numbers_alone_says_how_to_give_names(
    network: Network, images: Tensor, target: str, count: int, told: str
) -> None:
    network.fc = nn.Linear(10, count)
    with pytest.raises(UserError, match=told):
        pipeline.explain(network, images, target=target)
    assert pipeline.explain(network, images, target="class 3").labels == ["class 3"] * 3
    assert pipeline.explain(network, images, target="2").labels == ["class 2"] * 3


@pytest.mark.parametrize("method", ["gradcam", "gradient", "fullgrad", "scorecam"])
@pytest.mark.parametrize(
    "score", [lambda output: torch.ones(len(output)), lambda output: output.argmax(1).float()]
)
def test_a_score_without_a_gradient_is_told_as_such(
    network: Network, images: Tensor, method: str, score: Any
) -> None:
    with pytest.raises(UserError, match="the function's score has no gradient"):
        pipeline.explain(network, images, method, target=score)
    occluded = pipeline.explain(network, images[:1], "occlusion", target=score)
    assert occluded.maps.shape[0] == 1
    with pytest.raises(UserError, match="no such layer"):
        pipeline.explain(network, images, layer="nope", target=lambda output: output[:, 0])


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ({"target": lambda output: output[:, 9]}, ["The function of target= raised this; it was "
                                                   "given a tensor [2, 4]."]),
        ({"target": [lambda output: output[:, 0], lambda output: output[:, 9]]},
         ["It is target[1] that raised this.", "The function of target= raised this; it was given "
          "a tensor [2, 4]."]),
        ({"output": lambda output: output[:, 9]}, ["The function of output= raised this; it was "
                                                   "given a tensor [2, 4]."]),
    ],
)  # fmt: skip
def test_an_error_of_the_callers_function_has_a_note(
    network: Network, images: Tensor, options: Any, notes: list[str]
) -> None:
    with pytest.raises(IndexError) as error:
        pipeline.explain(network, images, **options)
    assert error.value.__notes__ == notes
    assert error.traceback[-1].path == Path(__file__)


def test_a_place_that_the_output_has_not_is_refused(network: Network, images: Tensor) -> None:
    with pytest.raises(UserError, match=r"output=1: a tensor \[2, 4\] has none there"):
        pipeline.explain(network, images, output=1)


def test_a_function_of_the_output_is_explained_as_a_class_is(
    network: Network, images: Tensor
) -> None:
    expected = pipeline.explain(network, images, "gradcam", target=2).maps
    result = pipeline.explain(network, images, "gradcam", target=lambda output: output[:, 2])
    torch.testing.assert_close(result.maps, expected)
    several = pipeline.explain(
        network, images, target=[lambda output: output[:, 2], lambda output: -output[:, 2]]
    )
    torch.testing.assert_close(several.maps[:, 0], expected)
    with pytest.raises(UserError, match=r"a score of each image, \[b\] or \[b, t\]; got"):
        pipeline.explain(network, images, target=lambda output: output.sum())


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (lambda logits: Answer(None, logits), None),
        (lambda logits: {"features": logits.flip(1), "logits": logits}, None),
        (lambda logits: {"features": logits.flip(1), "scores": logits}, "scores"),
        (lambda logits: (logits, logits.flip(1)), None),
        (lambda logits: (logits.flip(1), logits), 1),
        (lambda logits: [logits.flip(1)], lambda given: given[0].flip(1)),
    ],
)
def test_logits_are_found_in_what_a_network_gives(images: Tensor, answer: Any, output: Any) -> None:
    torch.manual_seed(0)
    network = Answering(answer)
    expected = pipeline.explain(network.network, images, target=1)
    result = pipeline.explain(network, images, target=1, output=output)
    torch.testing.assert_close(result.maps, expected.maps)
    torch.testing.assert_close(result.logits, expected.logits)


def test_an_output_without_logits_says_how_to_name_them(images: Tensor) -> None:
    network = Answering(lambda logits: {"tokens": logits[:, :, None, None], "n": 3})
    with pytest.raises(UserError, match=r"output: \[2, 4, 1, 1\] are no logits .* output='key'"):
        pipeline.explain(network, images)


def test_data_parallel_and_compiled_networks_are_read_through(
    network: Network, images: Tensor
) -> None:
    expected = pipeline.explain(network, images).maps
    wrappers: tuple[Any, ...] = (nn.DataParallel(network), torch.compile(network))
    for wrapper in wrappers:
        torch.testing.assert_close(pipeline.explain(wrapper, images).maps, expected)
    with pytest.raises(TypeError, match="TorchScript"):
        pipeline.explain(torch.jit.trace(network.eval(), images), images)
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got str"):
        pipeline.explain("resnet50", images)  # type: ignore[arg-type]


def test_photographs_of_all_kinds(network: Network, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    path = tmp_path / "photo.png"
    picture.save(path)
    with pytest.raises(UserError, match="does not say how its images are normalized"):
        pipeline.explain(network, path)
    wrapped = pipeline.wrap(network, preprocessing=PREPARED)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    maps = [pipeline.explain(wrapped, image).maps for image in (path, picture, pixels, tensor)]
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], atol=1e-2, rtol=1e-2)
    mixed: list[Any] = [str(path), picture, pixels]
    several = pipeline.explain(wrapped, mixed, batch=2)
    assert several.maps.shape == (3, 8, 12)
    assert [info.size for info in several.images] == [(64, 96)] * 3
    assert several.images[0].name == str(path)
    with pytest.raises(UserError, match="cannot be in one call"):
        pipeline.explain(wrapped, [*mixed, torch.rand(3, 32, 48)])


def test_options_and_layers_that_a_method_has_not_are_refused(
    network: Network, images: Tensor
) -> None:
    with pytest.raises(UserError, match="reluu=: gradcam has no such option; did you mean 'relu'"):
        pipeline.explain(network, images, reluu=False)
    with pytest.raises(UserError, match="gradient reads no layer that can be chosen"):
        pipeline.explain(network, images, "gradient", layer="top")
    with pytest.raises(UserError, match="expected a name or an object"):
        pipeline.explain(network, images, GradCAM)  # type: ignore[arg-type]
    for theirs in (GradCAM, ScoreCAM, EigenCAM):
        with pytest.raises(UserError, match="a method has options and no network"):
            theirs(network, [network.top])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected names of layers, got Sequential"):
        GradCAM([network.top])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="this Linear is no module within the network; name it by"):
        pipeline.explain(network, images, layer=nn.Linear(2, 2))
    with pytest.raises(UserError, match="expected a name or a module, got int; name it by"):
        pipeline.explain(network, images, layer=[4])  # type: ignore[list-item]
    signed = pipeline.explain(network, images, relu=False, layer=["stem", "top"])
    assert signed.maps.amin() < 0
    assert signed.maps.shape == (3, 16, 24)


def test_a_layer_may_be_given_as_the_module(network: Network, images: Tensor) -> None:
    named = pipeline.explain(network, images, layer=["stem", "top.2"], target=1)
    given = pipeline.explain(network, images, layer=[network.stem, network.top[2]], target=1)
    assert torch.equal(given.maps, named.maps)
    wrapped = pipeline.wrap(network, last=network.stem)
    assert wrapped.last == "stem"
    inside = pipeline.explain(wrapped, images, layer=network.top, target=1)
    assert torch.equal(inside.maps, pipeline.explain(wrapped, images, layer="top", target=1).maps)
    parallel = nn.DataParallel(network)
    assert pipeline.explain(parallel, images, layer=network.stem).maps.shape == (3, 16, 24)


def test_calls_keep_nothing(network: Network, images: Tensor) -> None:
    def count() -> int:
        gc.collect()
        return sum(isinstance(thing, Tensor) for thing in gc.get_objects())

    pipeline.explain(network, images)
    before = count()
    for method in ("gradcam", "cam", "gradient"):
        for _ in range(5):
            pipeline.explain(network, images, method)
    assert count() == before


def test_two_threads_on_one_network_do_not_mix(network: Network) -> None:
    network.train()
    batches = [torch.randn(2, 3, 32, 48) for _ in range(2)]
    expected = [pipeline.explain(network, batch, target=1).maps for batch in batches]
    wrong: list[int] = []

    def work(n: int) -> None:
        for _ in range(20):
            maps = pipeline.explain(network, batches[n], target=1).maps
            if not torch.allclose(maps, expected[n]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert network.training
    assert network.drop.training
