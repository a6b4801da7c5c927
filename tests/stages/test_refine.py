"""Refine: a head that learns from refined maps of the training images, and from nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.shapes import Shapes
from pipeline.formats.arrays import map_arrays, read_arrays
from pipeline.stages.refine import pseudo_labels
from tests.conftest import TINY, Cli

STAGES = "stages=[train,refine,explain]"
FAST = (*TINY, "saliency@refine.teacher=cam", "refine.steps=12", "refine.batch=8")
BEST = ("+experiment=best", *FAST, STAGES)


def result(root: Path, stage: str) -> Path:
    (folder,) = (root / "outputs" / stage).iterdir()
    return folder


def test_refine_to_boxes_without_a_true_one(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the pseudo-labels, the head nor the maps ask for ground truth."""

    def never(*_: object) -> None:
        raise AssertionError("ground truth was read")

    for name in ("truth", "drawn"):
        monkeypatch.setattr(Shapes, name, never, raising=False)
    assert cli(*BEST) == 0
    card = json.loads((result(tmp_path, "refine") / "card.json").read_text())
    assert list(card["branches"]) == ["foreground"]
    # What images with several labels add is not there, so that keys are what they were.
    assert "answers" not in card
    assert "classes" not in card["branches"]["foreground"]
    for stage, name in (("train", "label_sets"), ("explain", "min_probability")):
        assert name not in json.loads((result(tmp_path, stage) / "cache_key.json").read_text())
    assert card["refine"]["teacher"]["_target_"].endswith("CAM")
    assert len(card["refine"]["losses"]) == 10
    arrays, _ = read_arrays(next(result(tmp_path, "explain").glob("shard-*")))
    assert arrays["row_map"].min() >= 0
    assert arrays["row_map"].max() <= 1
    # The run is a checkpoint that knows the way; the classifier is what it was.
    assert cli("+experiment=cam", "checkpoint=outputs/latest", "stages=[explain]",
               "saliency=foreground", "data.images=96", "data.val_images=24") == 0  # fmt: skip


@pytest.mark.usefixtures("shared_results")
def test_the_report_says_how_the_localizer_was_taught(cli: Cli, tmp_path: Path) -> None:
    assert cli("+experiment=best", *FAST) == 0
    page = (tmp_path / "outputs" / "latest" / "report" / "index.html").read_text()
    assert "localizer taught by" in page


@pytest.mark.usefixtures("shared_results")
def test_an_image_where_colours_and_map_do_not_agree_teaches_nothing(
    cli: Cli, tmp_path: Path
) -> None:
    assert cli(*BEST) == 0
    card = json.loads((result(tmp_path, "refine") / "card.json").read_text())
    arrays = [map_arrays(p) for p in result(tmp_path, "pseudo_labels").glob("shard-*")]
    sure = np.concatenate([shard["sure"] for shard in arrays])
    assert card["refine"]["sure"] == sure.sum()
    assert len(sure) == card["refine"]["images"]
    labels = pseudo_labels.PseudoLabels.read([result(tmp_path, "pseudo_labels")], 1)
    assert len(labels) == sure.sum()


@pytest.mark.usefixtures("shared_results")
def test_a_killed_run_goes_on_and_other_settings_use_the_pseudo_labels_again(
    cli: Cli, tmp_path: Path
) -> None:
    assert cli(*BEST) == 0
    before = (result(tmp_path, "refine") / "weights.safetensors").read_bytes()
    folder = result(tmp_path, "pseudo_labels")
    kept = sorted(folder.glob("shard-*"))
    times = {path: path.stat().st_mtime_ns for path in kept[1:]}
    kept[0].unlink()
    (folder / "DONE").unlink()
    (result(tmp_path, "refine") / "DONE").unlink()
    assert cli(*BEST) == 0
    assert (result(tmp_path, "refine") / "weights.safetensors").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in kept[1:]} == times
    assert cli(*BEST, "refine.width=16") == 0
    assert len(list((tmp_path / "outputs" / "refine").iterdir())) == 2
    assert result(tmp_path, "pseudo_labels") == folder


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("segmenter@refine.cut=threshold", "a better map"),
        ("saliency@refine.teacher=camm", "no such choice; did you mean 'cam'"),
        ("refine.teacher.nothing=3", "has no 'nothing'"),
        ("refine.steps=0", "expected a number"),
        ("refine.map_share=2", "expected a number"),
    ],
)
def test_what_cannot_be_is_refused_at_start(
    cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path, override: str, said: str
) -> None:
    assert cli(*BEST, override) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "outputs" / "train").exists()


def test_foreground_without_refine_says_what_trains_it(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("+experiment=cam", *TINY, "saliency=foreground") == 2
    assert "+experiment=best" in capsys.readouterr().err


def test_the_teacher_is_asked_for_fewer_images_and_this_is_said(
    cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli(*BEST, "refine.images=30", "stages=[train,refine]") == 0
    said = re.search(
        r"refine: the teacher is asked for (\d+) of (\d+) training images, evenly of all classes "
        r"\(refine\.images=30\)",
        capsys.readouterr().out,
    )
    assert said
    card = json.loads((result(tmp_path, "refine") / "card.json").read_text())
    assert card["refine"]["images"] == int(said[1]) < int(said[2])
    assert int(said[1]) == pytest.approx(30, abs=5)  # a class is rounded to whole images
    assert cli(*BEST, "stages=[train,refine]") == 0
    assert "the teacher is asked" not in capsys.readouterr().out


def test_images_are_chosen_evenly_of_all_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 1])
    kept = pseudo_labels.choose_evenly(labels, 30)
    assert [int((labels[kept] == c).sum()) for c in range(3)] == [21, 8, 1]
    assert len(np.unique(kept)) == 30
    assert pseudo_labels.choose_evenly(labels, 71).tolist() == list(range(71))


def test_a_target_lies_in_the_frame_of_the_networks_input() -> None:
    from pipeline.segmenter.grabcut import GrabCut
    from pipeline.types import Example

    image = np.full((48, 96, 3), 100, np.uint8)
    image[10:40, 60:90] = (220, 30, 30)
    values = np.zeros((6, 12), np.float32)
    values[2:4, 8:11] = 1
    target = pseudo_labels.refine_target(
        GrabCut(map_share=0.0), Example("x", image, 0, (480, 960)), values
    )
    assert target.is_sure
    assert target.mask.shape == target.map.shape == (28, 56)
    y, x = np.nonzero(target.mask > 0.5)
    assert abs(y.min() - 6) <= 1
    assert abs(x.min() - 35) <= 1
    assert abs(x.max() - 52) <= 1


def test_nothing_sure_is_a_clear_error(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.zeros((56, 56), np.float32)
    unsure = pseudo_labels.Target(nothing, nothing, is_sure=False)
    monkeypatch.setattr(pseudo_labels, "refine_target", lambda *_: unsure)
    assert cli(*BEST) == 2
    assert "no image to learn from" in capsys.readouterr().err
