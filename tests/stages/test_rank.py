"""Stage rank: confidences never fitted on their own image, the order of review, and the files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.mask import iou

import pipeline
from pipeline.results.confidence import Examples
from pipeline.segmenter.confidence import default_model
from pipeline.segmenter.confidence_features import FEATURES
from pipeline.stages.rank.ranking import (
    BLOCK,
    FOLDS,
    Table,
    add_agreement,
    compute_confidences,
    fit_folds,
    fit_models,
    fold_of,
    order_review,
    tabulate,
)
from pipeline.types import Boxes
from tests.conftest import TINY, Cli

pytestmark = pytest.mark.usefixtures("shared_results")


def examples(count: int, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, len(FEATURES))).astype(np.float32)
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (count, 1))
    return Examples([f"{n}.jpg" for n in range(count)], rows, boxes, rows[:, 0] > 0, "user")


def table_of(rows: np.ndarray, labels: Any = None) -> Table:
    n = len(rows)
    label = np.zeros(n, int) if labels is None else np.array(labels)
    return Table(np.arange(n), label, np.asarray(rows, np.float32), np.ones(n, bool))


def test_an_image_has_the_model_that_was_fitted_without_its_fold() -> None:
    known = examples(60)
    ids = [*known.ids, "new.jpg"]
    models = fit_models("classifier", known, [])
    default = default_model("classifier", False)
    folds = fit_folds(models.alone, default, known, known.features)
    rows = np.concatenate([known.features, known.features[:1]])
    seen = frozenset(known.ids)
    confidences = compute_confidences(table_of(rows), ids, models.alone, folds, seen)
    assert len(folds) == FOLDS
    fold = np.array([fold_of(id) for id in known.ids])
    for n in (0, 7, 31):
        kept = fold != fold[n]
        without = default.corrected(known.features[kept], known.right[kept])
        assert confidences[n] == pytest.approx(float(without(rows[n : n + 1])[0]), abs=1e-6)
    assert confidences[60] == pytest.approx(float(models.alone(rows[:1])[0]), abs=1e-6)
    assert models.source == "user"


def test_few_examples_leave_the_default() -> None:
    known = examples(12)
    models = fit_models("head", known, [])
    assert models.used == default_model("head", False)
    assert models.source == ""
    assert fit_folds(models.used, models.used, known, known.features) == []


def test_agreement_is_the_mean_iou_with_the_other_methods() -> None:
    found = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    features = np.zeros((2, len(FEATURES)), np.float32)
    boxes = Boxes("a", 3, found, np.ones(2, np.float32), (40, 40), features=features)
    others = [{(0, 3): np.array([0, 0, 10, 5])}, {(0, 3): found[0]}, {(1, 3): found[1]}]
    table = tabulate(iter([(0, boxes)]), others)
    assert table.features[:, -1].tolist() == [0.75, 0]
    assert table.first.tolist() == [True, False]
    known, other = examples(3), examples(2)
    assert add_agreement(known, [other])[:, -1].tolist() == [1, 1, 0]
    assert fit_models("head", known, [other]).used == default_model("head", True)


def test_agreement_with_grabcut_is_the_last_feature() -> None:
    found = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    features = np.zeros((2, len(FEATURES)), np.float32)
    boxes = Boxes("a", 3, found, np.ones(2, np.float32), (40, 40), features=features)
    half, same = {(0, 3): np.array([0, 0, 10, 5])}, {(0, 3): found[0]}
    both = tabulate(iter([(0, boxes)]), [half], same)
    assert both.features[:, len(FEATURES) :].tolist() == [[0.5, 1], [0, 0]]
    assert tabulate(iter([(0, boxes)]), [], half).features[:, len(FEATURES) :].tolist() == [
        [0.5],
        [0],
    ]
    known, other = examples(3), examples(2)
    assert add_agreement(known, [], other)[:, -1].tolist() == [1, 1, 0]
    assert add_agreement(known, [known], other)[:, -2:].tolist() == [[1, 1], [1, 1], [1, 0]]
    for others in ([], [other]):
        used = fit_models("classifier", known, others, other).used
        assert used == default_model("classifier", bool(others), with_grabcut=True)


def test_a_box_that_grabcut_confirms_is_surer_and_changes_nothing_else(
    cli: Cli, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    stages = "stages=[train,explain,localize,rank]"
    written = {}
    for wanted in ("false", "true"):
        assert cli("+experiment=cam", *TINY, stages, f"rank.grabcut={wanted}") == 0
        run = outputs / "latest"
        written[wanted] = json.loads((run / "boxes.json").read_text())
        model = json.loads((run / "confidence.json").read_text())
    assert model["alone"]["features"] == list(FEATURES)
    assert model["together"]["features"] == [*FEATURES, "grabcut"]
    plain, checked = ([box["confidence"] for box in boxes] for boxes in written.values())
    assert plain != checked
    for before, after in zip(*written.values(), strict=True):
        assert before["bbox"] == after["bbox"]
        assert before["score"] == after["score"]
    cut = next(
        folder
        for folder in (outputs / "localize").iterdir()
        if "grabcut" in (folder / "cache_key.json").read_text()
        and (folder / "DONE").exists()
        and folder.resolve() != (run / "stages/localize").resolve()
    )
    grabcut = {box["image_id"]: box["bbox"] for box in json.loads((cut / "boxes.json").read_text())}
    odds = np.log(np.array([plain, checked]) / (1 - np.array([plain, checked])))
    agreement = [
        float(iou([box["bbox"]], [grabcut[box["image_id"]]], [0])[0, 0]) for box in written["true"]
    ]
    assert odds[1] - odds[0] == pytest.approx(3 * (np.array(agreement) - 0.7), abs=0.02)


def test_grabcut_is_calibrated_and_used_by_another_run(cli: Cli, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    stages = "stages=[train,explain,calibrate,localize,rank]"
    assert cli("+experiment=cam", *TINY, stages, "rank.grabcut=true") == 0
    run = (outputs / "latest").resolve()
    model = json.loads((run / "confidence.json").read_text())
    assert model["together"]["features"][-1] == "grabcut"
    assert model["together"]["kind"] == ("calibrated" if model["examples"] else "default")
    predict = ["+experiment=predict", f"checkpoint={run}", "data=shapes", *TINY[:2]]
    for wanted, last in (("true", "grabcut"), ("false", FEATURES[-1])):
        assert cli(*predict, f"rank.grabcut={wanted}") == 0
        again = json.loads((outputs / "latest/confidence.json").read_text())
        assert (again["together"] or again["alone"])["features"][-1] == last


def test_the_order_begins_with_a_random_sample_and_goes_on_with_doubt() -> None:
    random = np.random.default_rng(0)
    count = 200
    ids, sure = [f"{n}.jpg" for n in range(count)], random.random(count).astype(np.float32)
    table = table_of(np.zeros((count, 7)), random.integers(0, 4, count))
    unread = {5, 9}
    explained = [n for n in range(count) if n not in unread]
    ranks, sampled = order_review(table, explained, sure, ids, 50, 0)
    assert sorted(ranks[explained]) == list(range(1, 199))
    assert ranks[[5, 9]].tolist() == [0, 0]
    assert sampled.sum() == 50
    assert ranks[sampled].max() == 50
    order = np.argsort(ranks)[2:][50:]
    blocks = [sure[order[n : n + BLOCK]] for n in range(0, len(order), BLOCK)]
    for before, after in itertools.pairwise(blocks):
        assert before.max() <= after.min()
    first = table.label[order[:BLOCK]]
    assert len(set(first[:4].tolist())) == 4  # the classes take turns
    again = order_review(table, explained, sure, ids, 50, 0)
    other = order_review(table, explained, sure, ids, 50, 1)
    assert (again[0] == ranks).all()
    assert (other[1] != sampled).any()


def test_an_image_without_box_is_the_least_sure() -> None:
    table = Table(np.array([0]), np.array([0]), np.zeros((1, 7), np.float32), np.array([True]))
    ranks, _ = order_review(table, [0, 1], np.array([0.01], np.float32), ["a", "b"], 0, 0)
    assert ranks.tolist() == [2, 1]


def test_what_a_run_writes(cli: Cli, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    assert cli("+experiment=cam", *TINY, "rank.sample=5") == 0
    run = outputs / "latest"
    data, boxes = run / "predictions.json", json.loads((run / "boxes.json").read_text())
    model = json.loads((run / "confidence.json").read_text())
    assert model["confidence_kind"] == ("calibrated" if model["examples"] else "default")
    whole = json.loads(data.read_text())
    assert whole["info"]["confidence_kind"] == model["confidence_kind"]
    assert sum("review_sample" in image for image in whole["images"]) == 5
    assert sorted(image["review_rank"] for image in whole["images"]) == list(range(1, 25))
    for box in boxes:
        assert 0 <= box["confidence"] <= 1
        assert 0 <= box["probability"] <= 1
    plain = json.loads((run / "stages/localize/boxes.json").read_text())
    same = [{key: box[key] for key in plain[0]} for box in boxes]
    assert same == plain
    assert len(COCO(str(data)).loadRes(str(run / "boxes.json")).anns) == len(boxes)
    names = {record["name"] for record in json.loads((run / "metrics.json").read_text())}
    assert {"confidence_ece", "confidence_surest"} <= names
    predict = pipeline.load(run, precision="float32")
    (prediction,) = predict(np.full((40, 50, 3), 100, np.uint8))
    assert prediction.confidence_kind == model["confidence_kind"]
    assert prediction.confidences.shape == (len(prediction.boxes),)


def test_without_boxes_confidences_are_called_uncalibrated(cli: Cli, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    assert cli("+experiment=cam", *TINY, "stages=[train,explain,localize,rank,export]") == 0
    run = outputs / "latest"
    assert json.loads((run / "confidence.json").read_text())["confidence_kind"] == "default"
    notes = [note["text"] for note in json.loads((run / "notes.json").read_text())]
    assert any("not calibrated" in note and "calibrate.boxes" in note for note in notes)
    exported = json.loads((run / "exported/coco/boxes.json").read_text())
    assert all("review_rank" in box for box in exported)


def test_several_methods_agree_or_not(cli: Cli, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    stages = "stages=[train,explain,calibrate,localize,rank,evaluate]"
    assert cli("+experiment=cam", *TINY, "explain.methods=[cam,gradcam]", stages) == 0
    for folder in ("latest", "latest/gradcam"):
        model = json.loads((outputs / folder / "confidence.json").read_text())
        assert model["together"]["features"][-1] == "agreement"


def test_an_image_of_several_classes_is_as_sure_as_its_least_sure_class() -> None:
    """A class of it without a box is the least sure; classes that it does not have do not count."""
    found = [(0, 0, 0.9), (0, 1, 0.3), (1, 0, 0.5), (1, 1, 0.6), (2, 1, 0.8), (3, 2, 0.1),
             (3, 0, 0.7), (4, 2, 0.2)]  # fmt: skip
    boxes = [
        (n, Boxes("x", label, np.array([[0, 0, 4, 4]], np.float32), np.ones(1, np.float32), (8, 8),
                  features=np.full((1, len(FEATURES)), sure, np.float32)))
        for n, label, sure in found
    ]  # fmt: skip
    table = tabulate(iter(boxes), [], has_sets=True)
    assert table.first.all()
    assert tabulate(iter(boxes), []).first.tolist() == [
        True, False, True, False, True, True, False, True
    ]  # fmt: skip
    sets = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    sure = np.array([each for *_, each in found], np.float32)
    ids = [str(n) for n in range(5)]
    ranks, _ = order_review(table, range(5), sure, ids, 0, 0, sets=sets)
    assert np.argsort(ranks).tolist() == [2, 4, 0, 1, 3]
    without, _ = order_review(table, range(5), sure, ids, 0, 0)
    assert np.argsort(without).tolist() == [3, 0, 1, 4, 2], "classes take turns"
