"""COCO results files: what can be scored, what is left out and named, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from pipeline.formats import coco, coco_results

GOOD = {"image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 40], "score": 0.5}


def known(tmp_path: Path) -> coco.CocoFile:
    path = tmp_path / "instances.json"
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in (7, 9)]
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 5]}
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]
    data_set = {"images": images, "annotations": [annotation], "categories": categories}
    path.write_text(json.dumps(data_set))
    return coco.read(path)


def read(tmp_path: Path, content: Any) -> coco_results.Results:
    path = tmp_path / "theirs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return coco_results.read(path, known(tmp_path))


def test_boxes_become_half_open_and_are_sorted_by_score(tmp_path: Path) -> None:
    worse = {**GOOD, "score": 0.1, "bbox": [1, 2, 3, 4]}
    other = {**GOOD, "image_id": 9, "category_id": 5, "score": -3}
    results = read(tmp_path, [worse, GOOD, other])
    assert results.boxes.dtype == np.float32
    np.testing.assert_array_equal(results.boxes[1], [10, 20, 40, 60])
    assert {image: rows.tolist() for image, rows in results.group_by_image().items()} == {
        7: [1, 0], 9: [2]}  # fmt: skip
    assert next(results.records()) == {**worse, "score": 0.1}
    assert results.notes == []


BAD = [
    ({"image_id": 8}, "image_id that instances.json does not have"),
    ({"category_id": 4}, "category_id that instances.json does not have"),
    ({"score": float("nan")}, "whose score is not finite"),
    ({"score": float("inf")}, "whose score is not finite"),
    ({"bbox": [0, 0, float("nan"), 5]}, "whose bbox is not finite"),
    ({"bbox": [0, 0, 1e9, 5]}, "far beyond any image"),
    ({"bbox": [30, 30, -20, 5]}, "negative width or height (reversed?)"),
    ({"bbox": [30, 30, 20, 0]}, "whose bbox is empty"),
]


@pytest.mark.parametrize(("wrong", "expected"), BAD, ids=[expected for _, expected in BAD])
def test_what_cannot_be_right_is_counted_and_named(
    wrong: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    bad = {**GOOD, **wrong}
    results = read(tmp_path, [GOOD, bad, GOOD, bad])
    assert len(results.boxes) == 2
    assert results.record_count == 4
    (note,) = results.notes
    assert note.startswith("theirs.json: 2 records (results[1], results[3])")
    assert expected in note
    with pytest.raises(UserError, match="none of its 1 records can be scored") as refused:
        read(tmp_path, [bad])
    assert expected in str(refused.value)


def test_boxes_beyond_their_image_stay_as_they_are_and_are_named(tmp_path: Path) -> None:
    results = read(tmp_path, [GOOD, {**GOOD, "bbox": [90, 70, 100, 80]}])
    np.testing.assert_array_equal(results.boxes[1], [90, 70, 190, 150])
    assert results.notes == [
        "theirs.json: 1 box (results[1]) stick out of their image, measured as they are"
    ]
    corners = read(tmp_path, [{**GOOD, "bbox": [60, 50, 90, 70]}])
    assert "COCO's is x, y, width, height" in corners.notes[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "line 1, column 2: not JSON"),
        ({"annotations": []}, "expected COCO results, a list"),
        ([1], "results[0]: expected an object"),
        ([{**GOOD, "image_id": "7"}], "results[0]: image_id is '7', expected a whole number"),
        ([{**GOOD, "image_id": 7.5}], "results[0]: image_id is 7.5"),
        ([GOOD, {"image_id": 7}], "results[1]: the field 'category_id' is missing"),
        ([{**GOOD, "score": None}], "results[0]: score is None, expected a number"),
        ([{**GOOD, "score": True}], "results[0]: score is True"),
        ([{**GOOD, "bbox": [1, 2, 3]}], "results[0]: bbox is [1, 2, 3], expected four numbers"),
        ([{**GOOD, "bbox": "1 2 3 4"}], "results[0]: bbox is '1 2 3 4'"),
        ([{"image_id": 7, "category_id": 3, "score": 1}], "results[0]: the field 'bbox' is"),
        ([{**GOOD, "segmentation": [[1, 2]]}], "results[0]: the segmentation cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_file_is_refused_with_record_and_field(
    content: Any, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, content)
    assert expected in str(refused.value)
    assert "theirs.json" in str(refused.value)


def test_a_mask_gives_the_box_that_is_not_there(tmp_path: Path) -> None:
    drawn = np.zeros((80, 100), np.uint8, order="F")
    drawn[20:60, 10:40] = 1
    rle = coco_mask.encode(drawn)
    rle = {"size": [80, 100], "counts": rle["counts"].decode()}
    bare = {"image_id": 7, "category_id": 3, "score": 0.5, "segmentation": rle}
    results = read(tmp_path, [bare])
    np.testing.assert_array_equal(results.boxes, [[10, 20, 40, 60]])
    assert len(results.masks) == 1
    assert results.masks[0] is not None
    assert "bbox" not in next(results.records(masks=True))


def test_no_record_at_all_is_a_results_file_too(tmp_path: Path) -> None:
    results = read(tmp_path, [])
    assert len(results.boxes) == 0
    assert results.group_by_image() == {}
    assert not results.masks
