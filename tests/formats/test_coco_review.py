"""Marks of a review are read from images, annotations and info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats import coco
from pipeline.formats.coco_review import is_chosen_by_doubt


def read(
    tmp_path: Path, image: dict[str, Any], annotations: list[dict[str, Any]], info: Any = None
) -> coco.CocoImage:
    """The only image of a file."""
    path = tmp_path / "boxes.json"
    given = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [n, 2, 3, 4], **annotation}
        for n, annotation in enumerate(annotations, 1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30, **image}],
        "annotations": given,
        "categories": [{"id": 1, "name": "cat"}],
    }
    path.write_text(json.dumps(content if info is None else {**content, "info": info}))
    (only,) = coco.read(path).images
    return only


def test_boxes_with_a_score_are_told_from_others(tmp_path: Path) -> None:
    image = read(tmp_path, {}, [{"score": 0.9}, {}, {"confidence": "0.4"}, {"score": None}])
    assert image.scored == [True, False, True, False]
    assert not image.is_reviewed
    kept = image.without_scored_boxes()
    assert (kept.boxes, kept.records) == (image.boxes[1::2], [1, 3])
    assert len(image.boxes) == 4


@pytest.mark.parametrize(("image", "annotation", "is_reviewed"), [
    ({"reviewed": True}, {}, True), ({}, {"reviewed": 1}, True), ({}, {"reviewed": False}, False),
    ({"reviewed": "true"}, {}, True), ({}, {}, False),
])  # fmt: skip
def test_an_image_is_reviewed_where_it_or_an_annotation_says_so(
    tmp_path: Path, image: dict[str, Any], annotation: dict[str, Any], is_reviewed: bool
) -> None:
    assert read(tmp_path, image, [{"score": 0.9}, annotation]).is_reviewed is is_reviewed


@pytest.mark.parametrize(("image", "info", "by_doubt"), [
    ({}, None, False), ({}, "about", False), ({}, {"chosen_by": "doubt"}, True),
    ({"chosen_by": "random"}, {"chosen_by": "doubt"}, False), ({"sample": "doubt"}, {}, True),
    ({"review_rank": 50}, {"chosen_by": "doubt"}, False), ({"review_rank": "51"}, {}, True),
    ({"review_rank": 60, "sample": "random"}, {}, False),
])  # fmt: skip
def test_words_of_the_image_precede_its_rank_and_the_file(
    tmp_path: Path, image: dict[str, Any], info: Any, by_doubt: bool
) -> None:
    assert read(tmp_path, image, [{}], info).chosen_by_doubt is by_doubt
    assert is_chosen_by_doubt(image, info) is by_doubt
