"""coco: a wrong annotation file is refused with file, record and remedy."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from pipeline.formats import coco


def good() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "b.jpg", "width": 50, "height": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20]},
            {"id": 2, "image_id": 9, "category_id": 4, "bbox": [0, 0, 50, 20]},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
    }


def write(folder: Path, content: object) -> Path:
    path = folder / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_good(tmp_path):
    file = coco.read(write(tmp_path, good()))
    assert file.categories == {3: "cat", 4: "dog"}
    assert [(image.id, image.size) for image in file.images] == [(7, (30, 40)), (9, (20, 50))]
    assert file.images[0].boxes == [(1, 2, 11, 22)]
    assert file.images[0].categories == [3]
    assert file.notes == []


def test_byte_order_mark(tmp_path):
    (tmp_path / "boxes.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(good()).encode())
    assert len(coco.read(tmp_path / "boxes.json").images) == 2


def refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        coco.read(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [],\n  "annotations": [}', ["line 2", "not JSON", "correct it"]),
        ("", ["line 1", "not JSON"]),
        ("[]", ["expected a COCO data set", "results file"]),
        ("3", ["expected a COCO data set", "int"]),
        ('{"images": [], "categories": []}', ["'annotations' is missing"]),
        ('{"images": {}, "categories": [], "annotations": []}', ["'images' is missing"]),
        ("[" * 100_000, ["not JSON that can be read"]),
        ('{"images": ' + "9" * 10_000 + "}", ["not JSON that can be read"]),
    ],
)
def test_wrong_json(tmp_path, text, words):
    refused(write(tmp_path, text), *words)


def test_wrong_files(tmp_path):
    refused(tmp_path / "none.json", "no such file", "expected a COCO file")
    refused(tmp_path, "a folder")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path / "bytes.json", "not UTF-8")


@pytest.mark.parametrize(
    ("part", "field"),
    [("images", "id"), ("images", "file_name"), ("images", "width"), ("images", "height"),
     ("annotations", "image_id"), ("annotations", "category_id"), ("annotations", "bbox"),
     ("categories", "id"), ("categories", "name")],
)  # fmt: skip
def test_missing_and_mistyped_fields(tmp_path, part, field):
    content = good()
    del content[part][1][field]
    refused(write(tmp_path, content), f"{part}[1]", f"{field!r} is missing", "add it")
    wrong_values: tuple[Any, ...] = (None, {}, True, 1.5)
    for wrong in wrong_values:
        content[part][1][field] = wrong
        refused(write(tmp_path, content), f"{part}[1]", f"{field} is {wrong!r}", "expected")
    content[part][1] = "no record"
    refused(write(tmp_path, content), f"{part}[1]", "expected an object")


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_double_ids(tmp_path, part):
    content = good()
    number = content[part][1]["id"] = content[part][0]["id"]
    if part != "annotations":
        content["annotations"] = []
    refused(write(tmp_path, content), f"{part}[1]", f"id {number} is there twice", "its own")


@pytest.mark.parametrize(("field", "what"), [("image_id", "images"), ("category_id", "categories")])
def test_unknown_ids(tmp_path, field, what):
    content = good()
    content["annotations"][1][field] = 99
    refused(
        write(tmp_path, content), "annotations[1]", f"{field} 99 is not among the {what}", "drop"
    )


@pytest.mark.parametrize(
    ("bbox", "what"),
    [([1, 2, 0, 5], "empty"), ([1, 2, 5, 0.0], "empty"), ([1, 2, -3, 5], "negative"),
     ([1, 2, 3, math.nan], "not finite"), ([math.inf, 2, 3, 4], "not finite"),
     ([60, 2, 3, 4], "outside its image of 50 x 20"), ([-9, 2, 3, 4], "outside its image"),
     ([2, 20, 3, 4], "outside its image"), ([1, 2, 3], "four numbers"),
     ([1, 2, 3, "4"], "four numbers"), ([1, 2, 3, None], "four numbers"), ([], "four numbers"),
     ([1, 2, 1e300, 4], "far beyond"), ([10**400, 2, 3, 4], "far beyond"),
     ([40, 2, 1e-9, 4], "thinner")],
)  # fmt: skip
def test_bad_boxes(tmp_path, bbox, what):
    content = good()
    content["annotations"][1]["bbox"] = bbox
    refused(write(tmp_path, content), "annotations[1]", what)


def test_boxes_that_stick_out_are_clipped_and_counted(tmp_path):
    content = good()
    content["annotations"][0]["bbox"] = [-5, 2, 100, 20]
    content["annotations"][1]["bbox"] = [0, 0, 50.4, 20]  # rounding
    file = coco.read(write(tmp_path, content))
    assert file.images[0].boxes == [(0, 2, 40, 22)]
    assert file.images[1].boxes == [(0, 0, 50, 20)]
    assert file.notes == ["boxes.json: 1 boxes stuck out of their image and were clipped"]


def test_size_may_be_left_away(tmp_path):
    content = good()
    for image in content["images"]:
        del image["width"], image["height"]
    content["annotations"][1]["bbox"] = [-5, 0, 500, 20]
    assert coco.read(write(tmp_path, content)).images[1].boxes == [(-5, 0, 495, 20)]
    content["images"][0] |= {"width": 0, "height": 5}
    refused(write(tmp_path, content), "images[0]", "no size")


def test_crowds_are_regions_apart(tmp_path):
    content = good()
    content["annotations"][0]["iscrowd"] = 1
    file = coco.read(write(tmp_path, content))
    assert file.images[0].boxes == []
    (crowd,) = file.images[0].crowds
    x, y, width, height = content["annotations"][0]["bbox"]
    assert crowd.box == (x, y, x + width, y + height)
    assert crowd.mask is None
    (note,) = file.notes
    assert note.startswith("boxes.json: 1 crowd annotations: nothing is counted there")
    content["annotations"][0]["bbox"] = [0, 0, -1, 5]  # what only forgives is not worth an error
    assert coco.read(write(tmp_path, content)).images[0].crowds == []


# -- masks


def test_masks_of_every_kind_are_one(tmp_path):
    mask = np.zeros((30, 40), np.uint8, order="F")
    mask[2:22, 1:11] = 1
    packed = coco_mask.encode(mask)
    text = packed["counts"].decode()
    counts = coco._decode_run_lengths(text)
    assert sum(counts) == 30 * 40
    polygon = [1, 2, 11, 2, 11, 22, 1, 22]
    for segmentation in (
        [polygon], {"size": [30, 40], "counts": text}, {"size": [30, 40], "counts": counts}
    ):  # fmt: skip
        content = good()
        content["annotations"][0]["segmentation"] = segmentation
        (rle,) = coco.read(write(tmp_path, content)).images[0].masks
        assert (coco_mask.decode(rle) == mask).all()


def test_run_lengths_are_those_of_pycocotools():
    random = np.random.default_rng(0)
    for _ in range(20):
        mask = np.asfortranarray(random.random((23, 31)) < random.random(), np.uint8)
        runs = coco._decode_run_lengths(coco_mask.encode(mask)["counts"].decode())
        flat = np.concatenate([np.full(n, i % 2) for i, n in enumerate(runs)])
        assert (mask == flat.reshape(31, 23).T).all()


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[math.nan] * 6], [3], "text", 5,
     {"counts": "abc"}, {"size": [30, 40]}, {"size": [20, 50], "counts": ""},
     {"size": [20, 50], "counts": "zzz"}, {"size": [20, 50], "counts": [1, 2]},
     {"size": [20, 50], "counts": [-1, 1001]}, {"size": [50, 20], "counts": [1000]},
     {"size": [20, 50], "counts": "\u00ff"}, {"size": [20, 50], "counts": [None]}],
)  # fmt: skip
def test_bad_masks(tmp_path, segmentation):
    content = good()
    content["annotations"][1]["segmentation"] = segmentation
    refused(write(tmp_path, content), "annotations[1]", "segmentation", "drop it")


# -- writing


def test_dump_and_round_trip(tmp_path):
    path = tmp_path / "out.json"
    coco.dump(path, [])
    assert json.loads(path.read_text()) == []
    records: list[dict[str, Any]] = [{"a": 1, "name": "ü\n"}, {"b": [1.5]}]
    coco.dump(path, iter(records))
    assert json.loads(path.read_text(encoding="utf-8")) == records
    box = np.array([1.234, 2, 11.236, 22], np.float32)
    assert coco.xyxy_to_xywh(box) == [1.23, 2.0, 10.01, 20.0]


def test_half_characters_can_be_written_again(tmp_path):
    content = good()
    content["images"][0]["file_name"] = "a\ud800.jpg"
    content["categories"][0]["name"] = "\udcff"
    file = coco.read(write(tmp_path, content))
    assert file.images[0].file_name.encode() == rb"a\ud800.jpg"
    assert file.categories[3].encode() == rb"\udcff"


STARTS = st.floats(0, 16_000)
SIDES = st.floats(0.02, 16_000)  # less could be rounded to an empty box


@given(STARTS, STARTS, SIDES, SIDES)
def test_xywh_and_back_is_the_same_box(x: float, y: float, width: float, height: float) -> None:
    box = np.array([x, y, x + width, y + height])
    back = coco.xywh_to_xyxy(coco.xyxy_to_xywh(box), "here")
    # Both corners are rounded to a hundredth.
    np.testing.assert_allclose(back, box, atol=0.0051, rtol=0)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
RECORD_BOXES = st.tuples(
    st.integers(0, 20), st.integers(0, 20), st.integers(1, 30), st.integers(1, 30)
)


@given(
    sizes=st.lists(st.tuples(st.integers(50, 99), st.integers(50, 99)), max_size=4),
    classes=st.lists(NAMES, min_size=1, max_size=3),
    boxes=st.lists(RECORD_BOXES, max_size=6),
    data=st.data(),
)
def test_a_data_set_that_was_written_is_read_as_it_was(
    sizes: list[tuple[int, int]],
    classes: list[str],
    boxes: list[tuple[int, int, int, int]],
    data: st.DataObject,
) -> None:
    images = [
        {"id": n, "file_name": data.draw(NAMES), "height": height, "width": width}
        for n, (height, width) in enumerate(sizes)
    ]
    categories = [{"id": 10 + n, "name": name} for n, name in enumerate(classes)]
    annotations = [
        {
            "id": n,
            "image_id": data.draw(st.integers(0, len(images) - 1)),
            "category_id": 10 + data.draw(st.integers(0, len(classes) - 1)),
            "bbox": coco.xyxy_to_xywh(np.array([x, y, x + width, y + height])),
        }
        for n, (x, y, width, height) in enumerate(boxes if images else [])
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "boxes.json")
        coco.dump_data_set(path, {"description": "x"}, images, categories, annotations)
        file = coco.read(path)
    assert file.notes == []
    assert file.categories == {record["id"]: record["name"] for record in categories}
    assert [(image.id, image.file_name) for image in file.images] == [
        (record["id"], record["file_name"]) for record in images
    ]
    for image in file.images:
        of_image = [n for n, record in enumerate(annotations) if record["image_id"] == image.id]
        assert image.records == of_image
        assert image.size == sizes[image.id]
        assert image.categories == [annotations[n]["category_id"] for n in of_image]
        assert image.boxes == [
            (x, y, x + width, y + height) for x, y, width, height in (boxes[n] for n in of_image)
        ]
