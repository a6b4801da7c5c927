"""What a user of captum, pytorch-grad-cam or torchcam types, and what is said then."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

import pipeline
from pipeline.api.peers import ARGUMENTS, METHODS, find_method
from pipeline.engine.choices import list_choices
from pipeline.errors import UserError
from pipeline.saliency.gradcam import GradCAM
from pipeline.saliency.views import Views
from tests.api.test_explaining import Network

IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("target_layers", "layer='layer4', a path in model.named_modules.*layer=model.layer4"),
        ("targets", "target=281, 'tabby' or a function"),
        ("reshape_transform", "nothing, as tokens and grids"),
        ("aug_smooth", r"method=Views\(GradCAM\(\)\) of pipeline.saliency.views"),
        (
            "tagret",
            r"did you mean 'target'\? choices: batch, classes, last, layer, layers, multi_label",
        ),
    ],
)
def test_an_argument_of_the_peers_is_told_as_it_is_here(name: str, told: str) -> None:
    given: dict[str, Any] = {name: 281}
    with pytest.raises(UserError, match=f"{name}=: gradcam has no such option; .*{told}"):
        pipeline.explain(Network(), IMAGES, "gradcam", **given)


def test_what_is_named_instead_works() -> None:
    assert pipeline.explain(Network(), IMAGES, Views(GradCAM())).maps.shape == (2, 8, 12)
    with_baselines = pipeline.explain(Network(), IMAGES, "gradient_shap", baselines="mean")
    assert with_baselines.maps.shape == (2, 32, 48)  # a method's own option keeps its meaning
    assert "baselines" in ARGUMENTS


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("GradCAM++", "gradcam_plus_plus"),
        ("gradcam++", "gradcam_plus_plus"),
        ("GradCAMpp", "gradcam_plus_plus"),
        ("SmoothGradCAMpp", "smooth_gradcam_plus_plus"),
        ("Grad-CAM", "gradcam"),
        ("Layer CAM", "layercam"),
        ("GuidedGradCam", "guided_gradcam"),
        ("IntegratedGradients", "integrated_gradients"),
        ("InputXGradient", "gradient_times_input"),
        ("Saliency", "gradient"),
        ("KernelShap", "kernel_shap"),
    ],
)
def test_a_method_by_the_name_of_the_peers(given: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        pipeline.explain(Network(), IMAGES, given)


def test_a_method_that_nobody_has() -> None:
    with pytest.raises(UserError, match=r"method='gradcm': no such method; did you mean 'gradcam'"):
        pipeline.explain(Network(), IMAGES, "gradcm")
    choices = list_choices("saliency")
    assert set(METHODS.values()) <= set(choices)
    assert {find_method(choice, choices) for choice in choices} == set(choices)
    assert find_method("nothing", choices) is None


def test_targets_of_pytorch_grad_cam_are_classes_of_each_image() -> None:
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    network, several = Network(), [targets.ClassifierOutputTarget(n) for n in (3, 1)]
    result = pipeline.explain(network, IMAGES, target=several)
    assert result.classes.tolist() == [3, 1]
    assert result.maps.shape == (2, 8, 12)
    assert pipeline.explain(network, IMAGES, target=several[0]).classes.tolist() == [3, 3]
    with pytest.raises(UserError, match="target: 1 given for 2 images"):
        pipeline.explain(network, IMAGES, target=several[:1])
    for other in (targets.ClassifierOutputSoftmaxTarget(1), [targets.RawScoresOutputTarget()] * 2):
        with pytest.raises(UserError, match="reads the output of one image; here a function reads"):
            pipeline.explain(network, IMAGES, target=other)


def test_methods_of_the_peers_are_named_as_they_are_here() -> None:
    captum = pytest.importorskip("captum.attr")
    network = Network()
    with pytest.raises(UserError, match=r"IntegratedGradients of captum.*'integrated_gradients'"):
        pipeline.explain(network, IMAGES, captum.IntegratedGradients)
    with pytest.raises(UserError, match=r"LayerGradCam of captum.*method='gradcam'"):
        pipeline.explain(network, IMAGES, captum.LayerGradCam(network, network.top))
    with pytest.raises(UserError, match=r"FeatureAblation of captum.*pipeline.methods"):
        pipeline.explain(network, IMAGES, captum.FeatureAblation)


def test_what_is_returned_or_swapped_says_where_the_maps_are() -> None:
    network = Network()
    with pytest.raises(TypeError, match=r"what explain returned is no array: result.maps\[0\]"):
        _ = pipeline.explain(network, IMAGES)[0]
    with pytest.raises(AttributeError, match=r"no attribute 'detach'; what explain returned is no"):
        _ = pipeline.explain(network, IMAGES).detach()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no attribute 'map'$"):
        _ = pipeline.explain(network, IMAGES).map  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(pipeline.explain(network, IMAGES))).maps.shape == (2, 8, 12)
    with pytest.raises(TypeError, match="too many positional arguments; options are given by name"):
        pipeline.explain(network, IMAGES, "gradcam", 1)  # type: ignore[call-arg, arg-type]
    with pytest.raises(TypeError, match="'images'; input_tensor=: the images are the second"):
        pipeline.explain(model=network, input_tensor=IMAGES)  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"given as a tensor: torch.from_numpy\(images\)"):
        pipeline.explain(network, IMAGES.numpy())
    with pytest.raises(UserError, match=r"a score of each image.* got \[4\] for 2 images"):
        pipeline.explain(network, IMAGES, target=lambda output: output[0])
    with pytest.raises(TypeError, match="model, images: they are swapped"):
        pipeline.explain(IMAGES, network)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match=r"pipeline.explain\(model, images, method='gradcam'"):
        _ = pipeline.GradCAM
    with pytest.raises(AttributeError, match=r"no attribute 'Nothing'$"):
        _ = pipeline.Nothing
