"""What holds of every view: sheets and numbers, only what it declared is read, nothing changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine import checkpoint
from pipeline.engine.choices import build_choices, fill_defaults, list_choices, read_choice
from pipeline.formats.files import to_file_name
from pipeline.protocols import View
from pipeline.stages.inspect.config import InspectOptions
from pipeline.types import ViewResult
from tests.conftest import Cli
from tests.outside import add_choice
from tests.visualize.subjects import CLASSES, Noise, small_network, subject_of

VIEWS = list_choices("visualize")
FEW: dict[str, Any] = {"steps": 3, "noise": 0.5, "maps": 2, "few": 3, "directions": 1, "side": 64,
                       "octaves": 2, "dream_steps": 2}  # fmt: skip


def build(name: str, **options: Any) -> View:
    view: View = build_choices("visualize", [name], {**FEW, **options})[name]
    return view


def pixels_of(result: ViewResult) -> dict[str, np.ndarray]:
    sheets = {f"sheet {name}": np.asarray(picture) for name, picture in result.sheets.items()}
    return sheets | {name: np.asarray(picture) for name, picture in result.pictures.items()}


@pytest.mark.parametrize("name", VIEWS)
def test_sheets_numbers_and_pictures(name: str) -> None:
    result = build(name)(subject_of(small_network()))
    assert "" in result.sheets
    assert json.loads(json.dumps(result.numbers)) == result.numbers
    for pixels in pixels_of(result).values():
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert pixels.std() > 5
    assert all(to_file_name(file) == file for file in result.pictures)


@pytest.mark.parametrize("name", VIEWS)
def test_the_network_stays_as_it_is_and_the_pictures_are_the_same_again(name: str) -> None:
    network = small_network()
    before = {key: values.clone() for key, values in network.state_dict().items()}
    first, second = (build(name)(subject_of(network)) for _ in range(2))
    assert first.numbers == second.numbers
    assert first.notes == second.notes
    others = pixels_of(second)
    assert all(np.array_equal(pixels, others[key]) for key, pixels in pixels_of(first).items())
    assert all(torch.equal(values, before[key]) for key, values in network.state_dict().items())
    assert all(not one.requires_grad and one.grad is None for one in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("channels", [(), (1, 0)])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_reads_what_it_declares_alone(name: str, channels: tuple[int, ...]) -> None:
    """What is not declared is not in the key: who reads it in secret would show what is stale."""
    read: set[str] = set()

    class Watched(Noise):
        def ids(self, split: Any) -> Any:
            read.add("data")
            return super().ids(split)

    network = small_network()
    plain = subject_of(network)

    def explain(images: Any, choose: Any) -> Any:
        read.add("maps")
        return plain.explain(images, choose)

    view = build(name, channels=channels)
    view(subject_of(network, data=Watched(), explain=explain))
    assert ("data" in read) == view.reads_data
    assert ("maps" in read) == view.reads_maps


@pytest.mark.parametrize("name", VIEWS)
def test_an_argument_has_the_default_of_the_option_of_the_stage(name: str) -> None:
    options = vars(InspectOptions())
    node = fill_defaults(name, read_choice("visualize", name))
    for key in node.keys() & options.keys():
        assert node[key] == options[key], key


def test_the_default_is_all_views_but_the_dream() -> None:
    wanted = ["classes", "channels", "features", "first_order", "filters", "top5"]
    assert InspectOptions().views == wanted
    assert sorted([*wanted, "dream"]) == VIEWS


# -- from outside --------------------------------------------------------------------------------

SOURCE = '''
"""A view that is not part of the package: the weights of the head as a picture."""
import numpy as np
from pipeline.stages.inspect.config import InspectOptions
from pipeline.types import ViewResult


class Weights:
    reads_data = reads_maps = False

    def __init__(self, times: int, layer: str = "") -> None:
        self.times, self.layer = times, layer

    def __call__(self, subject):
        weights = subject.trained.network.class_weights.numpy()
        bright = np.uint8(255 * (weights > 0))
        sheet = np.kron(bright, np.ones((self.times, self.times), np.uint8))
        picture = np.repeat(sheet[..., None], 3, 2)
        return ViewResult(sheets={"": picture, "again": picture}, pictures={"single": picture},
                          numbers={"times": self.times, "layer": self.layer}, notes=["done"])
'''


def test_a_view_from_outside_runs_by_its_name(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = "_target_: outside_weights.Weights\ntimes: 9\n"
    outside = tmp_path / "outside"
    outside.mkdir()
    add_choice(monkeypatch, outside, "visualize", "weights", SOURCE, settings)
    assert "weights" in list_choices("visualize")
    card = {"size": [24, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "recipe": "scratch"}
    node = {"_target_": "pipeline.model.small.Small", "width": 4}
    checkpoint.save(tmp_path / "net", small_network(), node, card)
    command = ("+experiment=inspect", f"checkpoint={tmp_path / 'net'}", "inspect.layer=block2",
               "inspect.views=[weights,filters]")  # fmt: skip
    assert cli(*command) == 0
    assert "inspect: weights: done" in capsys.readouterr().out
    found = Path("outputs/latest/inspected")
    assert json.loads((found / "weights.json").read_text()) == {"times": 9, "layer": "block2"}
    for file in ("weights.png", "weights_again.png", "weights/single.png", "filters.png"):
        assert (found / file).is_file()
    assert cli(*command) == 0
    assert "inspect    kept" in capsys.readouterr().out

    # Its own argument stands in its YAML, and its result is another then.
    changed = settings.replace("9", "4")
    add_choice(monkeypatch, outside, "visualize", "weights", SOURCE, changed)
    assert cli(*command) == 0
    assert json.loads((found / "weights.json").read_text())["times"] == 4
    add_choice(monkeypatch, outside, "visualize", "weights", SOURCE, settings + "timms: 1\n")
    assert cli(*command) == 2
    assert "did you mean 'times'" in capsys.readouterr().err


def test_a_view_is_built_with_the_options_of_the_stage_and_those_of_its_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another YAML of the same class: what it gives stands, whatever the stage's option is."""
    settings = "_target_: pipeline.visualize.classes.Classes\nstyle: pretty\n"
    add_choice(monkeypatch, tmp_path, "visualize", "pretty", "", settings)
    view: Any = build("pretty", style="plain", classes=["wren"])
    assert (view.style, view.steps, view.classes) == ("pretty", 3, ("wren",))
    assert CLASSES[1] in [image["name"] for image in _numbers(view)["images"]]


def _numbers(view: View) -> dict[str, Any]:
    return dict(view(subject_of(small_network())).numbers or {})
