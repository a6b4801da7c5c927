"""Numbers of our own runs, each against a second computation: COCO, pixels, guesses, protocols."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.__main__ import main
from pipeline.data.shapes import Shapes
from pipeline.metric.coco import CocoBoxes, CocoMasks
from pipeline.metric.coco_records import coco_records
from pipeline.metric.components import THRESHOLDS
from pipeline.metric.max_box_acc import MaxBoxAcc, MaxBoxAccV2
from pipeline.metric.measurement import merge_masks
from pipeline.metric.pxap import PxAP
from pipeline.ops.iou import best_iou
from pipeline.ops.maps import upsample
from pipeline.results.boxes import iterate_boxes
from pipeline.results.maps import iterate_maps, load_classification
from pipeline.results.shards import list_shards
from pipeline.stages.evaluate.explained import Explained
from pipeline.stages.evaluate.maps import MapScale
from pipeline.stages.evaluate.own_run import OwnRun, map_evidence
from pipeline.stages.evaluate.regions import own_masks
from pipeline.types import (
    Boxes,
    Crowds,
    EvaluationSettings,
    Evidence,
    GroundTruth,
    Note,
    Rle,
    SaliencyMap,
    Score,
)
from tests.conftest import TINY, Cli
from tests.metric import reference

RUN = ("+experiment=cam", *TINY, "train.epochs=3")
DATA = Shapes(images=96, val_images=24)
Place = tuple[str, float | None, str | None, str | None]


def metrics(latest: Path) -> dict[Place, dict[str, Any]]:
    """By name, IoU, kind of threshold and class."""
    return {
        (r["name"], r["iou"], (r["threshold"] or {}).get("kind"), r["class"]): r
        for r in json.loads((latest / "metrics.json").read_text())
    }


@pytest.fixture(scope="module")
def latest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that explained the true class and the first five."""
    path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(path)
        how = ("explain.target=[true,top5]", "segmenter.threshold=0.5")
        patched.setattr(sys, "argv", ["pipeline", *RUN, *how])
        main()
    return (path / "outputs/latest").resolve()


def maps_of(latest: Path) -> dict[str, dict[int, SaliencyMap]]:
    """Maps by image and class."""
    found: dict[str, dict[int, SaliencyMap]] = {}
    for shard in list_shards(latest / "stages/explain"):
        for _, one in iterate_maps(shard, DATA.ids("val")):
            found.setdefault(one.id, {})[one.explained] = one
    return found


def rle(mask: np.ndarray) -> Rle:
    packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(packed["size"]), "counts": packed["counts"].decode()}


# -- the ILSVRC error


def test_ilsvrc_error_of_five_guesses(latest: Path) -> None:
    results = json.loads((latest / "boxes.json").read_text())
    best: dict[tuple[int, int], np.ndarray] = {}
    for one in results:
        x, y, width, height = one["bbox"]
        box = np.array([x, y, x + width, y + height])
        best.setdefault((one["image_id"], one["category_id"]), box)
    seen = load_classification(latest / "stages/explain")
    ids, errors = DATA.ids("val"), []
    for position, top in zip(seen.image.tolist(), seen.top.tolist(), strict=True):
        known = DATA.truth("val")[ids[position]]
        right = known.label in top and (
            best_iou(best[position + 1, known.label + 1], known.boxes) >= 0.5
        )
        errors.append(not right)
    score = metrics(latest)["ilsvrc_loc_error", 0.5, "fixed", None]
    assert score["value"] == pytest.approx(np.mean(errors))
    assert score["n"] == 24
    assert score["interval"] is not None
    assert ("ilsvrc_loc_error", 0.5, "fixed", "heart") in metrics(latest)
    top5 = metrics(latest)["top5_loc", 0.5, "fixed", None]["value"]
    assert score["value"] == pytest.approx(1 - top5), "of one segmenter both have the same boxes"
    assert "ILSVRC localization error" in (latest / "stages/evaluate/table.txt").read_text()


@pytest.mark.usefixtures("shared_results")
def test_what_no_map_was_made_for_is_left_out_and_said(cli: Cli, tmp_path: Path) -> None:
    assert cli(*RUN) == 0
    found = metrics(tmp_path / "outputs/latest")
    assert not [place for place in found if place[0] == "ilsvrc_loc_error"]
    assert cli(*RUN, "explain.target=top5") == 0
    found = metrics(tmp_path / "outputs/latest")
    assert found["ilsvrc_loc_error", 0.5, "auto", None]["n"] == 24
    assert found["gt_known_loc", 0.5, "fixed", None]["n"] < 24
    notes = json.loads((tmp_path / "outputs/latest/stages/evaluate/notes.json").read_text())
    assert any("have no map of their own class" in note["text"] for note in notes)


def test_the_table_says_over_how_many_images_the_predicted_class_is_scored(
    cli: Cli, tmp_path: Path
) -> None:
    assert cli(*RUN, "explain.target=predicted") == 0
    latest = tmp_path / "outputs/latest"
    right = round(24 * metrics(latest)["classification_top1", None, None, None]["value"])
    assert 0 < right < 24
    assert metrics(latest)["gt_known_loc", 0.5, "auto", None]["n"] == right
    table = (latest / "stages/evaluate/table.txt").read_text()
    assert f"percent over {right} of 24 images" in table.splitlines()[0]
    assert "classification, top-1, n = 24" in table
    notes = json.loads((latest / "stages/evaluate/notes.json").read_text())
    (note,) = (note for note in notes if "have no map of their own class" in note["text"])
    assert note["count"] == len(note["names"]) == 24 - right


@pytest.mark.parametrize("segmenter", ["threshold", "grabcut"])
def test_an_image_that_cannot_be_read_counts_as_not_found(
    segmenter: str, cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 8 annotated images one is broken: n stays 8, and each number has a miss more."""
    paths = sorted((folder_of_images / "val").glob("*/*.png"))
    images, objects = [], []
    for n, path in enumerate(paths, 1):
        name = path.relative_to(folder_of_images).as_posix()
        images.append({"id": n, "file_name": name, "width": 64, "height": 48})
        polygon = [[1, 1, 63, 1, 63, 47, 1, 47]]
        objects.append({"id": n, "image_id": n, "category_id": 1 + (path.parent.name == "red"),
                        "bbox": [1, 1, 62, 46], "segmentation": polygon, "iscrowd": 0,
                        "area": 62 * 46})  # fmt: skip
    categories = [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}]
    whole = {"images": images, "annotations": objects, "categories": categories}
    (folder_of_images / "instances_val.json").write_text(json.dumps(whole))
    paths[2].write_bytes(b"broken")
    latest = Path("outputs/latest")
    run = ("+experiment=cam", f"data.root={folder_of_images}", "data=folder", "data.size=32",
           "train.epochs=1", "train.batch=8", f"segmenter={segmenter}",
           "segmenter.threshold=0.01", "explain.target=[true,top2]")  # fmt: skip
    assert cli(*run) == 0
    counted, said = metrics(latest), capsys.readouterr().out
    assert "percent over 8 images" in said
    assert "float32 on cpu; label2box " in said
    notes = json.loads((latest / "stages/evaluate/notes.json").read_text())
    assert any("1 of 8 images could not be read (the note of stage" in note["text"]
               for note in notes)  # fmt: skip
    assert cli(*run, "missing=skip") == 0
    skipped = metrics(latest)
    printed = capsys.readouterr().out
    assert "percent over 7 of 8 images" in printed
    assert "1 of 8 images could not be read" in printed
    assert "not scored (missing=skip); missing=not_found counts them" in printed
    names = ("gt_known_loc", "top1_loc", "mean_iou", "max_box_acc_v2", "classification_top1",
             "pointing_game", "energy_pointing_game")  # fmt: skip
    places = [place for place in skipped if place[0] in names and place[3] is None]
    assert {place[0] for place in places} == {*names}
    for place in places:
        assert (counted[place]["n"], skipped[place]["n"]) == (8, 7), place
        assert counted[place]["value"] == pytest.approx(7 / 8 * skipped[place]["value"]), place
        assert counted[place]["precision"] == "float32", place
        assert counted[place]["device"] == "cpu", place
    for name in ("pxap", "box_recall", "coco_box_ap"):
        place = next(place for place in skipped if place[0] == name and place[3] is None)
        assert counted[place]["value"] <= skipped[place]["value"], name
        assert counted[place]["n"] == 8, name
    rows = latest.resolve() / "stages/evaluate/rows.safetensors"
    assert rows.is_file()
    assert cli(*run, f"against={latest.resolve()}") == 0
    assert "1 images were scored in one of" in capsys.readouterr().out


# -- COCO


def unrounded_scores(latest: Path) -> dict[tuple[float, ...], float]:
    """The score of each box by its image, class and place, as stage localize keeps it."""
    names, ids = DATA.coco_names("val"), DATA.ids("val")
    scores = {}
    for position, boxes in iterate_boxes(latest / "stages/localize", ids):
        number, category = names.image_ids[position], names.category_ids[boxes.label]
        for box, score in zip(boxes.boxes.tolist(), boxes.scores.tolist(), strict=True):
            x0, y0, x1, y1 = box
            scores[number, category, x0, y0, x1 - x0, y1 - y0] = score
    return scores


def test_coco_numbers_are_those_of_pycocotools_on_the_files(latest: Path) -> None:
    names, truth = DATA.coco_names("val"), DATA.truth("val")
    images, annotations = [], []
    for number, id in zip(names.image_ids, DATA.ids("val"), strict=True):
        known = truth[id]
        assert known.masks is not None
        images.append({"id": number, "height": known.size[0], "width": known.size[1]})
        for box, mask in zip(known.boxes.tolist(), known.masks, strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "iscrowd": 0,
                "category_id": names.category_ids[known.label],
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "area": float(coco_mask.area(mask)),
            })  # fmt: skip
    whole = COCO()
    whole.dataset = {"info": {}, "images": images, "annotations": annotations,
                     "categories": [{"id": n} for n in names.category_ids]}  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        whole.createIndex()
        results = json.loads((latest / "boxes.json").read_text())
        # The file has five digits of a score, in which two may be equal that are not.
        scores = unrounded_scores(latest)
        for each in results:
            place = (each["image_id"], each["category_id"], *each["bbox"])
            assert each["score"] == pytest.approx(scores[place], abs=1e-5)
            each["score"] = scores[place]
        found = whole.loadRes(results)
        evaluation = COCOeval(whole, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = metrics(latest)
    assert evaluation.stats[1] > 0, "or nothing is compared"
    for name, iou, value in (
        ("ap", None, evaluation.stats[0]), ("ap", 0.5, evaluation.stats[1]),
        ("ap_medium", None, evaluation.stats[4]), ("ap_large", None, evaluation.stats[5]),
        ("ar_1", None, evaluation.stats[6]), ("ar_100", None, evaluation.stats[8]),
    ):  # fmt: skip
        if value > -1:
            score = ours[f"coco_box_{name}", iou, "fixed", None]
            assert score["value"] == pytest.approx(value, abs=1e-9), name
            assert score["n"] == 24
            assert score["interval"] is None
    assert ("coco_box_ap", None, "fixed", "heart") in ours
    assert not [place for place in ours if place[0].startswith("coco_mask")]
    assert "COCO AP, boxes" in (latest / "stages/evaluate/table.txt").read_text()


def half(height: int, width: int, at: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:at] = 1
    return mask


def coco_metrics(*images: tuple[GroundTruth, list[Boxes]]) -> list[CocoBoxes]:
    """COCO's metrics of boxes and of masks, over two classes x and y."""
    threshold = {"kind": "fixed", "value": 0.2}
    settings = EvaluationSettings(classes=["x", "y"], threshold=threshold)
    metrics = [CocoBoxes().with_settings(settings), CocoMasks().with_settings(settings)]
    for number, (known, boxes) in enumerate(images, 1):
        for metric in metrics:
            records = coco_records(number, known, boxes)
            metric.update(Evidence(id=known.id, image=known.id, coco=records))
    return metrics


def coco_scores_of(metrics: list[CocoBoxes]) -> list[Score]:
    return [s for metric in metrics for s in [*metric.compute(), *metric.compute_classes()]]


def test_masks_have_an_ap_where_both_sides_have_masks() -> None:
    true, found = half(40, 60, 20), half(40, 60, 16)  # IoU 0.8
    known = GroundTruth("a", 1, (40, 60), np.array([[0, 0, 60, 20]], np.float32), masks=[rle(true)])
    boxes = Boxes("a", 1, np.array([[0, 0, 60, 16]], np.float32), np.ones(1, np.float32), (40, 60),
                  [rle(found)])  # fmt: skip
    both = coco_metrics((known, [boxes]))
    values = {(s.name, s.iou, s.label): s.value for s in coco_scores_of(both)}
    assert values["coco_mask_ap", None, None] == pytest.approx(0.7)  # at seven of ten IoUs
    assert values["coco_mask_ap", 0.75, "y"] == pytest.approx(1)
    assert values["coco_box_ap", 0.5, "y"] == pytest.approx(1)
    assert ("coco_mask_ap_medium", None, None) in values
    bare = coco_metrics((GroundTruth("a", 1, (40, 60), known.boxes), [boxes]))
    assert {s.name[:8] for s in coco_scores_of(bare)} == {"coco_box"}
    notes = [note for metric in bare for note in metric.notes()]
    assert notes == ["not all annotations have masks: no AP of masks"]
    assert {s.value for s in coco_scores_of(coco_metrics((known, [])))} == {0.0}
    assert coco_scores_of(coco_metrics()) == []


def test_in_a_crowd_nothing_is_wrong() -> None:
    boxes = np.array([[0, 0, 20, 20], [30, 0, 50, 20]], np.float32)
    found = Boxes("a", 0, boxes, np.array([0.5, 0.9], np.float32), (40, 60))
    for crowds, wanted in ((None, 0.5), (Crowds(boxes[1:], None, [None]), 1.0)):
        known = GroundTruth("a", 0, (40, 60), boxes[:1], crowds=crowds)
        metrics = coco_metrics((known, [found]))
        scores = [score for metric in metrics for score in metric.compute()]
        value = {(s.name, s.iou): s.value for s in scores}["coco_box_ap", 0.5]
        assert value == pytest.approx(wanted)


# -- pixels


def test_pixels_are_counted_over_all_images(latest: Path) -> None:
    """PxAP and PxIoU again: pixels of all images in two sorted lists."""
    true, other = [], []
    maps, truth = maps_of(latest), DATA.truth("val")
    for id, known in truth.items():
        assert known.masks is not None
        values = upsample(maps[id][known.label].raw(), known.size).astype(np.float64)
        mask = coco_mask.decode(coco_mask.merge(list(known.masks))) == 1
        true.append(values[mask])
        other.append(values[~mask])
    inside, outside = np.sort(np.concatenate(true)), np.sort(np.concatenate(other))
    thresholds = np.append(THRESHOLDS, 1.0)[::-1]
    tp = len(inside) - np.searchsorted(inside, thresholds)
    fp = len(outside) - np.searchsorted(outside, thresholds)
    precision, recall = tp / np.maximum(tp + fp, 1), tp / len(inside)
    area = (precision * np.diff(recall, prepend=0)).sum()
    iou = tp / (len(inside) + fp)
    ours = metrics(latest)
    score = ours["pxap", None, None, None]
    assert score["value"] == pytest.approx(area, abs=1e-9)
    assert score["n"] == 24
    assert score["interval"][0] < area < score["interval"][1]
    assert ours["pxiou", None, "oracle", None]["value"] == pytest.approx(iou.max(), abs=1e-9)
    fixed = iou[np.flatnonzero(np.isclose(thresholds, 0.5))[0]]
    assert ours["pxiou", None, "fixed", None]["value"] == pytest.approx(fixed, abs=1e-9)
    for label in ("heart", "size: medium", "number: 1 object"):
        assert ("pxap", None, None, label) in ours
    assert ("pyramid_pxap", None, None, None) in ours


def test_pixels_of_a_crowd_count_nowhere() -> None:
    values = np.zeros((40, 60), np.float32)
    values[:20] = 1
    crowd = np.zeros((40, 60), np.uint8)
    crowd[10:30] = 1
    boxes = np.array([[0, 0, 60, 10]], np.float32)

    def score(crowds: Crowds | None, label: int = 0) -> float:
        known = GroundTruth("a", label, (40, 60), boxes, np.array([label]),
                            [rle(half(40, 60, 10))], crowds)  # fmt: skip
        metric = PxAP()
        fields = map_evidence(values, known, MapScale("default", ()))
        metric.update(Evidence(id="a", image="a", label=label, **fields))
        return {s.name: s.value for s in metric.compute()}["pxap"]

    region = np.array([[0, 10, 60, 30]], np.float32)
    assert score(None) == pytest.approx(0.5)
    assert score(Crowds(region, np.array([0]), [rle(crowd)])) == pytest.approx(1)
    assert score(Crowds(region, np.array([0]), [None])) == pytest.approx(1), "its box"
    assert score(Crowds(region, np.array([1]), [rle(crowd)])) == pytest.approx(0.5), "of others"


def test_masks_are_those_of_the_images_own_class() -> None:
    masks = [rle(half(40, 60, 10)), rle(half(40, 60, 20))]
    boxes = np.array([[0, 0, 60, 10], [0, 0, 60, 20]], np.float32)
    known = GroundTruth("a", 1, (40, 60), boxes, np.array([0, 1]), masks)
    assert own_masks(known) == masks[1:]
    assert own_masks(GroundTruth("a", 1, (40, 60), boxes, None, masks)) == masks
    assert own_masks(GroundTruth("a", 1, (40, 60), boxes)) == []
    mask = merge_masks(masks[:1], masks[1:], (20, 30))
    assert mask.tolist() == [[1] * 30] * 5 + [[255] * 30] * 5 + [[0] * 30] * 10


# -- protocols


@reference.needed
def test_the_other_protocol_has_the_reference_counts() -> None:
    """Every count of correct maps at every threshold, from our records."""
    own = reference.answers()["groups"]["cam"]
    single, multi = MaxBoxAcc((0.3, 0.5, 0.7)), MaxBoxAccV2()
    for i in own["index"]:
        boxes = reference.true_boxes(i).astype(np.float32) + np.array([0, 0, 1, 1], np.float32)
        known = GroundTruth(str(i), 0, (224, 224), boxes)
        values = reference.arrays()["maps"][i].astype(np.float64)
        scale = MapScale("wsolevaluation", ())
        found = scale.measure(values, known.of_label(), known.size, known.id)
        single.add(found.curves)
        multi.add(found.curves)
    for metric, name in ((single, "single"), (multi, "multi")):
        for iou, counts in metric.num_correct.items():
            assert counts.tolist() == own[name]["num_correct"][str(round(100 * iou))]


def test_the_other_protocol_measures_maps_in_its_frame(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same maps in files, measured as what others made."""
    theirs = "protocol=wsolevaluation"
    assert cli(*RUN) == 0
    default = metrics(tmp_path / "outputs/latest")
    capsys.readouterr()
    assert cli(*RUN, theirs) == 0
    told = [line.split()[:2] for line in capsys.readouterr().out.split("\n")]
    for stage, what in (("train", "kept"), ("explain", "kept"), ("localize", "kept"),
                        ("calibrate", "made"), ("evaluate", "made")):  # fmt: skip
        assert [stage, what] in told
    latest = (tmp_path / "outputs/latest").resolve()
    own = metrics(latest)
    assert own["gt_known_loc", 0.5, "fixed", None] == default["gt_known_loc", 0.5, "fixed", None], (
        "boxes are measured as they are"
    )
    folder, truth = tmp_path / "maps", DATA.truth("val")
    sizes, boxes, labels = [], [], []
    for id, by_class in maps_of(latest).items():
        known = truth[id]
        path = folder / f"{id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, by_class[known.label].raw())
        sizes.append(f"{id},{known.size[1]},{known.size[0]}")
        labels.append(f"{id},{known.label}")
        boxes += [f"{id},{x0:g},{y0:g},{x1 - 1:g},{y1 - 1:g}"
                  for x0, y0, x1, y1 in known.of_label().tolist()]  # fmt: skip
    for name, lines in (("image_ids", DATA.ids("val")), ("image_sizes", sizes),
                        ("localization", boxes), ("class_labels", labels)):  # fmt: skip
        (folder / f"{name}.txt").write_text("\n".join(lines))
    assert cli("+experiment=evaluate", f"maps={folder}", theirs) == 0
    again = metrics(tmp_path / "outputs/latest")
    for place in (("max_box_acc_v2", None, "oracle", None), ("max_box_acc", 0.5, "oracle", None),
                  ("gt_known_loc", 0.3, "oracle", None), ("pointing_game", None, None, None),
                  ("energy_pointing_game", None, None, None),
                  ("pyramid_max_box_acc_v2", None, "oracle", None)):  # fmt: skip
        assert own[place]["value"] == again[place]["value"], place
        assert own[place]["interval"] == again[place]["interval"], place
    assert own["pxap", None, None, None]["value"] != default["pxap", None, None, None]["value"]


# -- the table


def test_no_row_says_what_another_says(latest: Path) -> None:
    lines = (latest / "stages/evaluate/table.txt").read_text().split("\n")
    titles = [line.split("  ")[0] for line in lines if line]
    assert len(titles) == len(set(titles))
    assert not any(title.startswith("MaxBoxAcc ") for title in titles)
    ours = metrics(latest)
    both = ours["max_box_acc", 0.5, "oracle", None], ours["gt_known_loc", 0.5, "oracle", None]
    assert both[0]["value"] == both[1]["value"]
    for title in ("mean IoU (fixed 0.5)", "box F1, precision/recall (fixed 0.5)", "PxAP"):
        assert title in titles


def own_run(boxes: list[list[float]], given: Sequence[str] = (), **unscored: list[str]) -> OwnRun:
    """Return a source of two images, one annotated with the boxes, which measured nothing yet."""
    known = GroundTruth("a", 0, (30, 40), np.array(boxes, np.float32).reshape(-1, 4))
    ids = ["a", "b"]
    explained = Explained(
        ids=ids, labels=[0, 0], scored=frozenset(ids), truth={"a": known}, maps=Path(), workers=1
    )
    settings = EvaluationSettings(ious=(0.5,), seed=0)
    scale = MapScale("default", settings.cuts)
    return OwnRun("cam", explained, Path(), settings, scale, False, given, **unscored)


def test_images_that_are_not_scored_are_named_with_a_remedy() -> None:
    notes = own_run([[1, 2, 3, 4]], missing=["b"], unexplained=["a"]).notes(())
    assert notes == [
        "evaluate: 1 image ('b') of 2 has no annotation: not scored; annotate them, if they are to "
        "be",
        "evaluate: 1 image ('a') of 2 has no map of its own class: GT-known Loc and what else is "
        "measured on it has no image left; explain.target=[true,...] gives them one",
    ]
    assert [note.names for note in notes if isinstance(note, Note)] == [("b",), ("a",)]


def test_that_no_image_has_a_box_is_said_once() -> None:
    given = ["val.json: holds no box"]
    assert own_run([], given, missing=["b"], of_other_class=["a"]).notes(()) == given
    (note,) = own_run([], missing=["b"], of_other_class=["a"]).notes(())
    assert note.startswith("evaluate: none of the 2 images has an annotated box")
