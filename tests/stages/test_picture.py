"""Picture: colours that mean what they say, sheets, files by name, on a tiny random network."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.engine import checkpoint
from pipeline.formats.files import unique_file_names
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.small import Small
from pipeline.ops.sampling import spread_evenly
from pipeline.plotting import colours
from pipeline.plotting.fonts import text_width
from pipeline.plotting.sheet import MARGIN, ContactSheet, Row, shorten_to_width
from pipeline.results.shards import list_shards
from tests.conftest import Cli

CLASSES = ("robin", "a/b", "a b", "..")
METHODS = ("gradient", "integrated_gradients", "cam")


# -- colours -------------------------------------------------------------------------------------


def lightness(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[..., 0]


def test_diverging_is_white_at_zero_and_as_dark_on_both_sides() -> None:
    rgb = colours.apply_diverging(np.linspace(-1, 1, 255, dtype=np.float32)[None])
    assert rgb[0, 127].tolist() == [255, 255, 255]
    assert rgb[0, 0].tolist() == list(colours.BLUE)
    assert rgb[0, -1].tolist() == list(colours.RED)
    light = lightness(rgb)[0]
    assert (np.diff(light[:128]) > 0).all()
    assert (np.diff(light[127:]) < 0).all()
    assert np.abs(light - light[::-1]).max() < 8


def test_a_signed_map_over_its_image_keeps_both_to_be_seen() -> None:
    image = np.full((1, 3, 3), (200, 100, 60), np.uint8)
    over = colours.overlay_signed_map(image, np.array([[-1, 0, 1]], np.float32)).astype(int)
    against, nothing, speaks_for = over[0]
    assert against[2] > against[0] + 50, "blue"
    assert speaks_for[0] > speaks_for[2] + 50, "red"
    assert np.ptp(nothing) == 0, "grey, whatever the image's colours"
    assert abs(nothing[0] - 120) <= 1, "the image is seen where the map says nothing"


def test_at_most_so_many_images_evenly_chosen() -> None:
    assert spread_evenly(5, None) == [0, 1, 2, 3, 4]
    assert spread_evenly(5, 9) == [0, 1, 2, 3, 4]
    assert spread_evenly(10, 4) == [0, 2, 5, 7]
    assert spread_evenly(0, 4) == []


def test_sequential_grows_lighter_all_the_way() -> None:
    light = lightness(colours.apply_inferno(np.linspace(0, 1, 64, dtype=np.float32)[None]))[0]
    assert (np.diff(light) > 0).all()
    assert light[0] < 2
    assert light[-1] > 90


def test_scaling_starts_at_zero_and_ends_at_the_percentile() -> None:
    values = np.arange(-100, 101, dtype=np.float32).reshape(3, 67)
    before = values.copy()
    unit = colours.scale_positive(values, 99)
    assert (unit[values <= 0] == 0).all()
    assert (unit[values >= np.percentile(values, 99)] == 1).all()
    assert unit[values == 49] == pytest.approx(0.5)
    signed = colours.scale_signed(values, 100)
    assert np.allclose(signed, values / 100)
    assert (values == before).all(), "what is stored is not touched"


def test_values_that_are_hard_to_scale() -> None:
    above = np.array([[0.9, 1.0]], np.float32)  # none is near 0: from the lowest one on
    assert np.allclose(colours.scale_positive(above, 100), [[0, 1]])
    few = np.zeros((100, 100), np.float32)
    few[3, 4] = 2  # fewer than the percentile leaves out
    assert colours.scale_positive(few, 99)[3, 4] == 1
    assert colours.scale_signed(-few, 99)[3, 4] == -1
    for constant in (0, 3, -3):
        unit = colours.scale_positive(np.full((4, 5), constant, np.float32), 99)
        assert (unit == 0).all()
    assert (colours.scale_signed(np.zeros((2, 2), np.float32), 99) == 0).all()
    odd = colours.resize_to_frame(np.array([[np.nan, np.inf], [-np.inf, 1]], np.float32), (2, 2))
    assert odd.tolist() == [[0, 0], [0, 1]]


def test_a_frame_is_height_and_width_and_shrinking_loses_no_line() -> None:
    assert colours.resize_to_frame(np.ones((7, 5), np.float32), (30, 20)).shape == (30, 20)
    assert colours.resize_to_frame(np.ones((7, 5, 3), np.float32), (30, 20)).shape == (30, 20, 3)
    thin = np.zeros((64, 64), np.float32)
    thin[:, 33] = 1
    assert colours.resize_to_frame(thin, (16, 16)).sum() == pytest.approx(thin.sum() / 16)


def test_colour_is_grey_where_nothing_changes() -> None:
    channels = np.zeros((2, 2, 3), np.float32)
    channels[0, 0] = (1, -1, 0)
    rgb = colours.colour_channels(channels, 100)
    assert rgb[0, 0].tolist() == [255, 0, 128]
    assert rgb[1, 1].tolist() == [128, 128, 128]
    assert colours.colour_channels(channels**2, 100)[1, 1].tolist() == [0, 0, 0]


def test_over_shows_the_image_where_the_map_is_low() -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    over = colours.overlay_map(image, np.zeros((8, 8), np.float32))
    assert np.abs(over.astype(int) - 200).max() < 30
    high = colours.overlay_map(image, np.ones((8, 8), np.float32))
    assert np.abs(high.astype(int) - colours.apply_inferno(np.ones((8, 8), np.float32))).max() < 70


# -- sheets and names ----------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "most"), [(1, 8), (4, 8), (9, 4)])
@pytest.mark.parametrize("cell", [(40, 90), (90, 20)])
def test_every_panel_is_on_the_sheet(columns: int, most: int, cell: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    panels = [rng.integers(0, 255, (*cell, 3)).astype(np.uint8) for _ in range(columns)]
    names = [f"a method with a very long name, number {n}" for n in range(columns)]
    row = Row("class " * 40, "note " * 40, panels)
    made = ContactSheet(
        title="title " * 90, note="note", columns=names, rows=[row, row], width=cell[1],
        legend=(), max_columns=most,
    ).draw()  # fmt: skip
    for panel in panels:
        corner = panel[0, :20].tobytes()
        found = sum(line.tobytes().count(corner) for line in made)
        assert found == 2, "once in each row"
    edge = MARGIN - 1
    assert (made[:, :edge] == 255).all()
    assert (made[:, -edge:] == 255).all()


def test_a_long_name_keeps_both_its_ends() -> None:
    long = "IMG_2031_of_a_very_long_series_0001.jpg"
    short = shorten_to_width(long, 15, 120)
    assert text_width(short, 15) <= 120
    assert short.startswith("IMG")
    assert short.endswith("jpg")
    assert shorten_to_width("short", 15, 120) == "short"


def test_folders_of_classes_are_safe_and_differ() -> None:
    names = ["tabby", "a/b", "a b", "Crane", "crane", "..", "", "St. Bernard", "é" * 200]
    made = unique_file_names(names)
    assert made[:8] == ["tabby", "a_b-1", "a_b-2", "Crane-3", "crane-4", "5", "6", "St._Bernard"]
    assert len({name.lower() for name in made}) == len(names)
    assert all(len(name.encode()) <= 90 and "/" not in name for name in made)


# -- whole runs ----------------------------------------------------------------------------------


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A checkpoint of a random network."""
    torch.manual_seed(0)
    model = Small()
    body, channels = model.body()
    classifier = Classifier(body, MeanLinear(channels, 4), CLASSES, model.last, model.below)
    card = {"size": [48, 64], "mean": list(model.mean), "std": list(model.std), "recipe": "scratch"}
    checkpoint.save(tmp_path / "net", classifier, {"_target_": "pipeline.model.small.Small"}, card)
    return tmp_path / "net"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name, size in (("a.b.png", (60, 90)), ("c d.png", (120, 40)), ("tiny.png", (1, 1))):
        image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / name)
    (tmp_path / "photos/bad.jpg").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def asked(network: Path, photos: Path) -> list[str]:
    return ["+experiment=explain", f"checkpoint={network}", f"images={photos}", "runtime.shard=2",
            f"explain.methods=[{','.join(METHODS)}]", "explain.target=[predicted,'a/b','a b']",
            "picture.side=96", "picture.panel=48"]  # fmt: skip


def files(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*.png")}


def test_every_kind_of_picture_of_every_image(
    cli: Cli, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*asked) == 0
    told = capsys.readouterr().out
    folder = tmp_path / "outputs/latest/explained"
    assert "note: explain: 1 of 4 images could not be read and have no map" in told
    assert "bad.jpg: not an image" in told
    assert "picture: 1" not in told, "an image without a map is noted once"
    assert told.count("sheet.png") == 3
    assert "overview.png" in told
    images = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert images == ["000001-a.b", "000003-c_d", "000004-tiny"]
    one = files(folder / "000001-a.b/a_b-1")
    for method in METHODS:
        assert {f"{method}_{kind}.png" for kind in ("map", "over", "grey")} <= set(one)
    assert "gradient_colour.png" in one
    assert "gradient_signed.png" not in one, "its magnitudes have no sign"
    assert "integrated_gradients_signed.png" in one
    assert "cam_colour.png" not in one, "CAM has no gradient at the image"
    sizes = {Image.open(folder / "000001-a.b/a_b-1" / name).size for name in one}
    assert sizes == {(96, 64)}
    assert Image.open(folder / "000003-c_d/a_b-2/cam_over.png").size == (32, 96)
    assert Image.open(folder / "000004-tiny/a_b-2/cam_over.png").size == (96, 96)


def test_pictures_of_some_images_with_the_sign_over_them(
    cli: Cli, asked: list[str], tmp_path: Path
) -> None:
    assert cli(*asked, "picture.images=2", "picture.kinds=[signed_over]") == 0
    folder = tmp_path / "outputs/latest/explained"
    images = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert images == ["000001-a.b", "000003-c_d"]
    one = files(folder / "000001-a.b/a_b-1")
    assert "integrated_gradients_signed_over.png" in one
    assert "gradient_signed_over.png" not in one, "its magnitudes have no sign"


def test_a_picture_shows_the_stored_map_upright(cli: Cli, asked: list[str], tmp_path: Path) -> None:
    assert cli(*asked, "picture.clip=100", "explain.target='a/b'") == 0
    latest = tmp_path / "outputs/latest"
    (shard, *_) = list_shards(latest / "stages/explain")
    from pipeline.results.maps import iterate_channels, iterate_maps

    position, found = next(iterate_maps(shard, list("abcd")))
    grey = np.asarray(Image.open(latest / "explained/000001-a.b/a_b-1/gradient_grey.png"))
    assert position == 0
    wanted = cv2.resize(found.raw(), (96, 64))
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    assert np.abs(grey[..., 0] / 255 - wanted).max() < 0.01
    place, _, channels = next(iterate_channels(shard))
    assert place == 0
    assert np.allclose(np.abs(channels).max(0) / np.abs(channels).max(),
                       found.values.astype(np.float32), atol=2e-3)  # fmt: skip


def test_a_killed_run_draws_only_what_is_missing(
    cli: Cli, asked: list[str], tmp_path: Path
) -> None:
    assert cli(*asked) == 0
    folder = (tmp_path / "outputs/latest/stages/picture").resolve()
    before = files(folder)
    gone = ["explained/000003-c_d/sheet.png", "explained/000001-a.b/a_b-1/cam_map.png"]
    contents = [(folder / name).read_bytes() for name in gone]
    for name in gone:
        os.unlink(folder / name)
    os.unlink(folder / "DONE")
    assert cli(*asked) == 0
    after = files(folder)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == set(gone)
    assert [(folder / name).read_bytes() for name in gone] == contents


def test_what_changes_a_picture_changes_its_name_and_no_map(
    cli: Cli, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*asked) == 0
    capsys.readouterr()
    assert cli(*asked, "picture.clip=95", "picture.kinds=[]", "picture.shown=colour") == 0
    told = capsys.readouterr().out
    assert told.count(" kept ") == 3
    assert " made " in told
    found = files(tmp_path / "outputs/latest/explained")
    assert {Path(name).name for name in found} == {"sheet.png", "overview.png"}
    assert cli(*asked, "runtime.workers=0", "runtime.shard=5") == 0
    assert " made " not in capsys.readouterr().out


def test_one_image_needs_no_overview(
    cli: Cli, asked: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*asked, f"images={photos}/a.b.png", "explain.target=top5") == 0
    told = capsys.readouterr().out
    assert told.count("explain.target=top5: the network has 4 classes, all of which are") == 1
    folder = tmp_path / "outputs/latest/explained"
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["000001-a.b"]
    assert len([path for path in (folder / "000001-a.b").iterdir() if path.is_dir()]) == 4


def test_a_pretrained_network_without_training(
    cli: Cli, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All classes of the network, by its own head; the methods of the experiment."""
    from torchvision.models import squeezenet1_0

    torch.manual_seed(0)
    torch.save(squeezenet1_0(weights=None).state_dict(), tmp_path / "w.pth")
    assert cli("+experiment=explain", f"images={photos}/a.b.png", "model=squeezenet1_0",
               f"model.weights={tmp_path}/w.pth", "data.size=48", "picture.side=64",
               'explain.target=[predicted,"tabby",top2,Cardigan]') == 0  # fmt: skip
    folder = tmp_path / "outputs/latest/explained/000001-a.b"
    made = {path.name for path in folder.glob("[!.]*")}
    # The dog, not the garment: some systems do not tell one from the other.
    assert {"tabby", "Cardigan-264", "sheet.png"} <= made
    assert len(list((folder / "tabby").glob("*_map.png"))) == 6
    assert "squeezenet1_0" not in capsys.readouterr().err


def test_any_labelled_data_set(cli: Cli, folder_of_images: Path, tmp_path: Path) -> None:
    assert cli("+experiment=explain", "data=folder", f"data.root={folder_of_images}", "model=small",
               "train.head=auto", "data.size=32", "train.epochs=1", "picture.side=48",
               "explain.methods=[cam]", "explain.target=[true,predicted]") == 0  # fmt: skip
    folder = tmp_path / "outputs/latest/explained"
    assert len(list(folder.glob("*/sheet.png"))) == 8
    assert (folder / "000001-0/blue/cam_over.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "images is missing: give images=..., as in images=photos/"),
        (["images=photos", "model=small"], "model=small has no weights.*checkpoint=outputs/latest"),
        (["images=photos", "model.weights=null"], "has no weights; choose a pretrained network"),
        (["images=photos", "model.weights=none.pth"], "no such file; choices: imagenet"),
        (["images=nowhere"], "no image in 'nowhere'"),
        (["images=photos", "picture.kinds=[mpa]"], "no such picture 'mpa'; did you mean 'map'"),
        (["images=photos", "picture.shown=mpa"], "picture.shown=mpa: no such choice"),
        (["images=photos", "explain.target=true"], "the images have no labels"),
    ],
)  # fmt: skip
def test_refusals(
    arguments: list[str], told: str, cli: Cli, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert cli("+experiment=explain", *arguments) == 2
    assert re.search(told, capsys.readouterr().err)
