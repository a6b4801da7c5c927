"""Corrections as COCO: what we wrote comes back the same, marks of review and scores are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from pipeline.formats.corrections import coco
from tests.exporter.subjects import CLASSES, HUMAN, IDS, SIZES, boxes_of
from tests.exporter.tools import export, subject

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}
CATEGORY = {"id": 5, "name": "robin"}


def box(**fields: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 2, 10, 20], **fields}


def write(folder: Path, annotations: list[Any], image: dict[str, Any] | None = None, **more: Any):
    path = folder / "corrected.json"
    content = {"images": [image or IMAGE], "categories": [CATEGORY], "annotations": annotations}
    path.write_text(json.dumps({**content, **more}))
    return path


@pytest.mark.parametrize("options", [{}, {"upright": True}, {"outlines": "polygon"}])
def test_what_we_wrote_comes_back(tmp_path: Path, options: dict[str, Any]) -> None:
    export("coco", subject(tmp_path / "images", masks=True), tmp_path / "coco", **options)
    path = tmp_path / "coco/predictions.json"
    assert coco.matches(path)
    read = coco.read(path)
    assert read.format == "coco"
    assert read.notes == []
    assert [image.name for image in read.images] == IDS
    assert [image.size for image in read.images] == SIZES
    for position, image in enumerate(read.images):
        wanted = boxes_of(position, True)
        assert np.abs(image.boxes - wanted.boxes).max(initial=0) < 0.01
        assert image.classes == [CLASSES[wanted.label]] * len(wanted.boxes)
        for mask, drawn in zip(image.masks, wanted.masks, strict=True):
            assert np.array_equal(coco_mask.decode(mask), coco_mask.decode(drawn))
        assert not image.are_fractions
        assert image.is_reviewed == (position == HUMAN)
        assert list(image.are_predictions) == [position != HUMAN] * len(wanted.boxes)


@pytest.mark.parametrize(
    ("annotation", "image", "is_prediction", "is_reviewed"),
    [
        ({}, {}, False, False),
        ({"score": 0.4}, {}, True, False),
        ({"confidence": "0.4"}, {}, True, False),
        ({"reviewed": True}, {}, False, True),
        ({"score": 0.4}, {"reviewed": "true"}, True, True),
    ],
)
def test_marks_say_who_found_a_box_and_who_saw_it(
    tmp_path: Path,
    annotation: dict[str, Any],
    image: dict[str, Any],
    is_prediction: bool,
    is_reviewed: bool,
) -> None:
    path = write(tmp_path, [box(**annotation)], {**IMAGE, **image})
    (read,) = coco.read(path).images
    assert list(read.are_predictions) == [is_prediction]
    assert read.is_reviewed == is_reviewed


def test_images_that_were_chosen_by_doubt_are_known(tmp_path: Path) -> None:
    for fields, by_doubt in (({"review_rank": 51}, True), ({"review_rank": 50}, False)):
        (image,) = coco.read(write(tmp_path, [box()], {**IMAGE, **fields})).images
        assert image.chosen_by_doubt == by_doubt
    (image,) = coco.read(write(tmp_path, [box()], info={"chosen_by": "doubt"})).images
    assert image.chosen_by_doubt


def test_odd_records_are_left_out_and_counted(tmp_path: Path) -> None:
    bad = [box(id=2, bbox=[0, 0, 0, 5]), box(id=3, category_id=6), box(id=4, image_id=9), "x"]
    read = coco.read(write(tmp_path, [box(), *bad]))
    (image,) = read.images
    assert image.boxes.tolist() == [[1, 2, 11, 22]]
    assert len([note for note in read.notes if "left out" in note]) == 4


def test_a_brush_mask_that_is_marked_as_a_crowd_is_an_object(tmp_path: Path) -> None:
    (image,) = coco.read(write(tmp_path, [box(iscrowd=1)])).images
    assert len(image.boxes) == 1


def test_an_image_without_boxes_is_there(tmp_path: Path) -> None:
    (image,) = coco.read(write(tmp_path, [], {**IMAGE, "reviewed": True})).images
    assert image.boxes.shape == (0, 4)
    assert image.is_reviewed


@pytest.mark.parametrize("content", ["[]", "{", '{"images": [], "annotations": []}', '{"a": 1}'])
def test_another_file_is_no_coco_data_set(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    assert not coco.matches(path)
    with pytest.raises(UserError, match=r"a\.json"):
        coco.read(path)
    assert not coco.matches(tmp_path)
    assert not coco.matches(tmp_path / "missing.json")
