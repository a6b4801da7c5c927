"""The threshold is chosen on boxes that are never scored, and says which they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.shapes import Shapes
from pipeline.metric.components import THRESHOLDS
from pipeline.metric.max_box_acc import map_curves
from pipeline.ops.maps import frame_size, upsample
from pipeline.results.boxes import iterate_boxes
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.results.thresholds import MIN_BOXED_IMAGES, fold_of_image, load_thresholds
from pipeline.segmenter.grabcut import GrabCut
from pipeline.stages.calibrate.calibration import choose_thresholds
from tests.conftest import TINY, Cli


def peaked(at: float) -> np.ndarray:
    """An IoU curve that reaches 0.6 within 0.05 of a threshold, and 0 elsewhere."""
    return np.where(np.abs(THRESHOLDS - at) < 0.05, 0.6, 0.0)


def test_one_threshold_for_all_where_others_chose_it() -> None:
    found = choose_thresholds({str(n): peaked(0.4) for n in range(20)}, [0.5, 0.7], "held_back")
    assert found["source"] == "held_back"
    assert found["thresholds"]["0.5"] == [pytest.approx(0.4, abs=0.002)]
    assert found["images"] == []


def test_each_half_is_cut_at_the_others_threshold() -> None:
    ids = [f"image{n}" for n in range(40)]
    folds = {id: fold_of_image(id) for id in ids}
    assert set(folds.values()) == {0, 1}
    curves = {id: peaked(0.3 if fold == 0 else 0.6) for id, fold in folds.items()}
    found = choose_thresholds(curves, [0.5], "two_fold")
    assert found["thresholds"]["0.5"] == [pytest.approx(0.6, abs=0.002),
                                          pytest.approx(0.3, abs=0.002)]  # fmt: skip


def test_too_few_boxes_give_no_threshold() -> None:
    few = {str(n): peaked(0.4) for n in range(MIN_BOXED_IMAGES - 1)}
    assert choose_thresholds(few, [0.5], "two_fold")["source"] is None


def records(tmp_path: Path) -> dict[tuple[str, float | None, str | None], dict[str, Any]]:
    found = json.loads((tmp_path / "outputs/latest/metrics.json").read_text())
    return {(r["name"], r["iou"], (r["threshold"] or {}).get("kind")): r
            for r in found if r["class"] is None}  # fmt: skip


def test_held_back_boxes_choose_and_val_is_scored(cli: Cli, tmp_path: Path) -> None:
    assert cli("+experiment=cam", *TINY, "data.images=240") == 0
    found = records(tmp_path)["gt_known_loc", 0.5, "validation"]
    assert found["threshold"]["source"] == "held_back"
    assert found["n"] == 24
    assert found["value"] <= records(tmp_path)["gt_known_loc", 0.5, "oracle"]["value"]
    assert 0 <= found["threshold"]["value"] < 1


def test_what_the_segmenter_makes_of_the_maps_has_thresholds_of_its_own(
    cli: Cli, tmp_path: Path
) -> None:
    arguments = ("+experiment=cam", *TINY, "data.images=240", "segmenter=grabcut",
                 "evaluate.ious=[0.5]", "segmenter.threshold=validation")  # fmt: skip
    scored = "stages=[train,explain,calibrate,localize,evaluate]"
    assert cli(*arguments, scored) == 0
    latest = (tmp_path / "outputs/latest").resolve()
    picked = load_thresholds(latest / "stages/calibrate")
    assert picked["refined"]["thresholds"] != picked["thresholds"]

    # Anew, from the maps of the held-back images and the images themselves.
    data, found = Shapes(images=240, val_images=24), {}
    ids, truth = data.ids("held_back"), data.truth("held_back")
    main = (latest / "stages/explain").resolve()
    (maps,) = (one for one in (tmp_path / "outputs/explain").iterdir() if one != main)
    for shard in list_shards(maps):
        for position, saliency in iterate_maps(shard, ids):
            example = data.example(
                "held_back", position, at=frame_size(saliency.size, GrabCut().longer_side)
            )
            refined, _ = GrabCut().refined(saliency, example)
            true = truth[saliency.id].of_label()
            scaled = upsample(refined, frame_size(saliency.size))
            found[saliency.id] = map_curves(scaled, true, saliency.size).largest
    assert picked["refined"] == choose_thresholds(found, [0.5], "held_back")

    # It is what the boxes are cut at, and what metrics.json says of them.
    (value,) = picked["refined"]["thresholds"]["0.5"]
    told = records(tmp_path)["gt_known_loc", 0.5, "validation"]["threshold"]
    assert told == {"kind": "validation", "value": value, "source": "held_back"}
    val = data.ids("val")
    cut = dict(iterate_boxes(latest / "stages/localize", val))
    for shard in list_shards(main):
        for position, saliency in iterate_maps(shard, val):
            example = data.example(
                "val", position, at=frame_size(saliency.size, GrabCut().longer_side)
            )
            again = GrabCut(threshold=value)(saliency, example)
            np.testing.assert_array_equal(cut[position].boxes, again.boxes)

    # Another threshold has no part in it, but in the boxes that confidences are fitted on.
    assert cli(*arguments[:-1], "segmenter.threshold=0.3", scored) == 0
    other = load_thresholds((tmp_path / "outputs/latest").resolve() / "stages/calibrate")
    assert other == picked
    assert len(list((tmp_path / "outputs/calibrate").iterdir())) == 2
    every = json.loads((tmp_path / "outputs/latest/metrics.json").read_text())
    beside = [r for r in every if (r["name"], r["iou"], r["method"])
              == ("gt_known_loc", 0.5, "cam+grabcut") and r["class"] is None]  # fmt: skip
    assert {r["threshold"]["kind"]: r["threshold"]["value"] for r in beside} == {
        "auto": None, "validation": value,
        "oracle": next(r["threshold"]["value"] for r in beside if "oracle" in str(r)),
    }  # fmt: skip
    alone = "stages=[train,explain,calibrate]"
    assert cli(*arguments, "segmenter.map_share=0.2", alone) == 0
    assert len(list((tmp_path / "outputs/calibrate").iterdir())) == 3


def annotated(root: Path, split: str, file: Path) -> Path:
    """Boxes around the coloured squares of a split."""
    images, annotations = [], []
    for n, path in enumerate(sorted((root / split).rglob("*.png")), 1):
        image = np.asarray(Image.open(path)).astype(int)
        ys, xs = np.nonzero(np.abs(image - image.mean(2, keepdims=True)).max(2) > 60)
        images.append({"id": n, "file_name": str(path.relative_to(root)),
                       "width": 64, "height": 48})  # fmt: skip
        annotations.append({"id": n, "image_id": n, "category_id": 1, "iscrowd": 0,
                            "bbox": [int(xs.min()), int(ys.min()), 24, 24]})  # fmt: skip
    whole = {"images": images, "annotations": annotations,
             "categories": [{"id": 1, "name": "object"}]}  # fmt: skip
    file.write_text(json.dumps(whole))
    return file


@pytest.fixture
def drawn(folder_of_images: Path) -> Path:
    """Boxes on the train images, as a user would draw them."""
    return annotated(folder_of_images, "train", folder_of_images.parent / "my.json")


def test_a_split_for_it_chooses_and_is_neither_learned_from_nor_scored(
    cli: Cli, folder_of_images: Path, tmp_path: Path
) -> None:
    root = folder_of_images
    for name in ("red", "blue"):
        (root / "valid" / name).mkdir(parents=True)
        for n in range(8):
            (root / f"train/{name}/{n}.png").rename(root / f"valid/{name}/{n}.png")
    annotated(root, "valid", root / "instances_valid.json")
    annotated(root, "val", root / "instances_val.json")
    arguments = ("+experiment=cam", "data=folder", f"data.root={root}", "data.size=64",
                 "train.epochs=1", "train.batch=4")  # fmt: skip
    assert cli(*arguments, "data.calibration=valid") == 0
    found = records(tmp_path)["gt_known_loc", 0.5, "validation"]
    assert found["threshold"]["source"] == "split"
    assert found["n"] == 8
    (folder,) = (tmp_path / "outputs/calibrate").iterdir()
    assert load_thresholds(folder)["n"] == 16
    boxes = json.loads((tmp_path / "outputs/latest/boxes.json").read_text())
    assert len({one["image_id"] for one in boxes}) == 8
    # Boxes that the user drew come first.
    mine = annotated(root, "valid", tmp_path / "my.json")
    assert cli(*arguments, "data.calibration=valid", f"calibrate.boxes={mine}") == 0
    assert records(tmp_path)["gt_known_loc", 0.5, "validation"]["threshold"]["source"] == "user"


def test_a_few_drawn_boxes_choose_and_say_what_to_expect(
    cli: Cli, folder_of_images: Path, drawn: Path, tmp_path: Path
) -> None:
    arguments = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=64",
                 "train.epochs=1", "train.batch=8", f"calibrate.boxes={drawn}")  # fmt: skip
    whole = json.loads(drawn.read_text())
    whole["annotations"].append({**whole["annotations"][0], "id": 99, "bbox": [1, 1, 0, 0]})
    drawn.write_text(json.dumps(whole))
    assert cli(*arguments) == 0
    (folder,) = (tmp_path / "outputs/calibrate").iterdir()
    note, _ = json.loads((folder / "notes.json").read_text())
    assert note["text"].startswith(
        "my.json: 1 annotation ('annotations[24] (id 99)') whose bbox is empty"
    )
    found = load_thresholds(folder)
    assert found["source"] == "user"
    assert found["n"] == len(found["images"]) == 24
    low, high = found["expected"]["0.5"]["interval"]
    assert 0 <= low <= found["expected"]["0.5"]["value"] <= high <= 1


def test_drawn_boxes_that_cannot_be_used_are_refused_at_start(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}")
    assert cli(*root, "calibrate.boxes=/nowhere.json") == 2
    assert "/nowhere.json" in capsys.readouterr().err
    assert cli("+experiment=cam", *TINY, "calibrate.boxes=/nowhere.json") == 2
    assert "data=folder" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_images_with_drawn_boxes_are_not_those_without_annotation(
    cli: Cli, folder_of_images: Path, drawn: Path, tmp_path: Path
) -> None:
    root = folder_of_images
    of_val = json.loads(annotated(root, "val", root / "instances_val.json").read_text())
    arguments = ("+experiment=cam", "data=folder", f"data.root={root}", "data.size=64",
                 "train.epochs=1", "train.batch=8", f"calibrate.boxes={drawn}")  # fmt: skip

    def scored_notes() -> dict[str, int]:
        notes = json.loads((tmp_path / "outputs/latest/notes.json").read_text())
        return {n["text"]: n["count"] for n in notes if n["text"].startswith("evaluate:")}

    def draw(count: int) -> None:
        """Draw boxes on some images of val besides those of train."""
        whole = json.loads(drawn.read_text())
        for name in ("images", "annotations"):
            more = [{**one, "id": 100 + one["id"]} for one in of_val[name][:count]]
            whole[name] = [one for one in whole[name] if one["id"] < 100] + [
                {**one, "image_id": 100 + one["image_id"]} if "image_id" in one else one
                for one in more
            ]
        drawn.write_text(json.dumps(whole))

    assert cli(*arguments) == 0
    assert scored_notes() == {}
    draw(3)
    assert cli(*arguments) == 0
    (note,) = scored_notes().items()
    assert note[0].startswith("evaluate: 3 images ('val/blue/0.png', 'val/blue/1.png', ")
    assert "of 8 have boxes that the threshold was chosen on (calibrate.boxes)" in note[0]
    assert note[1] == 3
    assert records(tmp_path)["gt_known_loc", 0.5, "validation"]["n"] == 5
    draw(8)
    assert cli(*arguments) == 0
    (note,) = scored_notes().items()
    assert note[1] == 8
