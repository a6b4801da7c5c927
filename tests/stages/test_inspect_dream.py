"""Inspect's dream: the objective rises, octave by octave, and the photograph keeps its shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.model.classifier import Classifier
from pipeline.types import NetworkOutput
from pipeline.visualize.deep_dream import Dream, build_layer_score, resize_image
from tests.conftest import Cli
from tests.stages.test_inspect import CLASSES, network, saved

LATEST = Path("outputs/latest")


def test_the_score_and_its_slope_by_hand() -> None:
    """1/2 mean A^2 over the maps that count; the slope by small differences in float64."""
    made, images = network().double(), torch.randn(2, 3, 12, 10, dtype=torch.float64)
    for channels in ([], [1], [0, 2]):
        score, gradient = build_layer_score(made, "block2", channels)(images)
        maps = made(images, at=("block2",)).activations["block2"].detach()
        maps = maps[:, channels] if channels else maps
        assert torch.allclose(score, maps.square().mean((1, 2, 3)) / 2)
        direction = torch.randn_like(images)
        ahead, _ = build_layer_score(made, "block2", channels)(images + 1e-6 * direction)
        behind, _ = build_layer_score(made, "block2", channels)(images - 1e-6 * direction)
        wanted = (gradient * direction).sum((1, 2, 3))
        assert torch.allclose((ahead - behind) / 2e-6, wanted, rtol=1e-3, atol=1e-9)


def test_octaves_grow_to_the_full_size_and_none_is_too_small() -> None:
    assert Dream(octaves=3, scale=2.0).list_sizes((200, 300)) == [(50, 75), (100, 150), (200, 300)]
    assert Dream(octaves=4, scale=2.0).list_sizes((100, 300)) == [(50, 150), (100, 300)]
    assert Dream(octaves=4).list_sizes((20, 30)) == [(20, 30)]
    assert Dream(octaves=4, scale=1.4).list_sizes((224, 512))[0] == (82, 187)


def test_every_octave_rises_from_the_photograph() -> None:
    made, photo = network(), torch.randn(1, 3, 64, 96).clamp(-1, 1)
    kept, bounds = photo.clone(), (torch.full((3,), -1.5), torch.full((3,), 1.5))
    dream = Dream(octaves=3, steps=4, jitter=5)
    found = dream(build_layer_score(made, "block2"), photo, seed=3, bounds=bounds)
    assert found.image.shape == photo.shape
    assert torch.equal(photo, kept)
    assert found.sizes == [(33, 49), (46, 69), (64, 96)]
    for score in found.scores:
        assert len(score) == 5
        assert score[-1] > score[0]
    plain, _ = build_layer_score(made, "block2")(photo)
    assert found.scores[-1][0] > plain[0], "what the smaller octaves added is there already"
    assert found.image.abs().max() <= 1.5
    again = dream(build_layer_score(made, "block2"), photo, seed=3, bounds=bounds)
    assert torch.equal(again.image, found.image)
    other = dream(build_layer_score(made, "block2"), photo, seed=4, bounds=bounds)
    assert not torch.equal(other.image, found.image)
    one = Dream(octaves=3, steps=4, jitter=5)(
        build_layer_score(made, "block2", [0]), photo, 3, bounds
    )
    assert not torch.equal(one.image, found.image)


def test_one_octave_without_a_shift_is_the_ascent_by_hand() -> None:
    made, photo = network(), torch.randn(1, 3, 40, 36)
    score_function = build_layer_score(made, "last")
    image = photo.clone()
    for left in (1.0, 0.5):
        _, gradient = score_function(image)
        image = image + 0.2 * left * gradient / gradient.square().mean().sqrt()
    found = Dream(octaves=1, steps=2, rate=0.2, jitter=0)(score_function, photo)
    assert torch.allclose(found.image, image, atol=1e-5)
    assert torch.equal(resize_image(photo, (40, 36)), photo)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("wide", (30, 60)), ("tall", (80, 50))):
        Image.fromarray(random.integers(90, 160, (*size, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_photographs_to_dreams(cli: Cli, tmp_path: Path, photos: Path) -> None:
    command = ("+experiment=inspect", f"checkpoint={saved(tmp_path / 'net', CLASSES)}",
               "data=images", f"images={photos}", "inspect.views=[dream]", "inspect.layer=block2",
               "inspect.side=64", "inspect.dream_steps=4")  # fmt: skip
    assert cli(*command) == 0
    told = json.loads((LATEST / "inspected/dream.json").read_text())
    assert [one["image"] for one in told["images"]] == ["tall.png", "wide.png"]
    assert [one["sizes"][-1] for one in told["images"]] == [[64, 40], [32, 64]]
    assert all(score[-1] > score[0] for one in told["images"] for score in one["score"])
    files = sorted((LATEST / "inspected/dream").glob("*.*g"))
    assert [path.name for path in files] == ["000002-tall.png", "000003-wide.png"]
    assert [Image.open(path).size for path in files] == [(40, 64), (64, 32)]
    for sheet in ("dream", "dream_rise"):
        assert np.asarray(Image.open(LATEST / f"inspected/{sheet}.png")).std() > 5
    first = files[0].read_bytes()
    assert cli(*command, "outputs=again") == 0
    assert Path("again/latest/inspected/dream/000002-tall.png").read_bytes() == first
    assert cli(*command, "outputs=again", "seed=1") == 0
    assert Path("again/latest/inspected/dream/000002-tall.png").read_bytes() != first
    assert cli(*command, "inspect.channels=[2,1]") == 0
    told = json.loads((LATEST / "inspected/dream.json").read_text())
    assert [one["map"] for one in told["images"]] == [2, 1, 2, 1]


def test_a_network_of_one_size_is_told_so(
    cli: Cli,
    tmp_path: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forward = Classifier.forward

    def of_one_size(self: Classifier, images: Tensor, at: Sequence[str] = ()) -> NetworkOutput:
        assert images.shape[2:] == (24, 32), "Wrong image height!"
        return forward(self, images, at)

    monkeypatch.setattr(Classifier, "forward", of_one_size)
    of = saved(tmp_path / "net", CLASSES)
    assert cli("+experiment=inspect", f"checkpoint={of}", "data=images", f"images={photos}",
               "inspect.views=[dream]") == 2  # fmt: skip
    told = capsys.readouterr().err
    assert "small cannot read an image of" in told
    assert "Wrong image height!" in told
