"""The charts of the report as data: their numbers against NumPy definitions, and what is absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.formats.arrays import read_arrays
from pipeline.formats.files import read_json
from pipeline.stages.report.chart_accuracy import count_ious
from pipeline.stages.report.chart_classifier import count_confusions, draw_confusion
from pipeline.stages.report.chart_model import chart_model
from pipeline.stages.report.chart_training import draw_refine, draw_training
from pipeline.stages.report.words import MethodResult
from tests.conftest import TINY, Cli

pytestmark = pytest.mark.usefixtures("shared_results")

RUN = ("+experiment=cam", *TINY)
SEVERAL = ("data=mosaics", "data.several_classes=true")


def results_of(latest: Path, methods: list[str]) -> list[MethodResult]:
    """The results of a run: of its first method without a suffix."""
    found = []
    for n, method in enumerate(methods):
        suffix = f"-{method}" if n else ""
        folders = {name: latest / f"stages/{name}{suffix}"
                   for name in ("explain", "localize", "evaluate", "rank")}  # fmt: skip
        ranking = folders["rank"] if folders["rank"].exists() else None
        found.append(
            MethodResult(
                method=method, saliency=method, ids=(),
                maps=folders["explain"], boxes=folders["localize"],
                evaluation=folders["evaluate"], ranking=ranking,
            )
        )  # fmt: skip
    return found


def model_of(latest: Path, methods: list[str], **given: Any) -> dict[str, Any]:
    results, train = results_of(latest, methods), latest / "stages/train"
    images = results[0].images
    labels = [-1] * (1 + max((record["position"] for record in images), default=-1))
    for record in images:
        labels[record["position"]] = record["class"]
    card = read_json(train / "card.json")
    model = chart_model(
        results,
        **{
            "classes": card["classes"], "labels": labels, "is_multi_label": False, "card": card,
            "history": read_json(train / "history.json"), "held_back": 10, **given,
        },
    )  # fmt: skip
    return json.loads(json.dumps(model))


def charts_of(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    charts = {chart["key"]: chart for chart in model["list"]}
    assert len(charts) == len(model["list"]), "keys are unique"
    for chart in charts.values():
        assert chart["title"]
        assert chart["sentence"].endswith(".")
        if "x" in chart:
            check_axes(chart)
    return charts


def check_axes(chart: dict[str, Any]) -> None:
    """Labels are there, points lie within the axes, and each series has a choice of each legend."""
    for axis in (chart["x"], chart["y"]):
        assert axis["label"]
        assert axis["low"] < axis["high"]
    for series in chart["series"]:
        assert len(series["keys"]) == len(chart["toggles"])
        for key, toggle in zip(series["keys"], chart["toggles"], strict=True):
            assert 0 <= key < len(toggle["names"])
        for x, y in series["points"]:
            assert chart["x"]["low"] <= x <= chart["x"]["high"]
            assert chart["y"]["low"] <= y <= chart["y"]["high"]
    assert all(len(row) == len(chart["table"]["head"]) for row in chart["table"]["rows"])
    assert chart["table"]["rows"]


@pytest.fixture
def two_methods(cli: Cli, tmp_path: Path) -> Path:
    assert cli(*RUN, "explain.methods=[cam,cam_positive]") == 0
    return tmp_path / "outputs/latest"


def test_numbers_of_two_methods_are_those_of_the_definitions(two_methods: Path) -> None:
    methods = ["cam", "cam_positive"]
    model = model_of(two_methods, methods)
    charts = charts_of(model)
    assert model["methods"] == methods
    assert model["unit"] == "images"
    assert not model["absent"]
    for n, result in enumerate(results_of(two_methods, methods)):
        rows = read_arrays(result.evaluation / "rows.safetensors")[0]
        check_threshold(charts["threshold"], n, result)
        check_histogram(charts["iou_histogram"], n, rows["iou"])
        check_precision_recall(charts["precision_recall"], n, rows["counts"])
        check_groups(charts["groups"], n, rows["iou"])
        check_classes(charts["classes"], n, result, rows["iou"])
        check_confidence(charts, n, result)
    check_confusion(charts["confusion"], results_of(two_methods, methods)[0])
    check_training(charts, read_json(two_methods / "stages/train/history.json"))


def check_threshold(chart: dict[str, Any], n: int, result: MethodResult) -> None:
    """Lines are those of the curve, marks are GT-known Loc of metrics.json at each threshold."""
    records = {
        (r["threshold"]["kind"], r["iou"]): r
        for r in read_json(result.evaluation / "metrics.json")
        if r["name"] == "gt_known_loc" and r["group"] is None
    }
    marks = [mark for mark in chart["marks"] if mark["keys"][0] == n]
    assert len(marks) == len(records) == 12
    for mark in marks:
        record = records[mark["kind"], (0.3, 0.5, 0.7)[mark["keys"][1]]]
        assert mark["y"] == pytest.approx(record["value"], abs=1e-5)
        assert mark["x"] == record["threshold"]["value"] or mark["kind"] == "oracle"
        assert (mark["x"] is None) == (mark["kind"] == "auto")
    for series in chart["series"]:
        if series["keys"][0] == n:
            assert len(series["points"]) == 101 - 1
            oracle = next(m for m in marks if m["keys"] == series["keys"] and m["kind"] == "oracle")
            assert max(y for _, y in series["points"]) <= oracle["y"] + 1e-4
    assert chart["toggles"][1]["shown"] == [False, True, False]
    for word in ("24 images", "fixed", "validation", "oracle", "threshold kind auto"):
        assert word in chart["sentence"]


def check_histogram(chart: dict[str, Any], n: int, ious: np.ndarray) -> None:
    expected = [int(((ious >= k / 20) & ((ious < (k + 1) / 20) | (k == 19))).sum())
                for k in range(20)]  # fmt: skip
    assert [y for _, y in chart["series"][n]["points"]] == expected
    assert sum(expected) == len(ious) == 24
    assert f"{ious.mean():.3f}" in chart["sentence"]


def check_precision_recall(chart: dict[str, Any], n: int, counts: np.ndarray) -> None:
    """The last point is that of all boxes: sums of matched, found and true boxes."""
    for series in chart["series"]:
        if series["keys"][0] == n:
            matched, found, true = counts[:, series["keys"][1]].sum(0)
            assert series["points"][-1] == pytest.approx(
                [matched / true, matched / found], abs=1e-4
            )
            recalls = [recall for recall, _ in series["points"]]
            assert recalls == sorted(recalls)


def check_groups(chart: dict[str, Any], n: int, ious: np.ndarray) -> None:
    """The groups of a kind hold each image once, and their mean is that of all."""
    for series in (each for each in chart["series"] if each["keys"][0] == n):
        iou = (0.3, 0.5, 0.7)[series["keys"][1]]
        rows = list(zip(series["points"], series["counts"], series["bounds"], strict=True))
        for first in ("small", "1 object"):
            names = ("small", "medium", "large") if first == "small" else ("1 ob", "2 ob", "3+ ob")
            own = [(point[1], count) for point, count, _ in rows
                   if chart["categories"][point[0]].startswith(names)]  # fmt: skip
            assert sum(count for _, count in own) == len(ious)
            mean = sum(value * count for value, count in own) / len(ious)
            assert mean == pytest.approx((ious >= iou).mean(), abs=1e-4)
        assert all(low <= point[1] <= high for point, _, (low, high) in rows)


def check_classes(chart: dict[str, Any], n: int, result: MethodResult, ious: np.ndarray) -> None:
    labels = np.array([record["class"] for record in result.images])
    column = chart["columns"].index("GT-known @0.5")
    for label, row in enumerate(chart["rows"]):
        own = ious[labels == label]
        assert row["count"] == len(own)
        assert row["values"][n][column] == pytest.approx(100 * (own >= 0.5).mean(), abs=0.051)


def check_confidence(charts: dict[str, Any], n: int, result: MethodResult) -> None:
    sure = np.array([record["confidence"] for record in result.images])
    right = np.array([record["iou"] >= 0.5 for record in result.images])
    counts = [int(((sure >= k / 20) & ((sure < (k + 1) / 20) | (k == 19))).sum())
              for k in range(20)]  # fmt: skip
    assert [y for _, y in charts["confidence_histogram"]["series"][n]["points"]] == counts
    reliability = charts["reliability"]["series"][n]
    assert sum(reliability["counts"]) == len(sure)
    mean = np.dot(reliability["counts"], [x for x, _ in reliability["points"]]) / len(sure)
    assert mean == pytest.approx(sure.mean(), abs=1e-4)
    assert charts["coverage"]["series"][n]["points"][-1] == pytest.approx(
        [1, right.mean()], abs=1e-5
    )


def check_confusion(chart: dict[str, Any], result: MethodResult) -> None:
    counts = np.zeros((10, 10), int)
    for record in result.images:
        counts[record["class"], record["predicted"]] += 1
    assert chart["counts"] == counts.tolist()
    assert np.array(chart["shares"]).sum(1) == pytest.approx(np.ones(10), abs=1e-3)
    top1 = next(r["value"] for r in read_json(result.evaluation / "metrics.json")
                if r["name"] == "classification_top1" and r["group"] is None)  # fmt: skip
    assert np.trace(counts) / counts.sum() == pytest.approx(top1)
    assert f"Of 24 images {np.trace(counts)} are" in chart["sentence"]


def check_training(charts: dict[str, Any], history: list[dict[str, Any]]) -> None:
    loss, score = charts["training_loss"], charts["training_score"]
    assert loss["series"][0]["points"] == [[r["epoch"], r["loss"]] for r in history]
    assert score["series"][0]["points"] == [[r["epoch"], r["held_back_top1"]] for r in history]
    assert "10 held-back images" in score["sentence"]
    assert score["marks"][0]["x"] == max(history, key=lambda r: r["held_back_top1"])["epoch"]


def test_of_several_labels_units_are_pairs(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN, *SEVERAL) == 0
    latest = tmp_path / "outputs/latest"
    model = model_of(latest, ["cam"], is_multi_label=True)
    charts = charts_of(model)
    pairs = len(read_json(latest / "stages/evaluate/images.json"))
    assert pairs > 24
    for key in ("threshold", "iou_histogram", "precision_recall", "classes", "groups"):
        assert "pairs (image, class)" in charts[key]["sentence"], key
    assert f"{pairs} pairs (image, class)" in charts["threshold"]["sentence"]
    assert sum(charts["reliability"]["series"][0]["counts"]) == pairs, "each pair, not each image"
    assert sum(row["count"] for row in charts["classes"]["rows"]) == pairs
    assert "confusion" not in charts
    assert [each["title"] for each in model["absent"]] == ["Confusion of the classifier"]
    assert "mean average precision" in charts["training_score"]["title"]


def test_without_annotations_training_confidence_and_confusion_remain(
    cli: Cli, tmp_path: Path, folder_of_images: Path
) -> None:
    data = ("data=folder", f"data.root={folder_of_images}", "data.size=64")
    assert cli("+experiment=cam", *data, "train.epochs=1", "train.batch=8") == 0
    latest = tmp_path / "outputs/latest"
    model = model_of(latest, ["cam"])
    assert set(charts_of(model)) == {
        "confidence_histogram", "confusion", "training_loss", "training_score",
    }  # fmt: skip
    why = {each["title"]: each["why"] for each in model["absent"]}
    assert "no image has an annotated box" in why["Charts of localization"]
    assert "fewer than 20" in why["Reliability of confidence"]


def test_bins_of_iou_hold_their_lower_end() -> None:
    ends = np.arange(21) / 20
    assert count_ious(ends).tolist() == [1] * 19 + [2]
    below = np.nextafter(ends[1:], 0)
    assert count_ious(below).tolist() == [1] * 20
    random = np.random.default_rng(0).random(1000)
    assert count_ious(random)[10:].sum() == (random >= 0.5).sum()


def test_of_many_classes_the_most_confused_pairs_are_listed() -> None:
    rng = np.random.default_rng(0)
    classes = [f"class {n}" for n in range(30)]
    labels = [*rng.integers(0, 30, 500).tolist(), -1]
    predicted = {n: int(rng.integers(0, 30)) for n in range(499)} | {500: 3}
    counts = count_confusions(labels, predicted, 30)
    assert counts.sum() == 499
    confusion = draw_confusion(labels, predicted, classes)
    assert confusion is not None
    assert not confusion.names
    wrong = counts - np.diag(np.diag(counts))
    assert [pair.count for pair in confusion.pairs] == sorted(wrong[wrong > 0].tolist())[::-1][:20]
    for pair in confusion.pairs:
        true, guess = classes.index(pair.true), classes.index(pair.predicted)
        assert pair.count == counts[true, guess]
        assert pair.share == pytest.approx(pair.count / counts[true].sum(), abs=1e-4)
    assert "Of 499 images" in confusion.sentence
    assert "1 more could not be read" in confusion.sentence
    assert draw_confusion([-1, -1], {0: 0}, classes) is None


def test_what_was_not_trained_has_no_curve() -> None:
    assert draw_training([], None, None) == []
    loss, score = draw_training([{"epoch": 1, "loss": 2.0, "held_back_map": 0.5}], None, None)
    assert (loss.x.low, loss.x.high) == (0, 2), "one epoch stands in the middle"
    assert "mean average precision" in score.title


def test_refine_has_its_losses_and_its_agreement() -> None:
    refined = {
        "losses": [0.5, 0.4], "learned_from": 83, "images": 86, "agreement": 0.71,
        "cropped_agreement": 0.6, "learned_crops": False,
    }  # fmt: skip
    losses, agreement = draw_refine(refined, is_alone=True)
    assert losses.series[0].points == [(0.5, 0.5), (1.0, 0.4)]
    assert "masks of 83 training images" in losses.sentence
    assert agreement.series[0].points == [(0, 0.71), (1, 0.6)]
    assert "used alone" in agreement.sentence
    assert "not kept" in agreement.sentence
    assert [chart.key for chart in draw_refine({**refined, "agreement": None,
            "cropped_agreement": None}, is_alone=False)] == ["refine_loss"]  # fmt: skip
