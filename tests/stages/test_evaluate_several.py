"""Images of several classes: each class is scored in its image, against numbers computed apart."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score

from pipeline.data.mosaics import Mosaics
from pipeline.engine.metrics import load_metrics
from pipeline.formats.arrays import write_arrays
from pipeline.metric.pointing import peak
from pipeline.ops.iou import best_iou, pairwise_iou
from pipeline.ops.maps import upsample
from pipeline.results.boxes import pack_boxes
from pipeline.results.maps import PROBABILITIES, load_probabilities
from pipeline.results.shards import shard_path
from pipeline.stages.evaluate.evaluator import Evaluator, evaluate
from pipeline.stages.evaluate.explained import Explained, add_backgrounds, take_class
from pipeline.stages.evaluate.maps import MapScale
from pipeline.stages.evaluate.not_found import Missing
from pipeline.stages.evaluate.own_run import OwnRun
from pipeline.types import Boxes, Crowds, EvaluationSettings, GroundTruth, SaliencyMap, Score
from tests.conftest import TINY, Cli

pytestmark = pytest.mark.usefixtures("shared_results")

DATA = Mosaics(images=1, val_images=24, several_classes=True, held_back=0)
IDS, SETS, TRUTH = DATA.ids("val"), DATA.label_sets("val"), DATA.truth("val")
UNREAD, WITHOUT = 5, 9  # an image that could not be read, and one whose last class has no map
GRID = (24, 24)


@dataclass(frozen=True)
class Drawn:
    """What a run would have made of an image."""

    maps: Mapping[int, SaliencyMap]
    boxes: Mapping[int, Boxes]
    probabilities: np.ndarray


def draw(position: int) -> Drawn:
    """Return noisy maps of objects, boxes near and far, and probabilities that are often right."""
    rng, known = np.random.default_rng(position), TRUTH[IDS[position]]
    assert known.classes is not None
    assert known.masks is not None
    maps, boxes = {}, {}
    for label in np.flatnonzero(SETS[position]).tolist():
        own = [coco_mask.decode(m) for m, c in zip(known.masks, known.classes, strict=True)
               if c == label]  # fmt: skip
        values = cv2.resize(np.max(own, 0).astype(np.float32), GRID) + rng.random(GRID) * 1.1
        maps[label] = SaliencyMap.of(
            known.id, label, label, 0.5, values.astype(np.float32), known.size
        )
        near = known.of_class(label) + rng.integers(-12, 13, 4)
        far = np.array([[3, 3, 60, 70]])
        both = np.concatenate([near, far])[rng.permutation(len(near) + 1)]
        scores = np.sort(rng.random(len(both)))[::-1]
        boxes[label] = Boxes(
            known.id, label, both.astype(np.float32), scores.astype(np.float32), known.size
        )
    if position == WITHOUT:
        del maps[label], boxes[label]
    chances = (rng.random(10) * 0.7 + 0.3 * SETS[position]).astype(np.float32)
    return Drawn(maps, boxes, chances)


DRAWN = {n: draw(n) for n in range(len(IDS)) if n != UNREAD}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The results of stages explain and localize."""
    return write_results(tmp_path_factory.mktemp("results"))


def write_results(root: Path, without: frozenset[int] = frozenset()) -> tuple[Path, Path]:
    """Write the results of stages explain and localize; `without`: images that have no map."""
    explained, localized = (root / name for name in ("explain", "localize"))
    explained.mkdir()
    localized.mkdir()
    shown = {n: drawn for n, drawn in DRAWN.items() if n not in without}
    rows = [(n, one) for n, drawn in shown.items() for one in drawn.maps.values()]
    arrays = {
        "image": np.array([*DRAWN], np.int32),
        "size": np.array([TRUTH[IDS[n]].size for n in DRAWN], np.int32),
        "top": np.array([np.argsort(-d.probabilities)[:5] for d in DRAWN.values()], np.int32),
        "top_score": np.array([np.sort(-d.probabilities)[:5] for d in DRAWN.values()], np.float32),
        PROBABILITIES: np.array([drawn.probabilities for drawn in DRAWN.values()]),
        "row_image": np.array([n for n, _ in rows], np.int32),
        "row_size": np.array([one.size for _, one in rows], np.int32),
        "row_class": np.array([one.explained for _, one in rows], np.int32),
        "row_predicted": np.array([one.predicted for _, one in rows], np.int32),
        "row_score": np.array([one.score for _, one in rows], np.float32),
        "row_scale": np.array([one.scale for _, one in rows], np.float32),
        "row_map": np.array([one.values for _, one in rows]),
    }
    write_arrays(shard_path(explained, 0), arrays, set_aside=[[UNREAD, "is broken"]])
    boxes = [(n, one) for n, drawn in shown.items() for one in drawn.boxes.values()]
    write_arrays(shard_path(localized, 0), pack_boxes(boxes, [])[0], set_aside=[])
    return explained, localized


def source(
    folders: tuple[Path, Path],
    missing: Missing = "not_found",
    truth: Mapping[str, GroundTruth] = TRUTH,
    backgrounds: frozenset[int] = frozenset(),
) -> OwnRun:
    settings = EvaluationSettings(
        threshold={"kind": "fixed", "value": 0.2}, classes=DATA.classes, is_multi_label=True
    )
    if backgrounds:
        shown = {id: known for n, (id, known) in enumerate(TRUTH.items()) if n not in backgrounds}
        truth = add_backgrounds(shown, IDS, folders[0], backgrounds)
    explained = Explained(
        ids=IDS, labels=DATA.labels("val").tolist(), scored=frozenset(IDS), truth=truth,
        maps=folders[0], workers=2, missing=missing, classes=DATA.classes,
        label_sets=[() if n in backgrounds else tuple(np.flatnonzero(row).tolist())
                    for n, row in enumerate(SETS)],
        backgrounds=backgrounds,
    )  # fmt: skip
    return OwnRun("cam", explained, folders[1], settings, MapScale("default", ()), True)


def scored(run: OwnRun) -> tuple[Evaluator, list[dict]]:  # type: ignore[type-arg]
    evaluator, records = evaluate(run, load_metrics())
    return evaluator, [*records]


def by_place(scores: list[Score]) -> dict[tuple[str, float | None, str | None], Score]:
    return {
        (s.name, s.iou, s.label): s for s in scores if (s.threshold or {}).get("kind") != "oracle"
    }


@pytest.fixture(scope="module")
def numbers(folders: tuple[Path, Path]) -> dict[tuple[str, float | None, str | None], Score]:
    return by_place(scored(source(folders))[0].scores("cam"))


def pairs() -> Iterator[tuple[int, int, np.ndarray]]:
    """Position, class and true boxes of all pairs that are measured."""
    for position, row in enumerate(SETS):
        for label in np.flatnonzero(row).tolist():
            if position == UNREAD or label in DRAWN[position].maps:
                yield position, label, TRUTH[IDS[position]].of_class(label)


def class_means(values: list[float], labels: list[int]) -> float:
    array, classes = np.array(values, float), np.array(labels)
    return float(np.mean([array[classes == c].mean() for c in np.unique(classes)]))


def test_corloc_is_a_mean_over_classes_of_pairs(numbers: dict) -> None:  # type: ignore[type-arg]
    ious, labels = [], []
    for position, label, true in pairs():
        drawn = DRAWN.get(position)
        ious.append(0.0 if drawn is None else best_iou(drawn.boxes[label].boxes[0], true))
        labels.append(label)
    for iou in (0.3, 0.5, 0.7):
        expected = class_means([fit > iou for fit in ious], labels)
        assert 0 < expected < 1
        assert numbers["corloc", iou, None].value == pytest.approx(expected)
        assert numbers["gt_known_loc", iou, None].value == pytest.approx(
            np.mean([fit >= iou for fit in ious])
        )
        assert numbers["corloc", iou, None].n == len(ious) == SETS.sum() - 1
    star = DATA.classes.index("star")
    own = [fit >= 0.5 for fit, label in zip(ious, labels, strict=True) if label == star]
    assert numbers["gt_known_loc", 0.5, "star"].value == pytest.approx(np.mean(own))


def test_pointing_games_of_all_and_of_difficult_pairs(numbers: dict) -> None:  # type: ignore[type-arg]
    hits, difficult, labels = [], [], []
    for position, label, true in pairs():
        height, width = TRUTH[IDS[position]].size
        hits.append(False)
        if position in DRAWN:
            raw = DRAWN[position].maps[label].raw()
            x, y = peak(upsample(raw, (height, width)), (height, width))
            low, high = true[:, :2] - [x, y], [x, y] - true[:, 2:]
            away = np.hypot(*np.maximum(np.maximum(low, high), 0).T)
            hits[-1] = bool(away.min() <= 15)
        area = ((true[:, 2] - true[:, 0]) * (true[:, 3] - true[:, 1])).sum()
        difficult.append(area < height * width / 4 and SETS[position].sum() > 1)
        labels.append(label)
    assert numbers["pointing_game", None, None].value == pytest.approx(np.mean(hits))
    chosen = [n for n, is_difficult in enumerate(difficult) if is_difficult]
    assert 0 < len(chosen) < len(hits)
    hard = numbers["pointing_game_difficult", None, None]
    assert hard.value == pytest.approx(np.mean([hits[n] for n in chosen]))
    assert hard.n == len(chosen)
    expected = class_means([hits[n] for n in chosen], [labels[n] for n in chosen])
    of_classes = numbers["pointing_game_difficult_classes", None, None]
    assert of_classes.value == pytest.approx(expected)


def test_classification_is_of_images(numbers: dict) -> None:  # type: ignore[type-arg]
    chances = np.array([DRAWN[n].probabilities if n in DRAWN else np.zeros(10) for n in range(24)])
    each = [average_precision_score(SETS[:, c], chances[:, c]) for c in range(10)]
    mean = numbers["classification_ap", None, None]
    assert mean.n == 24
    assert mean.value == pytest.approx(np.mean(each))
    star = DATA.classes.index("star")
    assert numbers["classification_ap", None, "star"].value == pytest.approx(each[star])
    assert not [place for place in numbers if place[0].startswith(("top", "classification_top"))]
    assert not [place for place in numbers if place[0] == "ilsvrc_loc_error"]


def coco_stats(without: frozenset[int] = frozenset()) -> list[float]:
    """Pycocotools' numbers of all boxes; `without`: images that are not annotated."""
    annotations, results = list[dict[str, Any]](), list[dict[str, Any]]()
    for n, id in enumerate(IDS):
        known = TRUTH[id]
        assert known.classes is not None
        assert known.masks is not None
        rows_of = zip(known.boxes.tolist(), known.classes, known.masks, strict=True)
        for box, c, mask in () if n in without else rows_of:
            x0, y0, x1, y1 = box
            annotations.append({"id": len(annotations) + 1, "image_id": n + 1, "iscrowd": 0,
                                "category_id": int(c) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                                "area": float(coco_mask.area(mask))})  # fmt: skip
        for one in DRAWN[n].boxes.values() if n in DRAWN else ():
            rows = zip(one.boxes.tolist(), one.scores.tolist(), strict=True)
            for (x0, y0, x1, y1), score in rows:
                results.append({"image_id": n + 1, "category_id": one.label + 1, "score": score,
                                "bbox": [x0, y0, x1 - x0, y1 - y0]})  # fmt: skip
    whole = COCO()
    whole.dataset = {"info": {}, "annotations": annotations,
                     "images": [{"id": n + 1} for n in range(24)],
                     "categories": [{"id": c + 1} for c in range(10)]}  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        whole.createIndex()
        evaluation = COCOeval(whole, whole.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[1] > 0.1, "or nothing is compared"
    return list(evaluation.stats)


def test_coco_ap_is_that_of_pycocotools_over_all_classes(numbers: dict) -> None:  # type: ignore[type-arg]
    stats = coco_stats()
    assert numbers["coco_box_ap", None, None].value == pytest.approx(stats[0])
    assert numbers["coco_box_ap", 0.5, None].value == pytest.approx(stats[1])
    assert numbers["coco_box_ap", None, None].n == 24
    area = numbers["voc_ap", 0.5, None].value
    assert abs(area - stats[1]) < 0.03, "of other recalls"


@pytest.mark.parametrize("has_maps", [True, False])
def test_boxes_on_images_of_no_class_are_wrong(
    folders: tuple[Path, Path], tmp_path: Path, has_maps: bool
) -> None:
    """They are no pairs, count for the classifier, and in COCO's AP as pycocotools counts them."""
    backgrounds = frozenset({0, 2, 3})
    explained, localized = folders
    if not has_maps:
        explained, localized = write_results(tmp_path, backgrounds)
    run = source((explained, localized), backgrounds=backgrounds)
    evaluator, records = scored(run)
    found = by_place(evaluator.scores("cam"))
    sets = SETS.copy()
    sets[[*backgrounds]] = False
    assert run.total == sets.sum()
    chances = np.array([DRAWN[n].probabilities if n in DRAWN else np.zeros(10) for n in range(24)])
    shown = sets.any(0)
    expected = average_precision_score(sets[:, shown], chances[:, shown])
    assert found["classification_ap", None, None].value == pytest.approx(expected)
    assert found["classification_ap", None, None].n == 24
    assert found["corloc", 0.5, None].n == sets.sum() - 1, "a pair has no map"
    on_them = sum(len(b.boxes) for n in backgrounds for b in DRAWN[n].boxes.values())
    (note,) = [str(note) for note in run.notes(()) if "showing no class" in str(note)]
    assert "3 of 24 images are labelled as showing no class" in note
    for text in ("no annotation", "no box of"):
        assert not any(text in str(each) for each in run.notes(())), text
    assert found["coco_box_ap", None, None].n == 24
    if has_maps:
        assert f"3 of them have {on_them} boxes of predicted classes" in note
        assert found["coco_box_ap", None, None].value == pytest.approx(coco_stats(backgrounds)[0])
    else:
        assert "they have no box" in note
        assert {one["position"] for one in records}.isdisjoint(backgrounds)


def test_boxes_count_for_the_objects_of_their_class_alone(numbers: dict) -> None:  # type: ignore[type-arg]
    matched = found = objects = 0
    for position, label, true in pairs():
        objects += len(true)
        if position not in DRAWN:
            continue
        boxes, free = DRAWN[position].boxes[label].boxes, np.ones(len(true), bool)
        found += len(boxes)
        for row in pairwise_iou(boxes, true):
            fits = np.where(free, row, 0)
            if fits.max() >= 0.5:
                free[fits.argmax()] = False
                matched += 1
    assert numbers["box_recall", 0.5, None].value == pytest.approx(matched / objects)
    assert numbers["box_precision", 0.5, None].value == pytest.approx(matched / found)


def test_records_are_of_pairs_and_notes_say_over_how_many(folders: tuple[Path, Path]) -> None:
    run = source(folders)
    evaluator, records = scored(run)
    count = int(SETS.sum() - SETS[UNREAD].sum()) - 1
    assert [(one["id"], one["class"]) for one in records] == [
        (IDS[n], label) for n, drawn in DRAWN.items() for label in drawn.maps
    ]
    assert len(records) == count
    assert run.total == SETS.sum()
    assert run.unit == "pairs of an image and one of its classes"
    assert len({*evaluator.units.ids}) == len(evaluator.units.ids), "each pair has its own name"
    assert evaluator.units.images.count(IDS[0]) == SETS[0].sum()
    notes = [str(note) for note in run.notes(())]
    assert any("1 of 24 images could not be read" in note for note in notes)
    assert any(f"of {SETS.sum()} has no map of its own class" in note for note in notes), notes
    skipped = by_place(scored(source(folders, "skip"))[0].scores("cam"))
    assert skipped["gt_known_loc", 0.5, None].n == count
    assert skipped["classification_ap", None, None].n == 23


def test_a_class_whose_objects_are_all_difficult_is_not_counted(folders: tuple[Path, Path]) -> None:
    known = TRUTH[IDS[0]]
    absent = int(np.flatnonzero(~SETS[0])[0])
    crowds = Crowds(np.array([[1, 1, 20, 20]], np.float32), np.array([absent]), [None])
    with_crowd = GroundTruth(
        known.id, known.label, known.size, known.boxes, known.classes, crowds=crowds
    )
    run = source(folders, truth={**TRUTH, known.id: with_crowd})
    scores = run.explained.label_scores(0, DRAWN[0].probabilities)
    assert scores.ignored.nonzero()[0].tolist() == [absent]
    assert not scores.present[absent]
    plain = source(folders).explained.label_scores(0, None)
    assert not plain.ignored.any()
    assert not plain.probabilities.any(), "of an image that could not be read"


def test_a_class_in_crowds_alone_is_noted_as_such(folders: tuple[Path, Path]) -> None:
    known, label = TRUTH[IDS[0]], int(np.flatnonzero(SETS[0])[0])
    assert known.classes is not None
    others = known.classes != label
    crowds = Crowds(known.boxes[~others], known.classes[~others], [None] * int((~others).sum()))
    in_crowds = GroundTruth(
        known.id, known.label, known.size, known.boxes[others], known.classes[others], crowds=crowds
    )
    run = source(folders, truth={**TRUTH, known.id: in_crowds})
    scored(run)
    notes = [str(note) for note in run.notes(())]
    assert any("of a class in regions alone" in note for note in notes), notes
    assert not any("no box of its own class" in note for note in notes), "nothing is to correct"


def test_annotations_of_one_class_are_taken_apart() -> None:
    boxes = np.array([[0, 0, 5, 5], [5, 5, 9, 9]], np.float32)
    known = GroundTruth("a", 2, (10, 10), boxes)
    assert take_class(known, 2) is known
    assert take_class(known, 1).of_label().tolist() == []
    several = GroundTruth("a", 2, (10, 10), boxes, np.array([2, 1]))
    assert take_class(several, 1).of_label().tolist() == [boxes[1].tolist()]


def test_a_run_scores_each_class_of_each_image(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mosaics = ("data=mosaics", "data.several_classes=true", "data.size=48")
    assert cli("+experiment=cam", *TINY, *mosaics) == 0
    printed = capsys.readouterr().out
    stages = tmp_path / "outputs/latest/stages"
    records = json.loads((tmp_path / "outputs/latest/metrics.json").read_text())
    overall = {(one["name"], one["iou"]): one for one in records if one["class"] is None}
    assert overall["corloc", 0.3]["n"] == overall["pointing_game", None]["n"] == SETS.sum()
    chances = load_probabilities(stages / "explain")
    assert [*chances] == [*range(24)]
    expected = [average_precision_score(SETS[:, c], [chances[n][c] for n in range(24)])
                for c in range(10)]  # fmt: skip
    assert overall["classification_ap", None]["value"] == pytest.approx(np.mean(expected))
    assert overall["coco_box_ap", 0.5]["n"] == 24
    assert f"percent over {SETS.sum()} pairs of an image and one of its classes" in printed
    assert "classification, mAP, n = 24" in printed
    assert "top-1" not in printed
    images = json.loads((stages / "evaluate/images.json").read_text())
    assert len(images) == SETS.sum()
    by_pair = {(one["id"], one["class"]): one["true"] for one in images}
    for (id, label), true in by_pair.items():
        assert true == TRUTH[id].of_class(label).tolist()
