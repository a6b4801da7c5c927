"""Is this better, or luck: runs on the same images, pair by pair; and what cannot be compared."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.engine.metrics import list_numbers, load_metrics
from pipeline.formats.arrays import write_arrays
from pipeline.ops.bootstrap import compare, first
from pipeline.results import comparison
from pipeline.results.comparison import ComparisonSettings, Measurement, Pairs, differences
from pipeline.stages.compare.pairs import note_precisions
from tests.conftest import TINY, Cli

pytestmark = pytest.mark.usefixtures("shared_results")

RUN = ("+experiment=cam", *TINY, "train.epochs=3")


def told(tmp_path: Path) -> list[dict[str, Any]]:
    return list(json.loads((tmp_path / "outputs/latest/comparison.json").read_text()))


def images(run: Path) -> dict[str, float]:
    found = json.loads((run / "stages/evaluate/images.json").read_text())
    return {one["id"]: one["iou"] for one in found if one["iou"] is not None}


def records(one: dict[str, Any]) -> dict[tuple[str, float | None, str | None], dict[str, Any]]:
    every = [each["record"] for each in one["differences"]]
    return {
        (r["name"].removeprefix("difference:"), r["iou"], (r["threshold"] or {}).get("kind")): r
        for r in every
    }


def test_two_runs_pair_by_pair(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*RUN, "segmenter.threshold=0.2") == 0
    first = (tmp_path / "outputs/latest").resolve()
    assert not (first / "comparison.json").exists()
    capsys.readouterr()
    assert cli(*RUN, "segmenter.threshold=0.5", "against=outputs/latest") == 0
    latest = (tmp_path / "outputs/latest").resolve()
    (one,) = told(tmp_path)
    assert (one["a"], one["b"]) == ("/".join(first.parts[-2:]), "this run")
    found = records(one)
    a, b = images(first), images(latest)
    own = {r["name"]: r for r in json.loads((latest / "metrics.json").read_text())
           if r["class"] is None and r["iou"] is None}  # fmt: skip
    before = {r["name"]: r for r in json.loads((first / "metrics.json").read_text())
              if r["class"] is None and r["iou"] is None}  # fmt: skip
    for iou in (0.3, 0.5, 0.7):
        rows = [np.array([each[id] >= iou for id in a]) for each in (a, b)]
        expected = compare(*rows)
        record = found["gt_known_loc", iou, "fixed"]
        assert record["value"] == pytest.approx(expected.difference)
        assert record["interval"] == pytest.approx(list(expected.interval))
        assert record["p_value"] == pytest.approx(expected.p_value)
        assert record["n"] == 24
        assert ("top1_loc", iou, "fixed") in found
        assert ("box_f1", iou, "fixed") in found
    for name, kind in (("mean_iou", "fixed"), ("max_box_acc_v2", "oracle")):
        difference = own[name]["value"] - before[name]["value"]
        assert found[name, None, kind]["value"] == pytest.approx(difference, abs=1e-9)
    assert found["max_box_acc_v2", None, "oracle"]["value"] == 0, "the same maps"
    assert found["max_box_acc_v2", None, "oracle"]["p_value"] == 1
    said = capsys.readouterr().out
    for sentence in one["sentences"]:
        assert sentence in said
    assert "in GT-known Loc at IoU 0.5:" in said
    page = (latest / "report/index.html").read_text()
    assert "Better, or luck?" in page
    assert one["sentences"][0] in page
    assert "../comparison.json" in page

    # The same again is kept; another one to compare with makes no evaluation again.
    assert cli(*RUN, "segmenter.threshold=0.5", f"against={first}") == 0
    said = capsys.readouterr().out
    assert said.count(" made ") == 0
    assert cli(*RUN, "segmenter.threshold=0.5", f"against={latest}") == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.split("\n")]
    assert [["evaluate", "kept"] in lines, ["compare", "made"] in lines] == [True, True]


def test_boxes_are_compared_as_they_were_segmented_whatever_chose_the_threshold(
    cli: Cli, tmp_path: Path
) -> None:
    assert cli(*RUN, "segmenter.threshold=auto", "report.images=0") == 0
    a = images((tmp_path / "outputs/latest").resolve())
    assert cli(*RUN, "segmenter.threshold=0.2", "report.images=0", "against=outputs/latest") == 0
    b = images((tmp_path / "outputs/latest").resolve())
    (one,) = told(tmp_path)
    for iou in (0.3, 0.5, 0.7):
        difference = np.mean([b[id] >= iou for id in a]) - np.mean([a[id] >= iou for id in a])
        assert records(one)["gt_known_loc", iou, "as segmented"]["value"] == pytest.approx(
            difference
        )
    assert ("mean_iou", None, "as segmented") in records(one)
    assert ("max_box_acc_v2", None, "oracle") in records(one)
    page = (tmp_path / "outputs/latest/report/index.html").read_text()
    assert "GT-known Loc @0.5 (as segmented)" in page


def test_validation_thresholds_are_compared_too(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, "data.images=240") == 0
    assert cli(*RUN, "data.images=240", "saliency=cam_positive", "against=outputs/latest") == 0
    (one,) = told(tmp_path)
    for iou in (0.3, 0.5, 0.7):
        assert records(one)["gt_known_loc", iou, "validation"]["n"] == 24
    assert any("(validation threshold)" in sentence for sentence in one["sentences"])


def test_the_best_of_several_methods_against_the_others(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = "explain.methods=[cam,cam_positive]"
    assert cli(*RUN, methods, "segmenter.threshold=0.5") == 0
    (one,) = told(tmp_path)
    assert {one["a"], one["b"]} == {"cam", "cam_positive"}
    assert one["corrected_for"] == 1
    run = tmp_path / "outputs/latest"
    reached = {
        method: np.mean([
            each["iou"] >= 0.5
            for each in json.loads((run / f"stages/{name}/images.json").read_text())
        ])
        for method, name in (("cam", "evaluate"), ("cam_positive", "evaluate-cam_positive"))
    }  # fmt: skip
    assert reached[one["b"]] >= reached[one["a"]]
    assert one["sentences"][0] in (run / "report/index.html").read_text()
    capsys.readouterr()
    assert cli(*RUN, methods, "segmenter.threshold=0.5", "against=outputs/latest") == 0
    names = [(each["a"].split("/")[0], each["b"]) for each in told(tmp_path)]
    assert names[:2] == [("cam", "cam of this run"), ("cam", "cam_positive of this run")]
    assert len(names) == 3


def test_p_is_larger_where_the_best_was_picked_from_more() -> None:
    rows = np.arange(40) < 20
    better = rows | (np.arange(40) < 28)
    pairs = [
        {("gt_known_loc", 0.5, ""): Pairs(each, first, [str(n) for n in range(40)], "fixed")}
        for each in (rows, better)
    ]
    numbers = list_numbers(load_metrics().values())
    once, thrice = (
        differences(*pairs, ComparisonSettings(called=("a", "b"), numbers=numbers, times=times))[0][
            "record"
        ]
        for times in (1, 3)
    )
    assert thrice["p_value"] == pytest.approx(3 * once["p_value"])
    assert thrice["value"] == once["value"] == pytest.approx(0.2)


def measurement(path: Path, called: str, ids: list[str], true: list[str]) -> Measurement:
    count = len(ids)
    arrays = {
        "iou": np.linspace(0, 1, count), "rank": np.zeros(count, np.int64),
        "counts": np.ones((count, 1, 3), np.int64), "hit": np.ones(count, bool),
        "energy": np.ones(count), "max_box_acc": np.zeros((count, 125), np.uint8),
        "max_box_acc_v2": np.zeros((count, 375), np.uint8),
    }  # fmt: skip
    write_arrays(path, arrays, ids=ids, true=true, ious=[0.5], threshold=None,
                       protocol="default", method=called)  # fmt: skip
    return Measurement.read(path, called)


def test_images_that_are_not_the_same_are_named(tmp_path: Path) -> None:
    a = measurement(tmp_path / "a", "A", ["1", "2", "3", "4"], ["p", "q", "r", "s"])
    b = measurement(tmp_path / "b", "B", ["4", "3", "2", "9", "8"], ["s", "other", "q", "t", "u"])
    same, notes = a.shared(b)
    assert same == ["2", "4"]
    assert notes[0].startswith("1 images have other annotated boxes in B than in A")
    assert notes[1].startswith("3 images were scored in one of A and B alone")
    place, metrics = ("mean_iou", None, ""), load_metrics().values()
    assert np.asarray(a.pairs(metrics, same)[place].rows).tolist() == pytest.approx([1 / 3, 1])
    assert np.asarray(b.pairs(metrics, same)[place].rows).tolist() == pytest.approx([0.5, 0])


def test_runs_of_another_precision_are_said_to_be(tmp_path: Path) -> None:
    fields = {"a": {"precision": "bf16", "device": "cpu"}, "old": {}}
    for name, values in (*fields.items(), ("b", {"precision": "float32", "device": "cpu"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps([{"name": "x", **values}]))
    a, b, old = (tmp_path / name for name in ("a", "b", "old"))
    assert note_precisions(a, a, ("A", "B")) == []
    (note,) = note_precisions(a, b, ("A", "B"))
    assert note.startswith("A was computed in bf16 on cpu, B in float32 on cpu: a part of")
    (note,) = note_precisions(old, b, ("A", "B"))
    assert "A was computed in a precision that is not recorded" in note


def test_ids_are_compared_in_any_unicode_form(tmp_path: Path) -> None:
    """Runs of older versions have ids as the disk spelled them."""
    composed, decomposed = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    a = measurement(tmp_path / "a", "A", [composed, "1"], ["p", "q"])
    b = measurement(tmp_path / "b", "B", ["1", decomposed], ["q", "p"])
    assert a.shared(b) == ([composed, "1"], [])


def test_what_the_check_at_start_needs_is_read_without_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decomposed = unicodedata.normalize("NFD", "é.jpg")
    whole = measurement(tmp_path / "a", "A", [decomposed, "1"], ["p", "q"])
    monkeypatch.setattr(comparison, "read_arrays", None)
    assert Measurement.read_scored(tmp_path / "a") == (whole.protocol, whole.ids, "images")


def test_what_cannot_be_compared_is_refused_at_start(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert cli(*RUN, *arguments) == 2
        return capsys.readouterr().err

    assert "against=nowhere: no such folder" in refused("against=nowhere")
    (tmp_path / "empty").mkdir()
    error = refused("against=empty")
    assert "against=empty: it holds no stages/evaluate/rows.safetensors" in error
    assert "as in against=outputs/runs/" in error
    assert "against=empty: none of stages" in refused("against=empty", "stages=[train]")
    assert "nothing to compare" in refused("stages=[train,explain,localize,evaluate,compare]")
    assert not (tmp_path / "outputs").exists()
    assert cli(*RUN, "report.images=0") == 0
    capsys.readouterr()
    error = refused("against=outputs/latest", "protocol=wsolevaluation")
    assert "measured with protocol=default, this run with protocol=wsolevaluation" in error


def test_a_run_on_other_images_is_refused_at_start(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*RUN, "report.images=0") == 0
    capsys.readouterr()
    other = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=64")
    assert cli(*other, "against=outputs/latest") == 2
    error = capsys.readouterr().err
    assert "it scored none of the images that this run scores" in error
    assert "'val/00000-arrow.png' there, 'val/blue/0.png' here" in error


def test_runs_of_other_classes_are_refused_at_start(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Boxes of a class would be drawn, and counted, as those of another one."""
    annotations = {
        "images": [{"id": 1, "file_name": "val/blue/0.png", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 24, 24]}],
        "categories": [{"id": 1, "name": "blue"}],
    }
    (folder_of_images / "instances_val.json").write_text(json.dumps(annotations))
    renamed = folder_of_images.with_name("renamed")
    shutil.copytree(folder_of_images, renamed)
    for split in ("train", "val"):
        (renamed / split / "red").rename(renamed / split / "green")
    runs = []
    for root in (folder_of_images, renamed):
        data = ("data=folder", f"data.root={root}", "data.size=64")
        stages = "stages=[train,explain,localize,evaluate]"
        assert cli("+experiment=cam", *data, "train.epochs=1", "train.batch=8", stages) == 0
        runs.append(str(Path("outputs/latest").resolve()))
    capsys.readouterr()
    assert cli("+experiment=compare", f"runs=[{','.join(runs)}]") == 2
    error = capsys.readouterr().err
    assert f"{runs[1]} and {runs[0]} know other classes, or in another order" in error


def test_a_run_without_boxes_is_nothing_to_compare_with(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("data=folder", f"data.root={folder_of_images}", "data.size=64")
    run = ("+experiment=cam", *data, "train.epochs=1", "train.batch=8", "report.images=0")
    assert cli(*run) == 0
    capsys.readouterr()
    assert cli(*run, "against=outputs/latest") == 2
    error = capsys.readouterr().err
    assert "that run scored no box, as its data has no annotated boxes" in error
    assert "on the same data" not in error


def test_methods_on_images_without_boxes_compare_in_silence(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("data=folder", f"data.root={folder_of_images}", "data.size=64")
    how = ("train.epochs=1", "train.batch=8", "explain.methods=[cam,cam_positive]")
    assert cli("+experiment=cam", *data, *how) == 0
    assert told(tmp_path) == []
    assert "no difference" not in capsys.readouterr().out
