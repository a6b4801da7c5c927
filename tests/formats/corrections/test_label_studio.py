"""Exports of Label Studio: what a person submitted, in JSON and JSON-MIN, and odd records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from pipeline.exporter.label_studio import LabelStudio
from pipeline.formats.corrections import read_corrections
from pipeline.formats.label_studio_brush import encode_brush
from pipeline.ops.rle import encode_rle
from pipeline.types import CorrectedImage, CorrectionFile
from tests.exporter.subjects import HUMAN, IDS, found_boxes, image_source, write_images
from tests.formats.corrections.roundtrip import by_name, check_boxes_came_back, check_image, count

HEIGHT, WIDTH = 200, 400


def region(kind: str = "rectanglelabels", label: str = "cat", **value: Any) -> dict[str, Any]:
    value = value or {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}
    return {
        "id": "r", "type": kind, "original_width": WIDTH, "original_height": HEIGHT,
        "value": {**value, kind: [label]},
    }  # fmt: skip


def task(*results: list[Any], **fields: Any) -> dict[str, Any]:
    """Return a task with annotations, the later the newer."""
    annotations = [
        {"id": n, "result": result, "was_cancelled": False, "completed_by": 7,
         "updated_at": f"2026-01-{10 + n}T00:00:00Z"}
        for n, result in enumerate(results)
    ]  # fmt: skip
    return {"id": 1, "data": {"image": "/data/upload/1/1a2b3c4d-a.png"},
            "annotations": annotations, "predictions": [], **fields}  # fmt: skip


def read(tmp_path: Path, *tasks: Any) -> CorrectionFile:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return read_corrections(path)


def read_one(tmp_path: Path, *tasks: Any) -> CorrectedImage:
    (image,) = read(tmp_path, *tasks).images
    return image


def export(tmp_path: Path, masks: bool, outlines: str) -> list[dict[str, Any]]:
    write_images(tmp_path / "images")
    found = found_boxes(masks=masks, source=image_source(tmp_path / "images"))
    LabelStudio(outlines=outlines)(found, tmp_path)
    content: list[dict[str, Any]] = json.loads((tmp_path / "tasks.json").read_text("utf-8"))
    return content


@pytest.mark.parametrize("outlines", ["rle", "polygon"])
@pytest.mark.parametrize("masks", [False, True])
def test_what_was_exported_comes_back(masks: bool, outlines: str, tmp_path: Path) -> None:
    tasks = export(tmp_path, masks, outlines)
    check_boxes_came_back(read(tmp_path, *tasks), masks)


@pytest.mark.parametrize("masks", [False, True])
def test_an_accepted_prediction_is_reviewed_and_the_same(masks: bool, tmp_path: Path) -> None:
    tasks = export(tmp_path, masks, "rle")
    (prediction,) = tasks[0]["predictions"]
    tasks[0]["annotations"] = [{"result": prediction["result"], "was_cancelled": False}]
    image = by_name(read(tmp_path, *tasks))[IDS[0]]
    check_image(image, 0, masks)
    assert image.is_reviewed
    assert set(image.are_predictions) == {False}


def to_min(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return what Label Studio writes of a task as JSON-MIN: values alone, by control."""
    if not record.get("annotations"):
        return None
    values: dict[str, Any] = {}
    for each in record["annotations"][0]["result"]:
        size = {key: each[key] for key in ("original_width", "original_height")}
        values.setdefault(each["from_name"], []).append({**each["value"], **size})
    return {**record["data"], "id": 5, **values, "annotator": 1, "annotation_id": 3,
            "updated_at": "2026-01-01T00:00:00Z"}  # fmt: skip


@pytest.mark.parametrize("outlines", ["rle", "polygon"])
@pytest.mark.parametrize("masks", [False, True])
def test_json_min_gives_the_same_boxes(masks: bool, outlines: str, tmp_path: Path) -> None:
    records = [to_min(record) for record in export(tmp_path, masks, outlines)]
    file = read(tmp_path, *filter(None, records))
    (image,) = file.images
    check_image(image, HUMAN, masks)
    assert (image.name, image.is_reviewed, image.author) == (IDS[HUMAN], True, "1")
    assert file.notes == []


def test_the_newest_annotation_that_was_not_cancelled_counts(tmp_path: Path) -> None:
    moved = region(x=50, y=20, width=30, height=40)
    record = task([region()], [moved], [region("rectanglelabels", "dog")])
    record["annotations"][2]["was_cancelled"] = True
    image = read_one(tmp_path, record)
    assert image.boxes.tolist() == [[200, 40, 320, 120]]
    assert (image.date, image.author, image.is_reviewed) == ("2026-01-11T00:00:00Z", "7", True)
    assert image.name == "/data/upload/1/1a2b3c4d-a.png"


def test_predictions_are_no_truth(tmp_path: Path) -> None:
    record = task(predictions=[{"result": [region()], "score": 0.5}])
    image = read_one(tmp_path, record)
    assert (image.is_reviewed, image.are_predictions) == (False, [True])
    record["annotations"] = [{"result": [], "was_cancelled": True}]
    assert not read_one(tmp_path, record).is_reviewed
    assert len(read_one(tmp_path, task(predictions=[6])).boxes) == 0  # exports name them by id


def test_an_empty_submission_says_that_there_is_no_object(tmp_path: Path) -> None:
    image = read_one(tmp_path, task([]))
    assert (image.is_reviewed, len(image.boxes)) == (True, 0)


def test_turned_rectangles_and_ellipses_become_tight_boxes(tmp_path: Path) -> None:
    turned = region(x=50, y=50, width=10, height=10, rotation=90)  # about its upper left corner
    image = read_one(tmp_path, task([turned]))
    assert image.boxes.round(3).tolist() == [[180, 100, 200, 140]]
    ellipse = region("ellipselabels", x=50, y=50, radiusX=10, radiusY=10, rotation=0)
    assert read_one(tmp_path, task([ellipse])).boxes.tolist() == [[160, 80, 240, 120]]
    turned = region("ellipselabels", x=50, y=50, radiusX=10, radiusY=10, rotation=90)
    assert read_one(tmp_path, task([turned])).boxes.round(3).tolist() == [[180, 60, 220, 140]]


def test_masks_without_a_box_are_objects(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 40:80] = True
    brush = region("brushlabels", format="rle", rle=encode_brush(encode_rle(mask, mask.shape)))
    polygon = region("polygonlabels", points=[[50, 50], [75, 50], [75, 100]])
    image = read_one(tmp_path, task([brush, polygon]))
    assert image.boxes.tolist() == [[40, 10, 80, 30], [200, 100, 300, 200]]
    assert (coco_mask.decode(image.masks[0]) == mask).all()
    assert coco_mask.area(image.masks[1]) == pytest.approx(5000, rel=0.03)


def test_a_mask_that_was_not_moved_with_its_box_is_dropped(tmp_path: Path) -> None:
    tasks = export(tmp_path, True, "rle")
    result = tasks[0]["predictions"][0]["result"]
    result[0]["value"] |= {"x": 60, "width": 30}
    file = read(tmp_path, *tasks)
    image = by_name(file)[IDS[0]]
    assert (image.masks[0] is None, image.masks[1] is None) == (True, False)
    assert "1 region" in file.notes[0]
    assert "elsewhere" in file.notes[0]


def test_a_shape_and_its_class_may_be_two_results(tmp_path: Path) -> None:
    """<Rectangle> beside <Labels> gives two results of the same region."""
    place = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}
    about = {"id": "r", "original_width": WIDTH, "original_height": HEIGHT}
    results = [
        {**about, "type": "rectangle", "value": place},
        {**about, "type": "labels", "value": {**place, "labels": ["cat"]}},
    ]
    file = read(tmp_path, task(results))
    assert file.images[0].boxes.tolist() == [[40, 40, 160, 120]]
    assert file.notes == []


def test_doubt_is_read_from_data(tmp_path: Path) -> None:
    for fields, doubtful in (
        ({}, False), ({"review_sample": True, "review_rank": 80}, False),
        ({"review_sample": False, "review_rank": 3}, True), ({"review_rank": 51}, True),
    ):  # fmt: skip
        record = task([region()])
        record["data"].update(fields)
        assert read_one(tmp_path, record).chosen_by_doubt == doubtful


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (
            {"image": "/data/local-files/?d=x/val/a%20b.png", "image_id": "val/a b.png"},
            "val/a b.png",
        ),
        ({"image": "data:image/png;base64,AAAA", "image_id": "val/a"}, "val/a"),
        ({"image": "s3://bucket/a.png", "image_id": "0001"}, "s3://bucket/a.png"),
        ({"text": "words", "photo": "https://host/a.png"}, "https://host/a.png"),
    ],
)
def test_names_are_ours_where_the_address_agrees(
    data: dict[str, str], name: str, tmp_path: Path
) -> None:
    record = task([region()])
    record["data"] = data
    assert read_one(tmp_path, record).name == name


def test_odd_regions_are_left_out_and_counted(tmp_path: Path) -> None:
    sizeless = region()
    del sizeless["original_width"]
    unlabelled = {**region(), "id": "u", "value": {"x": 1, "y": 1, "width": 2, "height": 2}}
    results = [
        region(), sizeless, unlabelled, "text", region("keypointlabels", x=1, y=1, width=0.5),
        region("brushlabels", format="rle", rle=[1, 2, 3]),
        region("polygonlabels", points=[[1, 2]]),
        region(x=10, y=10, width=0, height=5), region(x=120, y=10, width=20, height=5),
        {"type": "choices", "value": {"choices": ["good"]}},
    ]  # fmt: skip
    file = read(tmp_path, task(results))
    assert len(file.images[0].boxes) == 1
    assert count(file) == file.images[0].unread == 8
    assert all("left out" in note for note in file.notes)


def test_boxes_beyond_the_image_are_cut_off_and_counted(tmp_path: Path) -> None:
    file = read(tmp_path, task([region(x=90, y=-10, width=30, height=40)]))
    assert file.images[0].boxes.tolist() == [[360, 0, 400, 60]]
    assert "beyond" in file.notes[0]


def test_of_two_tasks_of_an_image_the_reviewed_one_counts(tmp_path: Path) -> None:
    file = read(tmp_path, task([region()]), task(predictions=[{"result": [region()] * 2}]))
    assert [len(image.boxes) for image in file.images] == [1]
    assert "newer record" in file.notes[0]


def test_files_of_odd_tasks_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"export.json: none of its 1 tasks can be used"):
        read(tmp_path, {"data": {"text": "words"}, "annotations": []})
    file = read(tmp_path, task([region()]), 7)
    assert "1 task" in file.notes[0]


def test_a_single_task_by_hand_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    by_hand = {"data": {"image": "a.png"}, "annotations": [{"result": [region()]}]}
    path.write_text(json.dumps(by_hand), encoding="utf-8")
    (image,) = read_corrections(path).images
    assert image.is_reviewed
    assert len(image.boxes) == 1


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


NO_HEIGHT = {**region(), "value": without(region()["value"], "height")}


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (without(task([]), "data"), "in `data`, as `image`"),
        ({**task([]), "data": "a.png"}, "object `data`"),
        (without(without(task([]), "annotations"), "predictions"), "list `annotations`"),
        ({**task([]), "annotations": [{}]}, "list `result`"),
        (task([without(region(), "original_width")]), "without `original_width`, a number"),
        (task([NO_HEIGHT]), "without a number `height` in `value`"),
        (task([{**region(), "value": {"x": 1}}]), "class in `value`"),
    ],
)
def test_a_missing_field_is_named_with_its_task(
    broken: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """Nothing that is missing becomes a person's word that there is no object."""
    whole = {**task([region()]), "data": {"image": "b.png"}, "id": 2}
    content = read(tmp_path, whole, broken)
    assert [image.name for image in content.images if not image.unread] == ["b.png"]
    (note,) = content.notes
    assert "[1] (task 1)" in note
    assert told in note


def test_json_of_no_known_format_is_told_by_its_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a list of objects with the keys file, bbox"):
        read(tmp_path, {"file": "a.jpg", "bbox": [1, 2, 3, 4]})
