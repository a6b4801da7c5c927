"""The threshold is chosen on boxes that are never scored, and says which they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from pipeline.results.expectation import describe_expected, expected_records
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.results.thresholds import MIN_BOXED_IMAGES, fold_of_image, load_thresholds
from pipeline.segmenter.auto import auto_threshold
from pipeline.segmenter.grabcut import GrabCut
from pipeline.stages.calibrate.calibration import MeasuredImage, choose_thresholds
from tests.conftest import TINY, Cli

pytestmark = pytest.mark.usefixtures("shared_results")


def peaked(at: float) -> np.ndarray:
    """An IoU curve that reaches 0.6 within 0.05 of a threshold, and 0 elsewhere."""
    return np.where(np.abs(THRESHOLDS - at) < 0.05, 0.6, 0.0)


def measured(curves: Mapping[str, np.ndarray], auto: float = 0.4) -> dict[str, MeasuredImage]:
    """Images with these IoU curves, whose maps the rule without boxes cuts at `auto`."""
    return {id: MeasuredImage(curve, auto) for id, curve in curves.items()}


def test_one_threshold_for_all_where_others_chose_it() -> None:
    found = choose_thresholds(
        measured({str(n): peaked(0.4) for n in range(20)}), [0.5, 0.7], "held_back"
    )
    assert found["source"] == "held_back"
    assert found["thresholds"]["0.5"] == [pytest.approx(0.4, abs=0.002)]
    assert found["images"] == []


def test_each_half_is_cut_at_the_others_threshold() -> None:
    ids = [f"image{n}" for n in range(40)]
    folds = {id: fold_of_image(id) for id in ids}
    assert set(folds.values()) == {0, 1}
    curves = {id: peaked(0.3 if fold == 0 else 0.6) for id, fold in folds.items()}
    found = choose_thresholds(measured(curves), [0.5], "two_fold")
    assert found["thresholds"]["0.5"] == [pytest.approx(0.6, abs=0.005),
                                          pytest.approx(0.3, abs=0.005)]  # fmt: skip


def test_too_few_boxes_give_no_threshold() -> None:
    few = {str(n): peaked(0.4) for n in range(MIN_BOXED_IMAGES - 1)}
    assert choose_thresholds(measured(few), [0.5], "two_fold")["source"] is None


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
    assert picked["refined"]["expected"] != picked["expected"]

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
            curve = map_curves(scaled, true, saliency.size).largest
            found[saliency.id] = MeasuredImage(curve, auto_threshold(scaled))
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
    for chosen in (other, picked):
        chosen.pop("delivered", None)  # of boxes that are cut at other thresholds
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
    cli: Cli,
    folder_of_images: Path,
    drawn: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=64",
                 "train.epochs=1", "train.batch=8", f"calibrate.boxes={drawn}")  # fmt: skip
    whole = json.loads(drawn.read_text())
    whole["annotations"].append({**whole["annotations"][0], "id": 99, "bbox": [1, 1, 0, 0]})
    drawn.write_text(json.dumps(whole))
    assert cli(*arguments) == 0
    (folder,) = (tmp_path / "outputs/calibrate").iterdir()
    note, _ = json.loads((folder / "notes.json").read_text())
    assert note["text"].startswith("my.json: 1 annotation ('annotations[24] (id 99): image_id ")
    assert "whose bbox is empty" in note["text"]
    found = load_thresholds(folder)
    assert found["source"] == "user"
    assert found["n"] == len(found["images"]) == 24
    expected = found["expected"]["0.5"]
    low, high = expected["interval"]
    assert 0 <= low <= expected["value"] <= high <= 1
    assert (expected["n"], expected["sample"]) == (24, "all")

    # On the terminal, in metrics.json and in the report.
    (line,) = [line for line in capsys.readouterr().out.split("\n") if "expected" in line]
    sentence = describe_expected(expected_records(found, "cam"), found["delivered"])
    assert line == f"calibrate: {sentence}"
    assert f"{100 * expected['value']:.1f} % at IoU 0.5 (95 %: {100 * low:.1f} to " in line
    assert line.endswith("cross-fitted on 24 images with boxes")
    # The boxes are cut at each map's own threshold: their accuracy is said first.
    delivered = found["delivered"]
    assert (delivered["n"], delivered["threshold"]["kind"]) == (24, "auto")
    assert "calibrate: expected of other images at segmenter.threshold=auto, as in this" in line
    assert f"as {delivered['right']} of 24 are in images with boxes of a person. At segm" in line
    record = records(tmp_path)["expected_loc", 0.5, "validation"]
    assert {key: record[key] for key in ("value", "interval", "n", "sample", "method")} == {
        **expected, "method": "cam",
    }  # fmt: skip
    value = found["elsewhere"]["0.5"]
    assert record["threshold"] == {"kind": "validation", "value": value, "source": "user"}
    assert str(sentence) in (tmp_path / "outputs/latest/report/index.html").read_text()

    # Photos without labels: nothing is scored, and the same is expected of them.
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes((folder_of_images / "val/red/0.png").read_bytes())
    predict = ("+experiment=predict", "checkpoint=outputs/latest", f"images={photos}")
    assert cli(*predict, "saliency=cam", "segmenter.threshold=validation") == 0
    assert f"calibrate: {sentence}" in capsys.readouterr().out
    sentence = describe_expected(expected_records(found, "cam"))  # now of the boxes themselves
    assert json.loads((tmp_path / "outputs/latest/stages/evaluate/table.json").read_text())[
        "expected"] == sentence  # fmt: skip
    (again,) = [r for key, r in records(tmp_path).items() if key[:2] == ("expected_loc", 0.5)]
    assert again["value"] == record["value"]
    assert again["threshold"]["source"] == "checkpoint"
    assert str(sentence) in (tmp_path / "outputs/latest/report/index.html").read_text()


def test_boxes_with_a_score_choose_nothing_until_somebody_reviewed_them(
    cli: Cli, folder_of_images: Path, drawn: Path, tmp_path: Path
) -> None:
    arguments = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=64",
                 "train.epochs=1", "train.batch=8", f"calibrate.boxes={drawn}")  # fmt: skip
    whole = json.loads(drawn.read_text())
    for annotation in whole["annotations"][:6]:
        annotation["score"] = 0.5
    whole["annotations"][4]["reviewed"] = True
    whole["images"][5]["reviewed"] = True
    whole["info"] = {"chosen_by": "doubt"}
    drawn.write_text(json.dumps(whole))
    assert cli(*arguments) == 0
    latest = tmp_path / "outputs/latest"
    chosen = load_thresholds(latest / "stages/calibrate")
    assert chosen["n"] == 20
    (note, _) = [n for n in json.loads((latest / "notes.json").read_text())
                 if n["stage"] == "calibrate"]  # fmt: skip
    assert note["count"] == 4
    assert note["text"].startswith("my.json: 4 annotations ('annotations[0]', 'annotations[1]', ")
    assert 'set "reviewed": true on their images' in note["text"]
    assert records(tmp_path)["expected_loc", 0.5, "validation"]["sample"] == "doubt"
    assert (
        "not the accuracy to expect of the whole set" in (latest / "report/index.html").read_text()
    )


def test_boxes_that_we_wrote_choose_nothing_where_the_score_is_gone(
    cli: Cli, folder_of_images: Path, drawn: Path, tmp_path: Path
) -> None:
    root = folder_of_images
    for path in (root / "train/red").iterdir():  # large enough that boxes have digits
        with Image.open(path) as image:
            image.resize((64 * 11 + 3, 48 * 11 + 2)).save(path)
    arguments = ("+experiment=cam", "data=folder", f"data.root={root}", "data.size=64",
                 "train.epochs=1", "train.batch=8")  # fmt: skip
    assert cli(*arguments, "explain.split=train") == 0
    latest = tmp_path / "outputs/latest"
    predictions = json.loads((latest / "predictions.json").read_text())
    sizes = {image["id"]: image for image in predictions["images"]}
    ours = {sizes[box["image_id"]]["file_name"]: box["bbox"] for box in predictions["annotations"]}
    whole = json.loads(drawn.read_text())
    names = [image["file_name"] for image in whole["images"]]
    large = [n for n, name in enumerate(names) if name.startswith("train/red/")]
    for n in large:
        whole["images"][n].update(width=64 * 11 + 3, height=48 * 11 + 2)
        scaled = [11 * value for value in whole["annotations"][n]["bbox"]]
        whole["annotations"][n]["bbox"] = ours.get(names[n], scaled)
    copied = [n for n in large if names[n] in ours]
    whole["images"][copied[0]]["reviewed"] = True
    drawn.write_text(json.dumps(whole))
    assert cli(*arguments, f"calibrate.boxes={drawn}") == 0
    written = [n for n in copied[1:] if any(v != round(v) for v in ours[names[n]])]
    assert written
    assert load_thresholds(latest / "stages/calibrate")["n"] == 24 - len(written)
    notes = {n["text"]: n for n in json.loads((latest / "notes.json").read_text())}
    (text,) = [text for text in notes if "equals, to the last digit" in text]
    assert notes[text]["names"] == sorted(names[n] for n in written)


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
    assert "of 8 have boxes of a person that the threshold was chosen on (calibrate.b" in note[0]
    assert note[1] == 3
    assert records(tmp_path)["gt_known_loc", 0.5, "validation"]["n"] == 5
    draw(8)
    assert cli(*arguments) == 0
    (note,) = scored_notes().items()
    assert note[1] == 8
