"""Fixed, auto and validation thresholds, side by side, and boxes that are cut at each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline.__main__ import main
from pipeline.data.shapes import Shapes
from pipeline.errors import UserError
from pipeline.formats.files import read_json
from pipeline.results.boxes import iterate_boxes
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.results.thresholds import fold_of_image, load_thresholds
from pipeline.segmenter.threshold import Threshold
from tests.conftest import TINY, Cli
from tests.stages.test_calibrate import annotated

RUN = ("+experiment=cam", *TINY, "data.images=240", "train.epochs=2")
DATA = Shapes(images=240, val_images=24)
KINDS = ("fixed", "auto", "validation", "oracle")


def metrics(latest: Path) -> dict[tuple[str, float | None, str | None], dict[str, Any]]:
    """By name, IoU and kind of threshold; each there once."""
    found = json.loads((latest / "metrics.json").read_text())
    every = [((r["name"], r["iou"], (r["threshold"] or {}).get("kind")), r)
             for r in found if r["class"] is None]  # fmt: skip
    assert len(dict(every)) == len(every)
    return dict(every)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same maps, cut at each kind of threshold."""
    path = tmp_path_factory.mktemp("runs")
    found = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(path)
        for kind, value in (("fixed", "0.2"), ("auto", "auto"), ("validation", "validation")):
            patched.setattr(sys, "argv", ["pipeline", *RUN, f"segmenter.threshold={value}"])
            main()
            found[kind] = (path / "outputs/latest").resolve()
    return found


@pytest.mark.parametrize("used", ["fixed", "auto", "validation"])
def test_every_run_tells_all_kinds(runs: dict[str, Path], used: str) -> None:
    found, fixed = metrics(runs[used]), metrics(runs["fixed"])
    for kind in KINDS:
        for iou in (0.3, 0.5, 0.7):
            assert found["gt_known_loc", iou, kind]["n"] == 24
        for name in ("gt_known_loc", "top1_loc"):
            assert found[name, 0.5, kind]["value"] == fixed[name, 0.5, kind]["value"]
    assert found["gt_known_loc", 0.5, "fixed"]["threshold"]["value"] == 0.2
    assert found["gt_known_loc", 0.5, "validation"]["threshold"]["source"] == "held_back"
    assert {place[2] for place in found if place[0] == "mean_iou"} == {used}
    table = (runs[used] / "stages/evaluate/table.txt").read_text()
    rows = [line.split("  ")[0] for line in table.splitlines() if "GT-known" in line]
    others = [kind for kind in KINDS if kind != used]
    assert [row.split("(")[1].split()[0].rstrip(")") for row in rows] == [used, *others]


@pytest.mark.parametrize("used", ["fixed", "auto", "validation"])
def test_cards_and_classes_tell_the_used_one_first(runs: dict[str, Path], used: str) -> None:
    table = read_json(runs[used] / "stages/evaluate/table.json")
    cards = [card["at"] for card in table["cards"] if card["title"] == "GT-known Loc"]
    others = [kind for kind in KINDS[1:] if kind != used]
    assert [card.split(", ")[1].split()[0] for card in cards] == [used, *others]
    assert table["classes"]["head"][2:5] == ["GT-known @0.5", *others][:3]


def maps_of(latest: Path) -> list[Any]:
    ids = DATA.ids("val")
    return [one for shard in list_shards(latest / "stages/explain")
            for _, one in iterate_maps(shard, ids)]  # fmt: skip


@pytest.mark.parametrize("used", ["fixed", "auto", "validation"])
def test_boxes_are_cut_there(runs: dict[str, Path], used: str) -> None:
    threshold: Any = {"fixed": 0.2, "auto": "auto"}.get(used)
    if used == "validation":
        picked = load_thresholds(runs[used] / "stages/calibrate")
        (threshold,) = picked["thresholds"]["0.5"]
        assert picked["elsewhere"]["0.5"] == threshold
        told = metrics(runs[used])["gt_known_loc", 0.3, "validation"]["threshold"]
        assert told["value"] == threshold, "of IoU 0.5, at which the boxes are cut"
    cut = Threshold(threshold)
    found = list(iterate_boxes(runs[used] / "stages/localize", DATA.ids("val")))
    for (_, boxes), saliency in zip(found, maps_of(runs[used]), strict=True):
        np.testing.assert_array_equal(boxes.boxes, cut(saliency).boxes)


def test_calibration_is_part_of_what_a_validation_cut_is_made_of(runs: dict[str, Path]) -> None:
    made = {u: read_json(run / "stages/localize/cache_key.json") for u, run in runs.items()}
    assert {used for used, one in made.items() if "calibrate" in one} == {"validation"}


def test_predictions_of_a_run_are_cut_at_its_validation_threshold(runs: dict[str, Path]) -> None:
    predict = pipeline.load(runs["validation"], device="cpu")
    picked = load_thresholds(runs["validation"] / "stages/calibrate")
    assert predict.segmenter == Threshold(picked["elsewhere"]["0.5"])
    assert pipeline.load(runs["auto"], device="cpu").segmenter == Threshold("auto")
    (runs["validation"] / "stages/calibrate").rename(runs["validation"] / "stages/kept")
    try:
        with pytest.raises(UserError, match="no stage calibrate, which chooses it"):
            pipeline.load(runs["validation"], device="cpu")
    finally:
        (runs["validation"] / "stages/kept").rename(runs["validation"] / "stages/calibrate")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = DATA.example("val", 0).image
    Image.fromarray(image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_checkpoint_brings_the_threshold_that_its_run_chose(
    runs: dict[str, Path], photo: Path, cli: Cli, tmp_path: Path
) -> None:
    picked = load_thresholds(runs["fixed"] / "stages/calibrate")["elsewhere"]["0.5"]
    predict = ("+experiment=predict", f"images={photo}", "segmenter.threshold=validation")
    assert cli(*predict, f"checkpoint={runs['fixed']}") == 0
    latest = (tmp_path / "outputs/latest").resolve()
    (one,) = iterate_boxes(latest / "stages/localize", ["photo"])
    ((_, saliency),) = iterate_maps(list_shards(latest / "stages/explain")[0], ["photo"])
    np.testing.assert_array_equal(one[1].boxes, Threshold(picked)(saliency).boxes)
    # That run is a checkpoint, too; and its boxes were cut at what was chosen, not at that name.
    assert cli(*predict, "checkpoint=outputs/latest") == 0
    assert (tmp_path / "outputs/latest").resolve() != latest
    assert len(list((tmp_path / "outputs/localize").iterdir())) == 1
    found = pipeline.load("outputs/latest", device="cpu")
    assert found.segmenter == Threshold(picked)


def test_what_a_checkpoint_brings_is_named_and_scores(
    runs: dict[str, Path], cli: Cli, tmp_path: Path
) -> None:
    assert cli(*RUN, f"checkpoint={runs['fixed']}", "segmenter.threshold=validation",
               "stages=[explain,localize,evaluate]", "data.seed=3") == 0  # fmt: skip
    told = metrics(tmp_path / "outputs/latest")["gt_known_loc", 0.5, "validation"]["threshold"]
    picked = load_thresholds(runs["fixed"] / "stages/calibrate")["elsewhere"]["0.5"]
    assert told == {"kind": "validation", "value": picked, "source": "checkpoint"}


@pytest.mark.parametrize(
    ("where", "more", "told"),
    [
        ("stages/train", (), "no stage calibrate, which chooses it"),
        (".", ("saliency=cam_positive",), "give the saliency="),
        (".", ("explain.flips=true",), "explain.flips"),
        (".", ("segmenter=grabcut",), "give the segmenter="),
    ],
)
def test_a_checkpoint_without_such_a_threshold_is_refused(
    runs: dict[str, Path], photo: Path, cli: Cli, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], where: str, more: tuple[str, ...], told: str,
) -> None:  # fmt: skip
    capsys.readouterr()
    assert cli("+experiment=predict", f"images={photo}", f"checkpoint={runs['fixed'] / where}",
               "segmenter.threshold=validation", *more) == 2  # fmt: skip
    error = capsys.readouterr().err
    assert told in error
    assert "segmenter.threshold=auto" in error
    assert not (tmp_path / "outputs").exists()


def test_each_half_is_cut_at_the_others_threshold(
    cli: Cli, folder_of_images: Path, tmp_path: Path
) -> None:
    for name in ("red", "blue"):
        for n in range(8):
            source = folder_of_images / f"train/{name}/{n}.png"
            source.rename(folder_of_images / f"val/{name}/more{n}.png")
    annotated(folder_of_images, "val", folder_of_images / "instances_val.json")
    assert cli("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=64",
               "train.epochs=1", "train.batch=4",
               "segmenter.threshold=validation") == 0  # fmt: skip
    latest = (tmp_path / "outputs/latest").resolve()
    picked = load_thresholds(latest / "stages/calibrate")
    assert picked["source"] == "two_fold"
    told = metrics(latest)["gt_known_loc", 0.5, "validation"]["threshold"]
    assert told == {"kind": "validation", "value": picked["thresholds"]["0.5"],
                    "source": "two_fold"}  # fmt: skip
    from pipeline.data.folder import Folder

    ids = Folder(str(folder_of_images), size=64).ids("val")
    maps = [one for shard in list_shards(latest / "stages/explain")
            for _, one in iterate_maps(shard, ids)]  # fmt: skip
    found = list(iterate_boxes(latest / "stages/localize", ids))
    assert len(found) == 24
    for (_, boxes), saliency in zip(found, maps, strict=True):
        threshold = picked["thresholds"]["0.5"][fold_of_image(saliency.id)]
        np.testing.assert_array_equal(boxes.boxes, Threshold(threshold)(saliency).boxes)
    # The page has no line for two thresholds at once, and opens.
    assert read_json(latest / "stages/evaluate/curve.json")["fixed"] is None
    assert (latest / "report/index.html").is_file()


def test_without_boxes_or_the_stage_it_is_refused_at_start(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}",
                 "segmenter.threshold=validation")  # fmt: skip
    assert cli(*arguments) == 2
    told = capsys.readouterr().err
    assert "0 images have boxes" in told
    assert "calibrate.boxes=FILE" in told
    assert "segmenter.threshold=auto" in told
    assert cli(*arguments, "stages=[train,explain,localize]") == 2
    told = capsys.readouterr().err
    assert "stage calibrate" in told
    assert "segmenter.threshold=auto" in told
    assert not (tmp_path / "outputs").exists()
