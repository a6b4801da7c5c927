"""coco: odd records are repaired or left out, and named; a file of nothing usable is refused."""

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
from pipeline.formats.coco_boxes import xywh_to_xyxy, xyxy_to_xywh
from pipeline.formats.coco_masks import decode_run_lengths
from pipeline.formats.coco_writing import dump, dump_data_set
from pipeline.ops.text import to_nfc


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


def test_an_area_that_cannot_be_used_is_counted(tmp_path):
    content = good()
    areas = [math.nan, -4, "large", True, None, "200", 200]
    content["annotations"] = [
        {"id": n, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20 - n], "area": area}
        for n, area in enumerate(areas)
    ]
    file = coco.read(write(tmp_path, content), with_records=True)
    assert [record.get("area") for record in file.images[0].coco] == [None] * 5 + [200, 200]
    (note,) = file.notes
    assert note.startswith("boxes.json: 4 annotations ('annotations[0] (id 0)', ")
    assert "whose area is no number of pixels" in note
    assert coco.read(write(tmp_path, content)).notes == []  # where no area is used


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


def read(tmp_path: Path, content: object, **options: Any) -> coco.CocoFile:
    return coco.read(write(tmp_path, content), **options)


def test_annotations_that_are_not_there_are_said(tmp_path):
    content = good()
    del content["annotations"]
    refused(write(tmp_path, content), "'annotations' is missing", "it lists 2 images and no box")


ODD_RECORDS = [
    ("annotations", {"image_id": None}, "without an image_id"),
    ("annotations", {"image_id": True}, "without an image_id"),
    ("annotations", {"image_id": 99}, "with an image_id that no image has"),
    ("annotations", {"category_id": None}, "without a category_id"),
    ("annotations", {"category_id": 99}, "with a category_id that no category has"),
    ("annotations", {"bbox": None}, "without a bbox"),
    ("annotations", {"bbox": []}, "without a bbox"),
    ("annotations", {"bbox": [1, 2, 0, 5]}, "whose bbox is empty: width or height is 0"),
    ("annotations", {"bbox": [1, 2, 5, 0.0]}, "whose bbox is empty"),
    ("annotations", {"bbox": [1, 2, -3, 5]}, "negative width or height"),
    ("annotations", {"bbox": [1, 2, 3, math.nan]}, "whose bbox is not finite"),
    ("annotations", {"bbox": [math.inf, 2, 3, 4]}, "whose bbox is not finite"),
    ("annotations", {"bbox": [1, 2, 3, "Infinity"]}, "whose bbox is not finite"),
    ("annotations", {"bbox": [10**400, 2, 3, 4]}, "whose bbox is not finite"),
    ("annotations", {"bbox": [1, 2, 1e300, 4]}, "whose bbox is far beyond any image"),
    ("annotations", {"bbox": [40, 2, 1e-9, 4]}, "whose bbox is thinner than float32 can tell"),
    ("annotations", {"bbox": [60, 2, 3, 4]}, "whose box lies outside its image"),
    ("annotations", {"bbox": [-9, 2, 3, 4]}, "whose box lies outside its image"),
    ("annotations", {"bbox": [1, 2, 3]}, "whose bbox is not four numbers x, y, width, height"),
    ("annotations", {"bbox": [1, 2, 3, None]}, "whose bbox is not four numbers"),
    ("annotations", {"bbox": "here"}, "whose bbox is not four numbers"),
    ("annotations", "no record", "that are no objects"),
    ("annotations", None, "that are no objects"),
    ("images", "no record", "that are no objects"),
    ("images", {"id": None}, "without an id"),
    ("categories", {"id": None}, "without an id"),
    ("categories", {"name": None}, "without a name"),
    ("categories", 5, "that are no objects"),
]


@pytest.mark.parametrize(("part", "change", "reason"), ODD_RECORDS)
def test_a_record_that_cannot_be_used_is_left_out_and_named(tmp_path, part, change, reason):
    content = good()
    if part == "annotations":  # the image keeps a good box
        content[part].append({"id": 3, "image_id": 9, "category_id": 4, "bbox": [1, 1, 5, 5]})
    record = content[part][1]
    content[part][1] = record | change if isinstance(change, dict) else change
    file = read(tmp_path, content)
    kind = {"annotations": "annotation", "images": "image record", "categories": "category record"}
    note = next(note for note in file.notes if reason in note)
    assert note.startswith(f"boxes.json: 1 {kind[part]} ('{part}[1]")
    assert note.endswith(": left out; correct or drop them")
    assert note.total == 1
    assert file.images[0].boxes == [(1, 2, 11, 22)]
    expected = {"annotations": [[(1, 2, 11, 22)], [(1, 1, 6, 6)]],
                "images": [[(1, 2, 11, 22)]], "categories": [[(1, 2, 11, 22)], []]}  # fmt: skip
    assert [image.boxes for image in file.images] == expected[part]


def test_a_field_that_is_missing_is_as_one_that_is_null(tmp_path):
    for field in ("image_id", "category_id", "bbox"):
        content = good()
        del content["annotations"][1][field]
        assert any(f" {field}: left out" in note for note in read(tmp_path, content).notes)


def test_an_image_without_any_usable_annotation_is_named(tmp_path):
    content = good()
    content["annotations"][1]["bbox"][3] = 0
    notes = read(tmp_path, content).notes
    assert notes[1].startswith("boxes.json: 1 image ('b.jpg') whose annotations are all left out")


def test_a_file_of_nothing_usable_is_refused_with_the_reasons(tmp_path):
    content = good()
    content["annotations"][0]["bbox"] = [1, 2, 0, 5]
    content["annotations"][1]["image_id"] = 99
    refused(write(tmp_path, content), "none of its 2 annotations can be used", "bbox is empty",
            "annotations[1] (id 2)", "image_id that no image has")  # fmt: skip
    content["images"] = ["a.jpg"]
    refused(write(tmp_path, content), "none of its 1 image records can be used", "no objects")
    content["categories"] = [{"id": 3}]
    refused(write(tmp_path, content), "none of its 1 category records can be used", "a name")


@pytest.mark.parametrize("spell", [str, float, lambda n: f" {n}.0 "], ids=["text", "float", "both"])
def test_numbers_in_other_spellings_are_those_numbers(tmp_path, spell):
    content = good()
    for image in content["images"]:
        image |= {key: spell(image[key]) for key in ("id", "width", "height")}
    for annotation in content["annotations"]:
        annotation |= {key: spell(annotation[key]) for key in ("id", "image_id", "category_id")}
        annotation["bbox"] = [spell(value) for value in annotation["bbox"]]
    for category in content["categories"]:
        category["id"] = spell(category["id"])
    file, plain = (
        read(tmp_path, content, with_records=True),
        read(tmp_path, good(), with_records=True),
    )
    assert (file.images, file.categories) == (plain.images, plain.categories)
    assert plain.notes == []
    assert all("read as numbers" in note for note in file.notes)
    assert sum(note.total for note in file.notes) >= 6


def test_ids_that_are_text_get_numbers(tmp_path):
    content = good()
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        image["id"] = annotation["image_id"] = image["file_name"]
    content["images"].append({"id": 4, "file_name": "c.jpg"})
    file = read(tmp_path, content)
    assert [image.id for image in file.images] == [5, 6, 4]
    assert [len(image.boxes) for image in file.images] == [1, 1, 0]
    assert file.image_keys["b.jpg"].id == 6
    assert "2 images ('a.jpg', 'b.jpg') whose id is text" in file.notes[0]


@pytest.mark.parametrize(
    "size", [{"width": 0, "height": 5}, {"width": -40}, {"width": "wide"}, {"height": None},
             {"width": 40.5}, {"width": math.nan}, {"width": math.inf}],
)  # fmt: skip
def test_a_size_that_is_none_is_not_known(tmp_path, size):
    content = good()
    content["images"][0] |= size
    file = read(tmp_path, content)
    assert [image.size for image in file.images] == [None, (20, 50)]
    assert file.images[0].boxes == [(1, 2, 11, 22)]
    assert file.notes == [
        "boxes.json: 1 image record ('images[0] (id 7)') whose width and height are no size: taken "
        "as not known"
    ]


def test_null_sizes_are_as_sizes_that_are_not_there(tmp_path):
    content = good()
    content["images"][0] |= {"width": None, "height": None}
    file = read(tmp_path, content)
    assert (file.images[0].size, file.notes) == (None, [])
    content["annotations"][0]["segmentation"] = {"size": [30, 40], "counts": [0, 1200]}
    file = read(tmp_path, content)
    assert file.images[0].size == (30, 40)
    assert "without a size: that of their masks is taken" in file.notes[0]


def test_ids_that_are_there_twice(tmp_path):
    content = good()
    content["annotations"] += [content["annotations"][0], {**content["annotations"][1], "id": 1}]
    content["images"].append(dict(content["images"][1]))
    content["categories"].append(dict(content["categories"][1]))
    file = read(tmp_path, content)
    assert [len(image.boxes) for image in file.images] == [1, 2]
    notes = " ".join(file.notes)
    for expected in (
        "1 annotation ('annotations[2] (id 1): image_id 7, category_id 3') that are there twice",
        "1 annotation ('annotations[3] (id 1)') whose id another annotation has, too: used",
        "1 image record ('images[2] (id 9)') that are there twice",
        "1 category record ('categories[2] (id 4)') that are there twice",
    ):
        assert expected in notes


def test_an_id_of_two_different_images_is_of_none(tmp_path):
    content = good()
    content["images"].append({**content["images"][1], "file_name": "other.jpg"})
    content["categories"].append({"id": 4, "name": "cow"})
    file = read(tmp_path, content)
    assert [image.file_name for image in file.images] == ["a.jpg"]
    assert file.categories == {3: "cat"}
    notes = " ".join(file.notes)
    assert "2 image records ('images[1] (id 9)', 'images[2] (id 9)') whose id several" in notes
    assert "with an image_id that several images have" in notes
    assert "2 category records ('categories[1] (id 4)', 'categories[2] (id 4)') whose" in notes


def test_images_without_a_file_name(tmp_path):
    content = good()
    del content["images"][0]["file_name"]
    content["images"][1] |= {"file_name": None, "coco_url": "http://host/b.jpg"}
    file = read(tmp_path, content)
    assert [image.name for image in file.images] == ["id 7", "http://host/b.jpg"]
    assert "1 image record ('images[0] (id 7)') without a file_name: no image" in file.notes[0]
    assert "named by another of its fields" in file.notes[1]


def test_boxes_that_stick_out_are_clipped_and_counted(tmp_path):
    content = good()
    content["annotations"][0]["bbox"] = [-5, 2, 100, 20]
    content["annotations"][1]["bbox"] = [0, 0, 50.4, 20]  # rounding
    file = coco.read(write(tmp_path, content))
    assert file.images[0].boxes == [(0, 2, 40, 22)]
    assert file.images[1].boxes == [(0, 0, 50, 20)]
    assert file.notes == [
        "boxes.json: 1 box ('annotations[0] (id 1)') of 2 stuck out of its image and was clipped"
    ]


def test_a_file_with_width_and_height_swapped_is_asked_about(tmp_path):
    content = good()
    for image in content["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    swapped = read(tmp_path, content).notes
    assert "1 box ('annotations[1] (id 2)') of 2 stuck out" in swapped[0]
    assert "1 image ('b.jpg') of 2 has boxes that stick out, and none would" in swapped[1]
    assert swapped[1].endswith("are width and height swapped in the file?")
    content["annotations"][1]["bbox"] = [25, 0, 20, 20]  # no part of it is inside: left out
    assert any("('b.jpg')" in note and "swapped" in note for note in read(tmp_path, content).notes)
    content["annotations"].append({**content["annotations"][0], "id": 3, "bbox": [-5, 0, 9, 9]})
    assert not any("swapped" in note for note in read(tmp_path, content).notes), "nor without"


def test_size_may_be_left_away(tmp_path):
    content = good()
    for image in content["images"]:
        del image["width"], image["height"]
    content["annotations"][1]["bbox"] = [-5, 0, 500, 20]
    assert read(tmp_path, content).images[1].boxes == [(-5, 0, 495, 20)]


def test_boxes_that_mostly_stick_out_may_be_corners(tmp_path):
    content = good()
    record = {"image_id": 9, "category_id": 4, "bbox": [20, 5, 45, 18]}
    content["annotations"] = [{**record, "id": n} for n in range(5)]
    assert "is bbox x0, y0, x1, y1 there?" in read(tmp_path, content).notes[0]


# -- crowds


@pytest.mark.parametrize("flag", [1, True, "1", 1.0])
def test_crowds_are_regions_apart(tmp_path, flag):
    content = good()
    content["annotations"][0]["iscrowd"] = flag
    file = read(tmp_path, content)
    assert file.images[0].boxes == []
    (crowd,) = file.images[0].crowds
    x, y, width, height = content["annotations"][0]["bbox"]
    assert crowd.box == (x, y, x + width, y + height)
    assert crowd.mask is None
    assert file.notes == [
        "boxes.json: 1 annotation ('annotations[0] (id 1)') of 2 is a crowd (iscrowd): nothing is "
        "counted there by COCO's AP and by PxAP, and all else leaves them out; data.crowds=objects "
        "counts them as objects",
        "boxes.json: 1 image ('a.jpg') with crowds alone: no number has them as annotated; "
        "data.crowds=objects counts them as objects",
    ]
    content["annotations"][0]["bbox"] = [0, 0, -1, 5]
    file = read(tmp_path, content)
    assert file.images[0].crowds == []
    assert "1 annotation ('annotations[0] (id 1): image_id 7, category_id 3')" in file.notes[0]
    assert "whose bbox has a negative" in file.notes[0]


@pytest.mark.parametrize("flag", [0, False, "0", None, 0.0, ""])
def test_what_is_no_crowd(tmp_path, flag):
    content = good()
    content["annotations"][0]["iscrowd"] = flag
    assert len(read(tmp_path, content).images[0].boxes) == 1


def test_a_file_of_crowds_says_so_with_the_remedy(tmp_path):
    content = good()
    for annotation, size in zip(content["annotations"], [[30, 40], [20, 50]], strict=True):
        counts = [5, 10, size[0] * size[1] - 15]
        annotation |= {"iscrowd": 1, "segmentation": {"size": size, "counts": counts}}
    (note,) = read(tmp_path, content).notes
    assert note == (
        "boxes.json: 2 annotations ('annotations[0] (id 1)', 'annotations[1] (id 2)') are crowds "
        "(iscrowd), all that can be used, so no object is left to measure against; CVAT writes "
        "brush masks so; data.crowds=objects counts them as objects"
    )
    file = read(tmp_path, content, crowds="objects", option="evaluate.crowds", with_records=True)
    assert [len(image.boxes) for image in file.images] == [1, 1]
    assert [len(image.crowds) for image in file.images] == [0, 0]
    assert all(image.masks[0] is not None for image in file.images)
    assert [image.coco[0]["iscrowd"] for image in file.images] == [0, 0]
    assert file.notes[0].endswith("count as objects (evaluate.crowds=objects)")


# -- masks


def test_masks_of_every_kind_are_one(tmp_path):
    mask = np.zeros((30, 40), np.uint8, order="F")
    mask[2:22, 1:11] = 1
    packed = coco_mask.encode(mask)
    text = packed["counts"].decode()
    counts = decode_run_lengths(text)
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
        runs = decode_run_lengths(coco_mask.encode(mask)["counts"].decode())
        flat = np.concatenate([np.full(n, i % 2) for i, n in enumerate(runs)])
        assert (mask == flat.reshape(31, 23).T).all()


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[math.nan] * 6], [3], "text", 5, [[1, 2]],
     {"counts": "abc"}, {"size": [30, 40]}, {"size": [20, 50], "counts": ""},
     {"size": [20, 50], "counts": "zzz"}, {"size": [20, 50], "counts": [1, 2]},
     {"size": [20, 50], "counts": [-1, 1001]},
     {"size": [20, 50], "counts": "\u00ff"}, {"size": [20, 50], "counts": [None]}],
)  # fmt: skip
def test_a_box_is_used_without_a_mask_that_cannot_be_read(tmp_path, segmentation):
    content = good()
    content["annotations"][1]["segmentation"] = segmentation
    file = read(tmp_path, content)
    assert (file.images[1].boxes, file.images[1].masks) == ([(0, 0, 50, 20)], [None])
    (note,) = file.notes
    assert note.endswith("whose segmentation cannot be read: used without a mask")


@pytest.mark.parametrize(
    ("segmentation", "note"),
    [([[0, 0, 50, 20]], "four numbers, a box and no outline"),
     ([0, 0, 50, 20], "four numbers, a box and no outline"),
     ({"size": [50, 20], "counts": [1000]}, "of another size than its image"),
     (None, ""), ([], ""), ([[]], ""), ({}, ""), ([None], ""), ("", "")],
)  # fmt: skip
def test_a_box_without_a_mask(tmp_path, segmentation, note):
    content = good()
    content["annotations"][1]["segmentation"] = segmentation
    file = read(tmp_path, content, with_records=True)
    assert (file.images[1].boxes, file.images[1].masks) == ([(0, 0, 50, 20)], [None])
    assert "segmentation" not in file.images[1].coco[0]
    assert note in " ".join(file.notes)
    assert bool(note) == bool(file.notes)


@pytest.mark.parametrize(
    "segmentation",
    [[1, 2, 11, 2, 11, 22, 1, 22], [[1, 2], [11, 2], [11, 22], [1, 22]],
     [[[1, 2], [11, 2], [11, 22], [1, 22]]], [[1, 2, 11, 2, 11, 22, 1, 22], [3, 4, 5, 6]],
     [[1, 2, 11, 2, 11, 22, 1, 22], [5, 5]], [["1", "2", 11, 2, "11", 22, 1, 22.0]],
     [{"x": x, "y": y} for x, y in ((1, 2), (11, 2), (11, 22), (1, 22))]],
)  # fmt: skip
def test_an_outline_in_another_form_is_that_outline(tmp_path, segmentation):
    content = good()
    del content["annotations"][0]["bbox"]
    content["annotations"][0]["segmentation"] = segmentation
    file = read(tmp_path, content, with_records=True)
    (rle,) = file.images[0].masks
    assert coco_mask.toBbox(rle).tolist() == [1, 2, 10, 20]
    assert file.images[0].boxes == [(1, 2, 11, 22)]
    assert file.images[0].coco[0]["bbox"] == [1, 2, 10, 20]
    assert "without a bbox: the box around the segmentation is taken" in " ".join(file.notes)


def test_a_mask_gives_the_box_that_is_not_right(tmp_path):
    content = good()
    content["annotations"][0] |= {"bbox": [0, 0, 0, 0], "segmentation": {
        "size": ["30", 40.0], "counts": [30, 30, 1140]}}  # fmt: skip
    assert read(tmp_path, content).images[0].boxes == [(1, 0, 2, 30)]


# -- writing


def test_dump_and_round_trip(tmp_path):
    path = tmp_path / "out.json"
    dump(path, [])
    assert json.loads(path.read_text()) == []
    records: list[dict[str, Any]] = [{"a": 1, "name": "ü\n"}, {"b": [1.5]}]
    dump(path, iter(records))
    assert json.loads(path.read_text(encoding="utf-8")) == records
    box = np.array([1.234, 2, 11.236, 22], np.float32)
    assert xyxy_to_xywh(box) == [1.23, 2.0, 10.01, 20.0]


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
    back = xywh_to_xyxy(xyxy_to_xywh(box))
    # Both corners are rounded to a hundredth.
    np.testing.assert_allclose(back, box, atol=0.0051, rtol=0)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
RECORD_BOXES = st.tuples(
    st.integers(0, 20), st.integers(0, 20), st.integers(1, 30), st.integers(1, 30)
)


@given(
    sizes=st.lists(st.tuples(st.integers(50, 99), st.integers(50, 99)), max_size=4),
    classes=st.lists(NAMES, min_size=1, max_size=3, unique_by=to_nfc),
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
            "bbox": xyxy_to_xywh(np.array([x, y, x + width, y + height])),
        }
        for n, (x, y, width, height) in enumerate(boxes if images else [])
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "boxes.json")
        dump_data_set(path, {"description": "x"}, images, categories, annotations)
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


def test_categories_of_one_name_are_one(tmp_path):
    """Merged exports list a category twice, under two ids."""
    content = good()
    content["categories"].append({"id": 9, "name": "cat"})
    content["annotations"][1]["category_id"] = 9
    file = coco.read(write(tmp_path, content))
    assert file.categories == {3: "cat", 4: "dog"}
    assert file.images[1].categories == [3]
    assert file.notes == [
        "boxes.json: 1 category record (\"categories[2] (id 9) 'cat'\") with the name of another: "
        "both are one"
    ]


def test_boxes_as_fractions_are_refused(tmp_path):
    content = good()
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0, 0.5, 1]
    refused(write(tmp_path, content), "2 of 2 boxes lie within 0 to 1", "in pixels")
    content["annotations"][0]["bbox"] = [1, 2, 10, 20]
    assert len(coco.read(write(tmp_path, content)).images[1].boxes) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_unicode_encodings(tmp_path, encoding):
    (tmp_path / "boxes.json").write_text(json.dumps(good()), encoding=encoding)
    assert len(coco.read(tmp_path / "boxes.json").images) == 2


@pytest.mark.parametrize(
    ("content", "tool"),
    [({"shapes": [], "imagePath": "a.png", "version": "5"}, "labelme"),
     ({"a.png1": {"filename": "a.png", "regions": []}}, "VIA"),
     ({"_via_img_metadata": {}, "_via_settings": {}}, "VIA"),
     ([{"id": 1, "data": {}, "annotations": []}], "Label Studio"),
     ([{"image": "a.png", "annotations": []}], "CreateML")],
)  # fmt: skip
def test_the_own_format_of_another_tool_is_named(tmp_path, content, tool):
    refused(write(tmp_path, content), f"{tool}", "export as COCO")
