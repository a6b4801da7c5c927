"""Inspect: the ascent, the receptive field and the line, each against a computation of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.engine import checkpoint
from pipeline.engine.sources import PACKAGE, SourceCache, forget_sources
from pipeline.engine.syntax import Source
from pipeline.formats.files import read_json
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.small import Small
from pipeline.plotting import grids as pictures
from pipeline.visualize import feature_maps as features
from pipeline.visualize.ascent import Ascent, ScoreFunction, blur, total_variation
from pipeline.visualize.features import colour_projection
from pipeline.visualize.linearity import measure_linearity
from pipeline.visualize.receptive_field import clip_field, compute_receptive_field
from tests.conftest import Cli

LATEST = Path("outputs/latest")
CLASSES = ("robin", "wren", "a/b")


def network(classes: tuple[str, ...] = CLASSES) -> Classifier:
    torch.manual_seed(0)
    model = Small(width=4)
    body, channels = model.body()
    head = MeanLinear(channels, len(classes))
    with torch.no_grad():
        head.linear.weight *= 50  # as sure of itself as a trained one
    made = Classifier(body, head, classes, model.last, model.below)
    return made.eval().requires_grad_(False)


def logit(of: Classifier, which: list[int]) -> ScoreFunction:
    def score_function(images: Tensor) -> tuple[Tensor, Tensor]:
        here = images.detach().requires_grad_()
        score = of(here).logits[torch.arange(len(which)), which]
        (gradient,) = torch.autograd.grad(score.sum(), here)
        return score.detach(), gradient

    return score_function


# -- the ascent ----------------------------------------------------------------------------------


def test_a_plain_step_is_the_papers_by_hand() -> None:
    """On a linear score: I + rate * g / rms(g), g = w - 2 lambda I; S_c - lambda ||I||^2."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 6, 5)).astype(np.float32)
    start = rng.normal(size=(1, 3, 6, 5)).astype(np.float32)
    w = torch.from_numpy(weights)

    def linear(images: Tensor) -> tuple[Tensor, Tensor]:
        return (images * w).sum((1, 2, 3)) + 0.5, w.expand_as(images)

    found = Ascent(steps=2, rate=0.3, penalty=0.07)(linear, torch.from_numpy(start))
    image, scores, objectives = start[0].astype(np.float64), [], []
    for left in (1.0, 0.5, 0.0):
        scores.append((weights * image).sum() + 0.5)
        objectives.append(scores[-1] - 0.07 * (image**2).sum())
        gradient = weights - 2 * 0.07 * image
        if left:
            image = image + 0.3 * left * gradient / np.sqrt((gradient**2).mean())
    assert np.allclose(found.images[0].numpy(), image, atol=1e-5)
    assert np.allclose(found.score[0].numpy(), scores, atol=1e-4)
    assert np.allclose(found.objective[0].numpy(), objectives, atol=1e-4)


@pytest.mark.parametrize("ascent", [
    Ascent(12, 0.1, 1e-3),
    Ascent(12, 0.1, 1e-4, 1e-4, jitter=3, blur=0.6),
], ids=["plain", "pretty"])  # fmt: skip
def test_the_logit_rises_and_classes_do_not_see_one_another(ascent: Ascent) -> None:
    made = network()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    # Random weights without biases: at 0 no ReLU is open.
    start = 0.5 * torch.randn(3, 3, 24, 32)
    kept = start.clone()
    together = ascent(logit(made, [0, 1, 2]), start, seed=5)
    assert (together.score[:, -1] > together.score[:, 0]).all()
    assert (together.objective[:, -1] > together.objective[:, 0]).all()
    assert torch.equal(start, kept)
    for n in range(3):
        alone = ascent(logit(made, [n]), start[n : n + 1], seed=5)
        assert torch.allclose(alone.images[0], together.images[n], atol=1e-4)
        assert torch.allclose(alone.score[0], together.score[n], atol=1e-3)
    again = ascent(logit(made, [0, 1, 2]), start, seed=5)
    assert torch.equal(again.images, together.images)
    other = ascent(logit(made, [0, 1, 2]), start, seed=6)
    assert torch.equal(other.images, together.images) == (ascent.jitter == 0)
    assert all(torch.equal(before[name], now) for name, now in made.state_dict().items())
    assert not any(parameter.grad is not None for parameter in made.parameters())


def test_variation_blur_and_bounds() -> None:
    image = torch.randn(2, 3, 9, 7)
    by_hand = ((image[:, :, 1:] - image[:, :, :-1]) ** 2).sum((1, 2, 3))
    by_hand += ((image[..., 1:] - image[..., :-1]) ** 2).sum((1, 2, 3))
    assert torch.allclose(total_variation(image), by_hand)
    assert torch.allclose(blur(torch.full((1, 3, 9, 7), 2.0), 0.8), torch.tensor(2.0))
    assert (total_variation(blur(image, 0.8)) < by_hand).all()
    bounds = torch.full((3,), -0.2), torch.full((3,), 0.3)
    found = Ascent(5, 1.0)(logit(network(), [1]), torch.randn(1, 3, 16, 16), bounds=bounds)
    assert found.images.min() == pytest.approx(-0.2)
    assert found.images.max() == pytest.approx(0.3)


# -- the receptive field -------------------------------------------------------------------------


class Branches(nn.Module):
    """Two ways of different reach, joined; strides, dilation, padding and pooling on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, (3, 5), stride=2, padding=(1, 2))
        self.near = nn.Conv2d(4, 4, 1)
        self.far = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.pool = nn.AvgPool2d(2)
        self.top = nn.MaxPool2d(3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images).relu()
        return self.top(self.pool(self.near(maps) + self.far(maps)))


def test_the_field_is_what_an_image_can_change() -> None:
    """Held against the network itself: NaN in a row or column reaches exactly what sees it."""
    torch.manual_seed(0)
    made, height, width = Branches().eval().requires_grad_(False), 40, 48
    image = torch.randn(1, 3, height, width, requires_grad=True)
    maps = made(image)
    rows = torch.randn(1, 3, height, width).repeat(height, 1, 1, 1).double()
    columns = torch.randn(1, 3, height, width).repeat(width, 1, 1, 1).double()
    for n in range(height):
        rows[n, :, n] = torch.nan
    for n in range(width):
        columns[n, :, :, n] = torch.nan
    made = made.double()
    hit_rows = made(rows)[:, 0].isnan().any(2)
    hit_columns = made(columns)[:, 0].isnan().any(1)
    for row in range(maps.shape[2]):
        for column in range(maps.shape[3]):
            field = compute_receptive_field(maps, image, row, column)
            (top, bottom), (left, right) = clip_field(field, (height, width))
            at = hit_rows[:, row].nonzero()[:, 0]
            assert (top, bottom) == (at.min(), at.max())
            at = hit_columns[:, column].nonzero()[:, 0]
            assert (left, right) == (at.min(), at.max())


def test_the_embedded_network_sees_55_pixels_and_a_gate_everything() -> None:
    fields = features.Fields.of(network(), torch.zeros(1, 3, 64, 64), "last")
    assert fields.size == (55, 55)  # as pipeline/model/small.py says
    image = torch.randn(1, 3, 20, 30, requires_grad=True)
    maps = image.relu() * image.mean((2, 3), keepdim=True)
    assert compute_receptive_field(maps, image, 3, 4) == ((0, 19), (0, 29))
    patch = features.crop_patch(np.zeros((10, 10, 3), np.uint8), (slice(-2, 3), slice(8, 12)))
    assert patch.shape == (5, 4, 3)
    assert (patch[:2] == features.OUTSIDE).all()
    assert (patch[2:, :2] == 0).all()
    assert (patch[:, 2:] == features.OUTSIDE).all()


# -- what excites a feature map ------------------------------------------------------------------


def test_the_strongest_are_those_of_all_at_once() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 40)).astype(np.float32)
    best = None
    for start in range(0, 40, 8):
        at = np.arange(start, start + 8)
        one = features.Strongest(values[:, at], np.tile(at, (4, 1)), np.tile(at * 2, (4, 1)))
        best = features.Strongest.join([one] if best is None else [best, one])
    assert best is not None
    for n in range(4):
        wanted = np.argsort(-values[n])[:9]
        assert best.image[n].tolist() == wanted.tolist()
        assert best.place[n].tolist() == (2 * wanted).tolist()
    assert best.select_maps(2) == np.argsort(-best.value.mean(1))[:2].tolist()


def test_a_projection_is_of_that_activation_alone_and_within_its_field() -> None:
    made, images = network(), torch.randn(2, 3, 32, 32)
    found = features.find_peaks(made, images, [7, 9], "block2")
    channel = int(found.value.mean(1).argmax())
    assert found.image[channel].tolist() == [7, 9]
    places = torch.from_numpy(found.place[channel])
    plain = features.project_back(made, images, "block2", channel, places, lambda above, own: own)
    here = images.clone().requires_grad_()
    maps = made(here, at=("input", "block2"))
    picked = maps.activations["block2"][:, channel].flatten(1)[torch.arange(2), places]
    assert torch.allclose(picked.detach(), torch.from_numpy(found.value[channel]), atol=1e-5)
    (gradient,) = torch.autograd.grad(picked.sum(), maps.activations["input"])
    wanted = gradient * picked.detach()[:, None, None, None]
    assert torch.allclose(plain, wanted, atol=1e-5)
    fields = features.Fields.of(made, torch.zeros(1, 3, 32, 32), "block2")
    for rule in features.RULES.values():
        back = features.project_back(made, images, "block2", channel, places, rule)
        for one, place in zip(back, places.tolist(), strict=True):
            rows, columns = fields.at(place)
            outside = one.clone()
            outside[:, max(rows.start, 0) : rows.stop, max(columns.start, 0) : columns.stop] = 0
            assert one.any()
            assert not outside.any()


def test_a_projection_is_as_strong_as_within_its_field_alone() -> None:
    """A small field in a large image: by a percentile of all pixels it would be blown out."""
    random = np.random.default_rng(0)
    back = np.zeros((60, 50, 3), np.float32)
    back[2:9, 40:] = random.normal(size=(7, 10, 3))
    seen = (slice(-1, 9), slice(40, 53))
    shown = colour_projection(back, seen)
    inside = shown[:9, 40:].astype(int)
    assert (shown[9:] == 0).all(), "what lies beside the field is cut away"
    assert np.abs(shown[:2, 40:].astype(int) - 128).max() <= 1
    assert 0.01 < ((inside == 0) | (inside == 255)).mean() < 0.05
    assert inside.std() > 30


# -- the first-order view ------------------------------------------------------------------------


def test_the_line_is_exact_on_a_linear_network_and_not_on_another() -> None:
    torch.manual_seed(0)
    weights, images = torch.randn(3, 8, 8), torch.randn(2, 3, 8, 8)
    linear = measure_linearity(
        lambda some: (some * weights).sum((1, 2, 3)) + 2, images, [0.1, 1.0, 5.0], 3, [0, 1]
    )
    assert torch.allclose(linear.score, linear.line, rtol=1e-4, atol=1e-3)
    assert linear.error_along.max() < 1e-4
    assert linear.error_random.max() < 1e-3
    assert (linear.score.diff(dim=1) > 0).all()
    square = measure_linearity(
        lambda some: some.square().sum((1, 2, 3)), images, [0.01, 1.0], 3, [0, 1]
    )
    # (I + r u)^2: the line leaves r^2 N out, so the error grows with the distance.
    assert (square.error_along[:, 1] > 10 * square.error_along[:, 0]).all()
    alone = measure_linearity(
        lambda some: some.square().sum((1, 2, 3)), images[1:], [0.01, 1.0], 3, [1]
    )
    assert torch.allclose(alone.error_random[0], square.error_random[1], rtol=1e-3)


# -- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-0.3, 120.8), (-7.0, -2.0), (0.0, 0.03)])
def test_an_axis_holds_all_in_few_steps(ends: tuple[float, float]) -> None:
    low, high, step = pictures.choose_axis(*ends)
    assert low <= ends[0]
    assert high >= ends[1]
    assert 2 <= (high - low) / step <= 8


def test_a_picture_is_the_mean_where_the_image_is_zero() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    faint = np.zeros((10, 10, 3), np.float32)
    faint[:5] = 1e-3
    strong = 1e3 * faint
    for free in (False, True):
        made = pictures.enhance_contrast(0 * faint, mean, std, free)
        assert made[0, 0].tolist() == [128, 102, 76]
        assert np.ptp(pictures.enhance_contrast(faint, mean, std, free)) > 80
    shown = pictures.enhance_contrast(strong * 4, mean, std, True)
    assert shown.max() < 255
    assert pictures.enhance_contrast(strong * 4, mean, std, False).max() == 255


# -- whole runs ----------------------------------------------------------------------------------

SHEETS = ("classes", "classes_rise", "channels", "channels_rise", "features", "first_order",
          "filters", "top5")  # fmt: skip
FEW = ("inspect.steps=3", "inspect.images=12", "inspect.maps=2", "inspect.few=2",
       "inspect.directions=1")  # fmt: skip


def saved(folder: Path, classes: tuple[str, ...]) -> Path:
    model = Small(width=4)
    card = {"size": [24, 32], "mean": list(model.mean), "std": list(model.std), "recipe": "scratch"}
    node = {"_target_": "pipeline.model.small.Small", "width": 4}
    checkpoint.save(folder, network(classes), node, card)
    return folder


def test_from_a_checkpoint_to_the_sheets(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = saved(tmp_path / "net", ("blue", "red"))
    command = ("+experiment=inspect", f"checkpoint={of}", "data=folder",
               f"data.root={folder_of_images}", *FEW, "inspect.noise=0.5",
               "inspect.style=pretty")  # fmt: skip
    assert cli(*command) == 0
    out = capsys.readouterr().out
    found = LATEST / "inspected"
    for name in SHEETS:
        assert f"{name}.png" in out
        assert np.asarray(Image.open(found / f"{name}.png")).std() > 5
    told = json.loads((found / "classes.json").read_text())
    assert told["ascent"]["steps"] == 3
    assert sorted(path.name for path in (found / "classes").glob("[!.]*")) == [
        "blue.png",
        "red.png",
    ]
    for one in told["images"]:
        assert len(one["score"]) == 4
        assert one["objective"][-1] > one["objective"][0]
    maps = json.loads((found / "features.json").read_text())
    assert [len(one["strongest"]) for one in maps["maps"]] == [8, 8]
    assert maps["receptive_field"] == [55, 55]
    numbers = json.loads((found / "top5.json").read_text())["images"][0]["top"]
    shares = [one["probability"] for one in numbers]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert cli(*command) == 0
    assert "inspect    kept" in capsys.readouterr().out


def test_a_checkpoint_alone_needs_no_data(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_of = saved(tmp_path / "net", CLASSES)
    few = ("+experiment=inspect", f"checkpoint={checkpoint_of}", "inspect.views=[classes,filters]",
           *FEW)  # fmt: skip
    assert cli(*few, 'inspect.classes=[wren,"a/b"]') == 0
    told = json.loads((LATEST / "inspected/classes.json").read_text())["images"]
    assert [one["name"] for one in told] == ["wren", "a/b"]
    assert cli(*few, "inspect.classes=[wrem]") == 2
    assert "did you mean 'wren'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("inspect.views=[clases]", "did you mean 'classes'"),
        ("inspect.views=[]", "name at least one"),
        ("inspect.style=nice", "plain"),
        ("inspect.jitter=3", "inspect.style=pretty has jitter"),
        ("inspect.channels=[-1]", "counted from 0"),
        ("inspect.steps=0", "expected a number from 1"),
    ],
)
def test_what_cannot_be_is_refused(
    wrong: str, told: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("+experiment=inspect", wrong) == 2
    assert told in capsys.readouterr().err


# -- a file a view -------------------------------------------------------------------------------


def test_a_changed_view_is_noticed_and_another_changes_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    request.addfinalizer(forget_sources)
    of = saved(tmp_path / "net", CLASSES)
    command = ("+experiment=inspect", f"checkpoint={of}", "inspect.views=[filters]")
    assert cli(*command) == 0
    made = read_json(LATEST / "stages/inspect/cache_key.json")
    assert "pipeline.visualize.filters" in made["source"]
    assert "pipeline.visualize.classes" not in made["source"]
    real = SourceCache.read
    for changed, told in (("classes", "kept"), ("filters", "made"), ("__init__", "made")):
        file = PACKAGE / "visualize" / f"{changed}.py"

        def edited(cache: SourceCache, path: Path, file: Path = file) -> Source:
            source = real(cache, path)
            return replace(source, digest=f"{source.digest}-edited") if path == file else source

        monkeypatch.setattr(SourceCache, "read", edited)
        forget_sources()
        capsys.readouterr()
        assert cli(*command) == 0
        assert f"inspect    {told}" in capsys.readouterr().out
