"""Images that are known to show no class, through all stages: learned and scored so, no box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from pipeline.data.yolo import Yolo
from pipeline.engine.images import SplitImages
from pipeline.formats.arrays import read_arrays
from pipeline.protocols import DataSet
from pipeline.results.boxes import iterate_boxes
from pipeline.results.maps import load_classification, load_probabilities
from pipeline.results.shards import list_shards
from tests.conftest import Cli
from tests.data.yolo_layouts import to_row, write

pytestmark = pytest.mark.usefixtures("shared_results")

COLOURS = ((220, 30, 30), (30, 30, 220))
SIDE, VAL = 48, 16
FAST = ("data=yolo", "data.root=.", "data.several=keep", f"data.size={SIDE}", "model.width=8",
        "train.epochs=4", "train.batch=8", "train.crop=1", "train.lr=0.05",
        "runtime.shard=8", "refine.steps=8", "refine.batch=8",
        "saliency@refine.teacher=cam")  # fmt: skip


def draw_set(root: Path, train: int, classes: int = 2) -> Yolo:
    """Draw images of 0, 1 or 2 squares, of another class each; a third of none."""
    rng = np.random.default_rng(0)
    for n in range(train + VAL):
        part = "train" if n < train else "val"
        pixels, rows = rng.integers(90, 130, (SIDE, 60, 3)).astype(np.uint8), list[str]()
        corners = rng.permutation([(2, 2), (34, 2), (2, 27), (34, 27)])
        shown = () if n % 3 == 0 else (n % classes,) if n % 3 == 1 else range(classes)
        for label, (x, y) in zip(shown, corners, strict=False):
            pixels[y : y + 18, x : x + 20] = COLOURS[label]
            rows.append(to_row(label, (x, y, x + 20, y + 18), (SIDE, 60)))
        path = root / f"images/{part}/{n:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        if rows or n % 2:  # the others of no class have no label file, as YOLO allows
            write(root / f"labels/{part}/{n:02d}.txt", rows)
    names = ["red", "blue"][:classes]
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    return Yolo(str(root), several="keep", size=SIDE)


def overall(tmp_path: Path) -> dict[tuple[str, Any], dict[str, Any]]:
    records = json.loads((tmp_path / "outputs/latest/metrics.json").read_text())
    return {(one["name"], one["iou"]): one for one in records if one["class"] is None}


def list_maps(folder: Path) -> list[tuple[int, int]]:
    """Return position and class of each map."""
    arrays = [read_arrays(shard)[0] for shard in list_shards(folder)]
    rows = [zip(a["row_image"].tolist(), a["row_class"].tolist(), strict=True) for a in arrays]
    return [row for of_shard in rows for row in of_shard]


def test_all_stages(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = draw_set(tmp_path, 30)
    images = SplitImages(cast(DataSet, data), "val")
    empty, sets, ids = images.list_backgrounds(), images.label_sets, images.ids
    assert empty == {n for n, row in enumerate(sets) if not row.any()}
    assert 4 < len(empty) < VAL
    assert not len(data.ids("test"))
    stages = ("stages=[check,train,refine,explain,calibrate,localize,rank,evaluate,picture,draw,"
              "export,annotate,report]")  # fmt: skip
    assert cli("+experiment=best", *FAST, stages, "export.formats=[coco,yolo,csv]") == 0
    latest, printed = tmp_path / "outputs/latest", capsys.readouterr().out
    run, notes = latest / "stages", (latest / "notes.json").read_text()
    assert "with an empty label file: they show no class" in printed
    assert "without a label file (labels/ beside images/): taken to show no class" in printed
    assert f"of {VAL} labelled as showing no class: no map, no box" in printed
    assert f"{len(empty)} of {VAL} images are labelled as showing no class" in notes

    # maps and boxes are those of the labels alone; the classifier saw all images
    assert {*list_maps(run / "explain")} == {tuple(pair) for pair in np.argwhere(sets).tolist()}
    assert sorted(load_classification(run / "explain").image.tolist()) == [*range(VAL)]
    assert {n for n, _ in iterate_boxes(run / "localize", ids)}.isdisjoint(empty)

    # pseudo-labels are of the images that show a class
    (pseudo,) = (tmp_path / "outputs/pseudo_labels").iterdir()
    taught = np.concatenate([read_arrays(shard)[0]["image"] for shard in list_shards(pseudo)])
    assert not SplitImages(cast(DataSet, data), "train").backgrounds[taught].any()

    # numbers: mAP over all images, CorLoc over pairs alone
    numbers, chances = overall(tmp_path), load_probabilities(run / "explain")
    expected = [average_precision_score(sets[:, c], [chances[n][c] for n in range(VAL)])
                for c in range(2)]  # fmt: skip
    assert numbers["classification_ap", None]["value"] == pytest.approx(np.mean(expected))
    assert numbers["classification_ap", None]["n"] == VAL
    assert numbers["corloc", 0.5]["n"] == sets.sum()
    assert numbers["coco_box_ap", 0.5]["n"] == VAL

    # files: the image is there, and nothing on it; a person reviews it last
    coco = json.loads((latest / "predictions.json").read_text())
    assert len(coco["images"]) == VAL
    of_image = {each["id"]: each for each in coco["images"]}
    boxed = {of_image[each["image_id"]]["file_name"] for each in coco["annotations"]}
    assert boxed.isdisjoint(ids[n] for n in empty)
    last = sorted(coco["images"], key=lambda each: each["review_rank"])[-len(empty) :]
    assert {each["file_name"] for each in last} == {ids[n] for n in empty}
    assert not any(each.get("review_sample") for each in last)
    for n in empty:
        files = [*(latest / "exported/yolo/labels").rglob(f"*{Path(ids[n]).stem}*.txt")]
        assert [path.read_text() for path in files] == [""], ids[n]


def test_boxes_of_classes_that_are_asked_for_are_counted(cli: Cli, tmp_path: Path) -> None:
    """Where classes are named there are maps of them; images of none count where these did not."""
    data = draw_set(tmp_path, 15)
    empty = SplitImages(cast(DataSet, data), "val").list_backgrounds()
    given = (*FAST[:-3], "train.epochs=1", "explain.target=[true,red]", "stages=[train,explain,"
             "localize,evaluate]")  # fmt: skip
    assert cli("+experiment=cam", *given) == 0
    notes = (tmp_path / "outputs/latest/notes.json").read_text()
    assert f"of {VAL} labelled as showing no class: maps and boxes of red alone" in notes
    assert f"{len(empty)} of them have" in notes
    assert "which COCO's AP and VOC's AP count as wrong" in notes
    arrays = [
        a for a, _ in map(read_arrays, list_shards(tmp_path / "outputs/latest/stages/explain"))
    ]
    rows = [(n, c) for a in arrays for n, c in zip(a["row_image"], a["row_class"], strict=True)]
    assert sorted(row for row in rows if row[0] in empty) == sorted((n, 0) for n in empty)
    before = overall(tmp_path)
    for n in empty:
        (tmp_path / data.ids("val")[n]).unlink()
    assert cli("+experiment=cam", *given) == 0
    after = overall(tmp_path)
    assert before["coco_box_ap", 0.5]["n"] == VAL == after["coco_box_ap", 0.5]["n"] + len(empty)
    assert before["corloc", 0.5] == after["corloc", 0.5]
    assert before["classification_ap", None]["value"] <= after["classification_ap", None]["value"]


def test_maps_are_audited_and_compared_of_the_images_that_show_a_class(
    cli: Cli, tmp_path: Path
) -> None:
    data = draw_set(tmp_path, 15)
    images = SplitImages(cast(DataSet, data), "val")
    empty, pairs = images.list_backgrounds(), int(images.label_sets.sum())
    given = (*FAST[:-3], "train.epochs=1", "explain.methods=[cam,gradcam]", "audit.images=8",
             "audit.tests=[faithfulness]", "audit.steps=3",
             "stages=[train,explain,localize,evaluate,compare,audit,onnx]")  # fmt: skip
    assert cli("+experiment=cam", *given) == 0
    latest = tmp_path / "outputs/latest"
    folder = next(iter(sorted((latest / "stages").glob("audit*"))))
    audited = {one["id"] for one in json.loads((folder / "images.json").read_text())}
    assert len(audited) == 8
    assert audited.isdisjoint(images.ids[n] for n in empty)
    notes = (latest / "notes.json").read_text()
    assert f"of {VAL} labelled as showing no class: not tested" in notes
    (comparison,) = json.loads((latest / "comparison.json").read_text())
    assert {each["record"]["n"] for each in comparison["differences"]} == {pairs}
    exported = json.loads((latest / "onnx.json").read_text())
    assert max(exported["difference_to_pytorch"].values()) < 1e-4


def test_one_class_is_told_from_images_of_none(cli: Cli, tmp_path: Path) -> None:
    data = draw_set(tmp_path, 24, classes=1)
    assert data.classes == ("red",)
    stages = "stages=[check,train,explain,localize,evaluate]"
    given = (*FAST[:-3], stages, "check.stop=true", "train.balanced=true")
    assert cli("+experiment=cam", *given) == 0
    number = overall(tmp_path)["classification_ap", None]
    assert number["n"] == VAL
    assert number["value"] > 0.9
