"""Values that are no numbers, other floats than the network's, and sizes that only some read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import pipeline
from pipeline.errors import UserError
from tests.api.test_explaining import PREPARED, Network


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))


class Fixed(nn.Module):
    """A CNN that reads a single size."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU())
        self.fc = nn.Linear(8 * (side // 4) ** 2, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.stem(images).flatten(1))
        return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_images_that_are_no_numbers_are_refused(
    network: Network, images: Tensor, value: float
) -> None:
    images[1, 0, 3, 4] = value
    for method in ("gradcam", "lime"):
        with pytest.raises(UserError, match=r"image 2 has 1 value.* NaN or infinite"):
            pipeline.explain(network, images, method)
    with pytest.raises(UserError, match="image 2 has 1 value"):
        pipeline.audit_maps(network, images, tests=["faithfulness"], preprocessing=PREPARED)
    with pytest.raises(UserError, match=r"image 1 has 4608 .*, and so have 2 more"):
        pipeline.explain(network, images * value)


def test_logits_that_are_no_numbers_are_refused(network: Network, images: Tensor) -> None:
    images[2] *= 1e37
    network.fc.weight.data *= 1e10
    for target in ("predicted", 1):
        with pytest.raises(UserError, match="its output for image 3 is NaN or infinite"):
            pipeline.explain(network, images, target=target)
    with pytest.raises(UserError, match="its output for image 3 is NaN or infinite"):
        pipeline.audit_maps(network, images, tests=["faithfulness"], preprocessing=PREPARED)
    network.fc.bias.data[1] = -float("inf")  # a class that is switched off
    assert pipeline.explain(network, images[:2], target=0).maps.isfinite().all()


@pytest.fixture
def few_methods(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Leave some methods: to try all takes seconds."""
    names = ["gradcam", "gradient", "lime", "occlusion"]
    monkeypatch.setattr("pipeline.api.catalogue.list_choices", lambda family: names)
    return names


@pytest.mark.parametrize("side", [28, 96])
def test_methods_are_tried_at_a_size_that_the_network_reads(
    side: int, few_methods: list[str]
) -> None:
    listed = pipeline.methods(Fixed(side))
    works = [method.name for method in listed if method.works]
    assert works == (few_methods if side == 96 else few_methods[:3])


@pytest.mark.usefixtures("few_methods")
def test_an_error_of_a_trial_is_the_refusal_of_one_method(network: Network) -> None:
    class Strange(Network):
        def forward(self, images: Tensor) -> Tensor:
            if images.shape[0] > 4:
                raise ZeroDivisionError("no more\nthan four")
            return super().forward(images)

    listed = {method.name: method for method in pipeline.methods(Strange())}
    assert listed["gradcam"].works
    assert listed["occlusion"].refusal == "ZeroDivisionError: no more"


@pytest.mark.usefixtures("few_methods")
def test_a_transformer_of_timm_is_read_at_the_size_that_it_was_built_for() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=5, depth=2)
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    given = timm.data.resolve_model_data_config(model)
    for preprocessing in (None, given):
        result = pipeline.explain(model, photo, "gradcam", preprocessing=preprocessing)
        assert result.size == (96, 96)
    listed = {method.name: method for method in pipeline.methods(model)}
    assert listed["gradcam"].works
    assert listed["gradient"].works


class Grey(nn.Module):
    """A network of grey images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(8, 10, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.top(self.stem(images)).mean((2, 3)))
        return logits


def test_networks_of_grey_images() -> None:
    torch.manual_seed(0)
    network, images = Grey(), torch.randn(2, 1, 32, 48)
    for method in ("integrated_gradients", "deeplift", "gradient_shap"):
        result = pipeline.explain(network, images, method)
        assert result.maps.shape == (2, 32, 48)
        assert result.maps.abs().max() > 0
        assert result.colour is not None
        assert result.colour.shape == (2, 1, 32, 48)
    result = pipeline.explain(network, images, "integrated_gradients", target=[0, 1], steps=64)
    start = pipeline.explain(network, images * 0).logits
    gained = (result.logits - start).gather(1, torch.tensor([[0], [1]]))[:, 0]
    torch.testing.assert_close(result.maps.sum((1, 2)), gained, atol=1e-3, rtol=1e-3)
    assert pipeline.explain(network, images, "occlusion").maps.shape == (2, 32, 48)
    with pytest.raises(UserError, match=r"3 numbers, but the network's images have 1 channel;"):
        pipeline.explain(network, images, "deeplift", baseline=(0, 0, 0))
    refused = {m.name: m.refusal for m in pipeline.methods(network) if m.refusal is not None}
    assert not [text for text in refused.values() if "Error" in text]


def test_photographs_are_made_grey_for_networks_of_grey_images() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    grey, network = Image.fromarray(photo).convert("L"), Grey()
    prepared = {"size": (32, 48), "mean": (0.5,), "std": (0.25,)}
    photos: list[Any] = [photo, grey]
    result = pipeline.explain(network, photos, preprocessing=prepared)
    tensor = (torch.from_numpy(np.array(grey))[None, None] / 255 - 0.5) / 0.25
    torch.testing.assert_close(result.logits, network(tensor).detach().expand(2, -1))
    with pytest.raises(UserError, match=r"have 3 channels, and the network's first .* reads 1"):
        pipeline.explain(network, photo, preprocessing=PREPARED)
    with pytest.raises(UserError, match="a mean of 2 channels"):
        pipeline.explain(network, photo, preprocessing={"size": 32, "mean": (0, 0), "std": (1, 1)})


def test_inference_mode_is_left(network: Network, images: Tensor) -> None:
    methods = ("gradcam", "gradient", "lrp", "rise")
    options: list[dict[str, Any]] = [{"masks": 8} if method == "rise" else {} for method in methods]
    expected = [pipeline.explain(Network(), images, "gradcam").maps.shape]
    with torch.inference_mode():
        made = images.clone()
        for given in (images, made, list(made)):
            for method, option in zip(methods, options, strict=True):
                result = pipeline.explain(network, given, method, **option)
                outside = result.maps
                assert not outside.is_inference()
        assert torch.is_inference_mode_enabled()
        assert [pipeline.explain(network, made, "gradcam").maps.shape] == expected
        audited = pipeline.audit_maps(network, made, tests=["composite"], preprocessing=PREPARED)
        assert 0 <= audited["adcc"] <= 1
        with pytest.raises(UserError, match=r"its weights were made within torch\.inference_mode"):
            pipeline.explain(Network(), images)
    inside = pipeline.explain(network, images, "gradcam").maps
    with torch.inference_mode():
        assert torch.equal(pipeline.explain(network, made, "gradcam").maps, inside)


def test_floats_are_cast_to_those_of_the_network(network: Network, images: Tensor) -> None:
    expected = pipeline.explain(network, images, "gradcam", target=1)
    result = pipeline.explain(network, images.double(), "gradcam", target=1)
    assert torch.equal(result.maps, expected.maps)
    photo = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    single = pipeline.explain(network, photo, "gradcam", target=1, preprocessing=PREPARED)
    for kind in (torch.bfloat16, torch.float64):
        other = pipeline.explain(
            Network().to(kind), photo, "gradcam", target=1, preprocessing=PREPARED
        )
        assert other.maps.shape == single.maps.shape
