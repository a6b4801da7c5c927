"""What holds of every test of maps: the arrays that it names, a picture, a network left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.engine.checkpoint import Checkpoint
from pipeline.engine.choices import build_choices, fill_defaults, list_choices, read_choice
from pipeline.protocols import AuditTest
from pipeline.saliency.gradcam import GradCAM
from pipeline.stages.audit.config import AuditOptions
from pipeline.types import AuditBatch, AuditSubject
from tests.audit.networks import batch_of, small
from tests.conftest import TINY, Cli
from tests.outside import add_choice

AUDITS = list_choices("audit")
FEW: dict[str, Any] = {"steps": 3, "layers": 3, "attack_steps": 5, "samples": 3}
SIZE = (32, 40)


def build(name: str) -> AuditTest:
    test: AuditTest = build_choices("audit", [name], FEW)[name]
    return test


def subject_of_grad_cam() -> AuditSubject:
    network: Any = small()
    trained = Checkpoint(network, SIZE, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), {})
    return AuditSubject(trained=trained, network_name="small", method="gradcam", seed=3)


def batch_of_noise(subject: AuditSubject, count: int = 3, shown: int = 2) -> AuditBatch:
    torch.manual_seed(1)
    images = torch.randn(3, 3, *SIZE)[:count]
    with torch.no_grad():
        classes = subject.trained.network(images).logits.argmax(1)

    def maps_of(network: Any, given: Tensor) -> Tensor:
        return GradCAM()(network, given, lambda logits: classes[:, None]).maps[:, 0].detach()

    return batch_of(images, classes, maps_of, shown)


def named(batch: AuditBatch, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with those that the stage adds."""
    return {"image": np.array(batch.positions), "class": batch.classes.numpy(), **arrays}


@pytest.mark.parametrize("name", AUDITS)
def test_each_number_has_a_value_for_each_image(name: str) -> None:
    test, subject = build(name), subject_of_grad_cam()
    assert test.refusal(subject) == ""
    batch = batch_of_noise(subject)
    arrays = test(subject, batch)
    assert test.numbers
    for number in test.numbers:
        assert arrays[number.name].shape == (3,)
        assert np.isfinite(arrays[number.name]).all()
        assert number.title
        assert number.good in ("low", "high", "")
    assert set(test.picture_arrays) <= set(arrays)
    assert not {"image", "class"} & set(arrays), "these are the stage's"
    for key in set(arrays) - set(test.picture_arrays):
        assert len(arrays[key]) == 3, key
    for number, part, values in test.part_values(subject, named(batch, arrays)):
        assert number.name
        assert part
        assert values.shape == (3,)


@pytest.mark.parametrize("name", AUDITS)
def test_the_network_stays_as_it_is_and_the_numbers_are_the_same_again(name: str) -> None:
    test, subject = build(name), subject_of_grad_cam()
    network: Any = subject.trained.network
    before = {key: values.clone() for key, values in network.state_dict().items()}
    batch = batch_of_noise(subject)
    first, second = test(subject, batch), test(subject, batch)
    assert first.keys() == second.keys()
    for key, values in first.items():
        np.testing.assert_array_equal(values, second[key], err_msg=key)
    assert all(torch.equal(values, before[key]) for key, values in network.state_dict().items())
    assert all(not one.requires_grad and one.grad is None for one in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("name", AUDITS)
def test_an_image_has_the_same_numbers_in_a_smaller_batch(name: str) -> None:
    test, subject = build(name), subject_of_grad_cam()
    together, alone = (test(subject, batch_of_noise(subject, count)) for count in (3, 1))
    for number in test.numbers:
        np.testing.assert_allclose(together[number.name][:1], alone[number.name], atol=1e-4)


@pytest.mark.parametrize("name", AUDITS)
def test_the_picture_is_drawn_of_a_few_images(name: str) -> None:
    test, subject = build(name), subject_of_grad_cam()
    batch = batch_of_noise(subject)
    picture = test.draw(subject, named(batch, test(subject, batch)))
    assert picture.width > 1000
    assert np.asarray(picture).std() > 5


def test_no_two_tests_have_a_number_of_the_same_name() -> None:
    names = [number.name for name in AUDITS for number in build(name).numbers]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", AUDITS)
def test_an_argument_has_the_default_of_the_option_of_the_stage(name: str) -> None:
    options = vars(AuditOptions())
    node = fill_defaults(name, read_choice("audit", name))
    for key in node.keys() & options.keys():
        assert node[key] == options[key], key


def test_the_default_is_all_tests() -> None:
    assert AuditOptions().tests[0] == "faithfulness"
    assert sorted(AuditOptions().tests) == AUDITS


# -- from outside --------------------------------------------------------------------------------

SOURCE = '''
"""A test of maps that is not part of the package: how bright is what is marked?"""
import numpy as np
from PIL import Image
from pipeline.types import AuditNumber


class Brightness:
    numbers = (AuditNumber("brightness", "marked pixels, brightness", ""),)
    is_costly = True
    picture_arrays = ()

    def __init__(self, times: float, steps: int = 1) -> None:
        self.times, self.steps = times, steps

    def refusal(self, subject):
        return ""

    def __call__(self, subject, batch):
        maps = batch.maps_of(subject.trained.network, batch.images)
        count = len(batch.positions)
        assert maps.shape[0] == count
        return {"brightness": np.full(count, self.times * self.steps)}

    def part_values(self, subject, arrays):
        return ()

    def draw(self, subject, arrays):
        return Image.new("RGB", (40, 30), (255, 0, 0))
'''


def test_a_test_from_outside_runs_by_its_name(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = "_target_: outside_brightness.Brightness\ntimes: 2.5\n"
    outside = tmp_path / "outside"
    outside.mkdir()
    add_choice(monkeypatch, outside, "audit", "brightness", SOURCE, settings)
    assert "brightness" in list_choices("audit")
    command = ("+experiment=audit", *TINY, "saliency=gradcam", "audit.images=6", "audit.few=3",
               "audit.steps=4", "audit.tests=[brightness,input_shift]")  # fmt: skip
    assert cli(*command) == 0
    assert "marked pixels, brightness" in capsys.readouterr().out
    (audit,) = json.loads(Path("outputs/latest/audit.json").read_text())
    (record,) = [r for r in audit["numbers"] if r["test"] == "brightness"]
    assert (record["value"], record["n"], record["part"]) == (10.0, 3, None)
    images = json.loads(Path("outputs/latest/stages/audit/images.json").read_text())
    assert [one["brightness"] for one in images if "brightness" in one] == [{"brightness": 10}] * 3
    assert Path("outputs/latest/stages/audit/pictures/brightness.png").is_file()
    assert cli(*command) == 0
    assert "audit      kept" in capsys.readouterr().out

    # Its own argument stands in its YAML, and its result is another then.
    add_choice(monkeypatch, outside, "audit", "brightness", SOURCE,
               settings.replace("2.5", "3"))  # fmt: skip
    assert cli(*command) == 0
    (audit,) = json.loads(Path("outputs/latest/audit.json").read_text())
    assert audit["numbers"][0]["value"] == 12.0
    add_choice(monkeypatch, outside, "audit", "brightness", SOURCE, settings + "timms: 1\n")
    assert cli(*command) == 2
    assert "did you mean 'times'" in capsys.readouterr().err
