"""Stage check: no scored image, classes without one, duplicates that choose the threshold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.engine.images import SplitImages, refuse_empty
from pipeline.errors import UserError
from pipeline.stages.check.duplicates import Duplicates
from pipeline.stages.check.findings import check_duplicates
from pipeline.stages.check.images import CheckedImages
from pipeline.stages.check.scored import check_scored
from tests.conftest import Cli
from tests.data import drawn_sets
from tests.ops.test_perceptual_hash import draw_scene
from tests.stages.test_check import by_kind, read_check
from tests.stages.test_report import Page

CLASSES = ("robin", "wren")


class OwnSplits:
    """A data set in memory of two classes: the labels of each split."""

    size = (64, 64)
    classes = CLASSES

    def __init__(self, **labels: list[int]) -> None:
        self._labels = labels

    def ids(self, split: str) -> list[str]:
        return [f"{split}{n}" for n in range(len(self._labels.get(split, [])))]

    def labels(self, split: str) -> np.ndarray:
        return np.array(self._labels.get(split, []), np.int64)

    def notes(self) -> list[str]:
        return ["splits.csv: all in train"]


def check(**labels: list[int]) -> CheckedImages:
    data: Any = OwnSplits(**labels)
    return CheckedImages(data)


def test_no_scored_image_is_an_error_where_val_is_asked_for() -> None:
    images = check(train=[0, 1, 0], held_back=[1])
    (finding,) = check_scored(images, CLASSES, "val")
    assert (finding.kind, finding.severity) == ("no_scored_image", "error")
    assert "(3 train, 1 held_back)" in finding.text
    (finding,) = check_scored(images, CLASSES, "all")
    assert finding.severity == "warning", "boxes of all images need none that is scored"


def test_a_class_that_is_not_scored_is_a_warning() -> None:
    assert not check_scored(check(train=[0, 1], val=[1, 0]), CLASSES, "val")
    (finding,) = check_scored(check(train=[0, 1], held_back=[0], val=[1]), CLASSES, "val")
    assert (finding.kind, finding.severity) == ("class_without_scored_image", "warning")
    assert finding.names == ("robin (2 trained on)",)


def test_a_stage_names_the_splits_that_are_there_where_its_own_is_empty() -> None:
    data: Any = OwnSplits(train=[0, 1])
    with pytest.raises(UserError) as caught:
        refuse_empty(SplitImages(data, "val"), "explain")
    message = str(caught.value)
    assert "explain: explain.split=val: no image of the data set is in it (2 train)" in message
    assert "splits.csv: all in train" in message
    refuse_empty(SplitImages(data, "train"), "explain")


def test_duplicates_of_calibration_and_val_choose_the_threshold() -> None:
    images = check(train=[0, 1], calibration=[0, 1], val=[0, 1])
    place = {f"{images.split(n)}{images.places[n]}": n for n in range(len(images))}
    groups = [["calibration0", "val0"], ["train1", "calibration1", "val1"]]
    duplicates = Duplicates([[place[name] for name in group] for group in groups])
    found = {f.kind: f for f in check_duplicates(images, duplicates, CLASSES)}
    finding = found["exact_duplicates_calibration"]
    assert finding.names == ("calibration0 = val0",)
    assert "the threshold is chosen by boxes of images that are scored" in finding.text
    assert found["exact_duplicates_across"].names == ("train1 = calibration1 = val1",)


def test_a_file_of_splits_that_scores_nothing(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, seed = tmp_path / "photos", 0
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for n in range(10):
            draw_scene(seed, 40).save(root / name / f"{n}.png")
            seed += 1
    splits = tmp_path / "s.csv"
    rows = [f"{name}/{n}.png,train" for name in CLASSES for n in range(10)]
    splits.write_text("\n".join(["image,split", *rows]) + "\n")
    given = ("data=folder", f"data.root={root}", f"data.split_file={splits}", "data.size=32")
    assert cli("+experiment=check", *given) == 1
    assert by_kind(read_check(tmp_path))["no_scored_image"]["severity"] == "error"
    note = f"{splits}: none of its 20 images is in val, so none is scored; write val for"
    assert note in capsys.readouterr().out
    assert cli("+experiment=cam", *given, "model=small") == 2
    said = capsys.readouterr().err
    assert "explain.split=val: no image of the data set is in it" in said
    assert note in said


def test_boxes_that_cannot_be_read_are_not_those_that_were_checked_before(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(20):
        draw_scene(n, 40).save(tmp_path / f"{n}.png")
    rows = [f"{n}.png,{CLASSES[n % 2]},{'train' if n < 12 else 'val'}" for n in range(20)]
    plain, broken = tmp_path / "a.csv", tmp_path / "b.csv"
    plain.write_text("\n".join(["path,label,split", *rows]))
    head = "path,label,split,xmin,ymin,xmax,ymax"
    broken.write_text("\n".join([head, *(f"{row},a,1,20,20" for row in rows)]))
    for table, count in ((plain, 0), (broken, 1)):
        given = ("data=table", f"data.table={table}", "data.size=32")
        assert cli("+experiment=check", *given) == 0
        findings = read_check(tmp_path)["findings"]
        about_boxes = [each for each in findings if "four numbers" in each["text"]]
        assert len(about_boxes) == count
    assert about_boxes[0]["names"][0] == "line 2: a; 1; 20; 20"
    assert "check      kept" not in capsys.readouterr().out


def test_the_page_of_a_set_of_several_classes(cli: Cli, tmp_path: Path) -> None:
    drawn_sets.voc(tmp_path)
    assert cli("+experiment=check", "data=voc", f"data.root={tmp_path}", "check.stop=false") == 0
    summary = read_check(tmp_path)
    text = (summary["run"] / "check/index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "An image of several classes counts for each of them" in page.said
    absent = [name for name, row in summary["classes"].items() if not any(row.values())]
    assert f"{len(absent)} classes without an image: aeroplane, bicycle" in page.said
    assert "<tr><td><bdi>aeroplane</bdi></td>" not in text
    shutil.rmtree(tmp_path / "VOCdevkit")
