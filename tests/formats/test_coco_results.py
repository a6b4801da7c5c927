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
from pipeline.types import Note

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
    ({"image_id": 7.5}, "without an image_id"),
    ({"image_id": None}, "without an image_id"),
    ({"image_id": "who"}, "image_id that instances.json does not have"),
    ({"category_id": None}, "without a category_id"),
    ({"score": None}, "without a score that is a number"),
    ({"score": True}, "without a score that is a number"),
    ({"bbox": [1, 2, 3]}, "whose bbox is not four numbers x, y, width, height"),
    ({"bbox": "1 2 3 4"}, "whose bbox is not four numbers"),
    ({"bbox": None}, "without a bbox"),
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
    assert note.startswith("theirs.json: 2 records ('results[1]', 'results[3]')")
    assert note.endswith(": left out; correct or drop them")
    assert isinstance(note, Note)
    assert note.total == 2
    assert expected in note
    with pytest.raises(UserError, match="none of its 1 records can be scored") as refused:
        read(tmp_path, [bad])
    assert expected in str(refused.value)


def test_boxes_beyond_their_image_stay_as_they_are_and_are_named(tmp_path: Path) -> None:
    results = read(tmp_path, [GOOD, {**GOOD, "bbox": [90, 70, 100, 80]}])
    np.testing.assert_array_equal(results.boxes[1], [90, 70, 190, 150])
    assert results.notes == [
        "theirs.json: 1 record ('results[1]') of those used sticks out of its image, measured as "
        "it is"
    ]
    corners = read(tmp_path, [{**GOOD, "bbox": [60, 50, 90, 70]}])
    assert "COCO's is x, y, width, height" in corners.notes[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "line 1, column 2: not JSON"),
        ({"annotations": []}, "expected COCO results, a list"),
        ([1], "1 record ('results[0]') that are no objects: left out"),
        ([{"image_id": 7}, 1], "none of its 2 records can be scored"),
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


def test_numbers_as_text_are_those_numbers(tmp_path: Path) -> None:
    text = {"image_id": "7", "category_id": "3.0", "bbox": ["10", 20, "30", 40.0], "score": "0.5"}
    results, plain = read(tmp_path, [text]), read(tmp_path, [GOOD])
    np.testing.assert_array_equal(results.boxes, plain.boxes)
    assert results.image_ids.tolist() == [7]
    assert results.category_ids.tolist() == [3]
    assert results.scores.tolist() == [0.5]
    assert len(results.notes) == 2
    assert all("read as numbers" in note for note in results.notes)


def test_a_mask_that_cannot_be_read_leaves_the_box(tmp_path: Path) -> None:
    for segmentation in ([[1, 2]], {"size": [1, 1], "counts": [1]}, [[10, 20, 30, 40]]):
        results = read(tmp_path, [{**GOOD, "segmentation": segmentation}])
        assert results.masks == [None]
        assert "used without a mask" in results.notes[0]
        assert len(results.boxes) == 1


def named(tmp_path: Path, files: dict[int, str], results: list[Any]) -> coco_results.Results:
    """Read results whose image_id are `results`, of annotated images with these file names."""
    images = [{"id": n, "file_name": name} for n, name in files.items()]
    annotation = {"id": 1, "image_id": next(iter(files)), "category_id": 3, "bbox": [0, 0, 5, 5]}
    content = {"images": images, "annotations": [annotation],
               "categories": [{"id": 3, "name": "cat"}]}  # fmt: skip
    (tmp_path / "named.json").write_text(json.dumps(content))
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps([{**GOOD, "image_id": id} for id in results]))
    return coco_results.read(path, coco.read(tmp_path / "named.json"))


@pytest.mark.parametrize(
    ("files", "given", "expected"),
    [
        ({1: "val/cat_1.jpg", 2: "val/cat_2.jpg"}, ["cat_2", "cat_1.jpg"], [2, 1]),
        ({1: "val/cat_1.jpg", 2: "val/cat_2.jpg"}, ["C:\\x\\val\\cat_2.JPG", "val/cat_1"], [2, 1]),
        ({1: "s3://photos/val/cat_1.jpg", 2: "val/cat_2.jpg"}, ["cat_1", "cat_2"], [1, 2]),
        ({1: "000042.jpg", 2: "000043.jpg"}, [43, 42], [2, 1]),
        ({1: "000042.jpg", 2: "000043.jpg"}, ["000043", "42"], [2, 1]),
        ({42: "000043.jpg", 43: "000042.jpg"}, [42, 43], [42, 43]),  # ids are ids
    ],
)
def test_an_image_may_be_named_by_its_file(
    files: dict[int, str], given: list[Any], expected: list[int], tmp_path: Path
) -> None:
    results = named(tmp_path, files, given)
    assert results.image_ids.tolist() == expected
    if expected != given:
        (note,) = [note for note in results.notes if "matched by it" in note]
        assert note.startswith("theirs.json: 2 records (")


def test_a_name_of_several_images_is_left_out(tmp_path: Path) -> None:
    results = named(tmp_path, {1: "a/1.jpg", 2: "b/1.jpg", 3: "b/2.jpg"}, ["1.jpg", "2", 3])
    assert results.image_ids.tolist() == [2, 3]  # "2" is an id before it is a name
    assert any("the name of several images" in note for note in results.notes)


def test_fields_that_other_tools_call_otherwise(tmp_path: Path) -> None:
    record = {"image_id": 7, "category_name": "dog", "bbox": [1, 2, 3, 4], "confidence": 0.25}
    results = read(tmp_path, [record, {**record, "category_name": "cow"}])
    assert (results.category_ids.tolist(), results.scores.tolist()) == ([5], [0.25])
    assert results.notes == [
        "theirs.json: 1 record ('results[1]') without a category_id, with a category_name that "
        "instances.json has not: left out; correct or drop them",
        "theirs.json: 1 record ('results[0]') without a category_id: the category of their "
        "category_name is taken",
        "theirs.json: 1 record ('results[0]') without a score: their confidence is taken",
    ]


def test_results_in_fractions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 1 boxes lie within 0 to 1"):
        read(tmp_path, [{**GOOD, "bbox": [0.1, 0.2, 0.3, 0.4]}])
