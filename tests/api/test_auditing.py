"""`pipeline.audit_maps`: the numbers of stage audit, of any network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.metrics import arcc
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import pipeline
from pipeline.audit.sanity import split_into_parts
from pipeline.engine.choices import list_choices
from pipeline.errors import UserError
from tests.api.test_explaining import PREPARED, Network, state_of
from tests.conftest import Cli

QUICK = {"steps": 2, "samples": 2, "layers": 3, "attack_steps": 2}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def test_the_numbers_are_those_of_the_stage(cli: Cli, folder_of_images: Path) -> None:
    tests = ["faithfulness", "composite", "region_flipping", "infidelity", "max_sensitivity",
             "fragility"]  # fmt: skip
    steps = [f"audit.{name}={value}" for name, value in QUICK.items()]
    assert cli(
        "+experiment=audit", "data=folder", f"data.root={folder_of_images}", "data.size=32",
        "train.epochs=1", "train.batch=8", "saliency=layercam", "audit.images=100", "audit.few=100",
        f"audit.tests=[{','.join(tests)}]", *steps, "seed=3", "runtime.device=cpu",
    ) == 0  # fmt: skip
    images = json.loads(Path("outputs/latest/stages/audit/images.json").read_text())
    assert len(images) > 4, "several batches"
    audited = pipeline.audit_maps(
        pipeline.load("outputs/latest").trained,
        [folder_of_images / image["id"] for image in images],
        "layercam",
        tests,
        target=[image["class"] for image in images],
        test_options=QUICK,
        seed=3,
    )
    assert audited.labels == [image["class"] for image in images]
    for record in audited.records:
        name = record["name"]
        wanted = [image[record["test"]][name] for image in images]
        np.testing.assert_allclose(audited.per_image[name], wanted, atol=1e-3, err_msg=name)
        assert audited[name] == pytest.approx(record["value"])
    (stage,) = json.loads(Path("outputs/latest/audit.json").read_text())
    assert [r["name"] for r in audited.records] == [r["name"] for r in stage["numbers"]]


def test_every_test_runs_and_the_network_is_as_it_was(images: Tensor) -> None:
    torch.manual_seed(0)
    network = Network()  # in training mode, with gradients
    before = state_of(network)
    audited = pipeline.audit_maps(network, images, "gradcam", preprocessing=PREPARED,
                                  test_options=QUICK)  # fmt: skip
    assert {record["test"] for record in audited.records} == set(list_choices("audit"))
    assert not audited.notes
    for name, values in audited.per_image.items():
        assert values.shape == (3,)
        assert np.isfinite(values).all(), name
    assert "deletion, area" in str(audited)
    after = state_of(network)
    assert before[0] == after[0]
    assert all(torch.equal(before[1][key], after[1][key]) for key in before[1])
    assert after[2:] == before[2:]
    for name in list_choices("audit"):
        assert np.asarray(audited.picture(name)).std() > 5
    with pytest.raises(UserError, match="did you mean 'sanity'"):
        audited.picture("sanitty")


def test_the_head_of_a_wrapped_network_is_a_part_alone() -> None:
    network = pipeline.wrap(Network())
    parts = split_into_parts(network, 3)
    assert [part.name for part in parts] == ["fc", "top.0-1", "stem.0-1"]
    layers = sorted(layer for part in parts for layer in part.layers)
    assert layers == ["body.fc", "body.stem.0", "body.stem.1", "body.top.0", "body.top.1"]


def test_the_parameters_of_a_wrapped_module_itself_are_in_a_part() -> None:
    class WithToken(Network):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(8))

    parts = split_into_parts(pipeline.wrap(WithToken()), 9)
    assert "body" in [layer for part in parts for layer in part.layers]


def test_a_network_of_grey_images() -> None:
    network = Network()
    network.stem[0] = nn.Conv2d(1, 8, 3, 2, 1)
    grey = {"size": 32, "mean": [0.5], "std": [0.25]}
    audited = pipeline.audit_maps(network, torch.randn(2, 1, 32, 48), "gradcam",
                                  preprocessing=grey, test_options=QUICK)  # fmt: skip
    for name in list_choices("audit"):
        assert audited.picture(name).width > 1000
    assert np.isfinite(list(audited.per_image.values())).all()


def test_photographs_and_a_test_that_cannot_be_done(images: Tensor) -> None:
    class Centred(nn.Module):
        """Its first layer with parameters is no convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.network = nn.BatchNorm2d(3), Network()

        def forward(self, given: Tensor) -> Tensor:
            return self.network(self.norm(given))

    photos = [np.random.default_rng(n).integers(0, 255, (40, 30, 3)).astype(np.uint8)
              for n in range(2)]  # fmt: skip
    audited = pipeline.audit_maps(
        Centred(), photos, "gradcam", ["input_shift", "composite"], target=[1, 2],
        preprocessing=PREPARED, classes=["cat", "dog", "fox", "owl"],
    )  # fmt: skip
    assert audited.labels == ["dog", "fox"]
    assert sorted(audited) == ["adcc", "arcc", "coherency", "complexity"]
    with pytest.raises(KeyError, match="adcx: no such number in the tests that were done"):
        _ = audited["adcx"]
    (note,) = audited.notes
    assert note.startswith("input_shift: not done; the first layer")
    with pytest.raises(UserError, match="none can be done; input_shift: not done"):
        pipeline.audit_maps(Centred(), photos, tests=["input_shift"], preprocessing=PREPARED)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tests": ["sanitty"]}, "did you mean 'sanity'"),
        ({"tests": []}, "none given"),
        ({"tests": "sanity"}, "expected a list"),
        ({"test_options": {"sample": 3}}, "did you mean 'samples'"),
        ({"test_options": {"images": 3}}, "no such option"),
        ({"test_options": {"layers": 0}}, "expected a number from 2"),
        ({"preprocessing": None}, "does not say how its images are normalized"),
        ({"target": lambda output: output[:, 0]}, "has no probability"),
        ({"target": "top3"}, "one class an image"),
        ({"method": "ddt"}, "fitted to training images"),
        ({"images": []}, "none given"),
    ],
)
def test_what_cannot_be_is_refused(images: Tensor, given: dict[str, Any], message: str) -> None:
    arguments = {"images": images, "tests": ["composite"], "preprocessing": PREPARED, **given}
    with pytest.raises(UserError, match=message):
        pipeline.audit_maps(Network(), **arguments)


def test_coherency_and_complexity_are_pytorch_grad_cams_from_end_to_end() -> None:
    """Of its own Grad-CAM, upsampling and scaling."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5).eval()
    images = torch.randn(3, 3, 96, 96)
    audited = pipeline.audit_maps(model, images, "gradcam", ["composite"], target=[1, 2, 3])
    scores = [ClassifierOutputTarget(label) for label in (1, 2, 3)]
    with GradCAM(model, [model.layer4]) as method:
        maps = method(images, scores)
        coherency = arcc.Coherency()(images, maps, scores, model, method)
    np.testing.assert_allclose(audited.per_image["complexity"], arcc.Complexity()(maps), atol=1e-3)
    np.testing.assert_allclose(audited.per_image["coherency"], coherency, atol=2e-3)
