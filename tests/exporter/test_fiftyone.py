"""fiftyone: samples that FiftyOne's own importer takes; its database is not needed for that."""

from __future__ import annotations

import base64
import io
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.types import Size
from tests.exporter.subjects import CLASSES, HUMAN, IDS, SIZES, boxes_of, without_review
from tests.exporter.tools import FIFTYONE, export, needs, read_by, subject


def samples(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "samples.json").read_text("ascii"))["samples"]


def to_pixels(box: list[float], size: Size) -> list[float]:
    x, y, width, height = np.array(box) * [size[1], size[0], size[1], size[0]]
    return [x, y, x + width, y + height]


def test_boxes_classes_confidences_and_tags_come_back(tmp_path: Path) -> None:
    export("fiftyone", subject(tmp_path / "images"), tmp_path / "out")
    read = samples(tmp_path / "out")
    assert [sample["image"] for sample in read] == IDS
    assert [sample["tags"] for sample in read] == [
        ["val"], ["val", "review_sample"], ["train"], ["train", "reviewed"],
    ]  # fmt: skip
    assert [sample["review_rank"] for sample in read] == [2, 1, 4, 3]
    for position, sample in enumerate(read):
        field = "human" if position == HUMAN else "predictions"
        boxes, wanted = sample[field]["detections"], boxes_of(position, False)
        assert [box["label"] for box in boxes] == [CLASSES[wanted.label]] * len(wanted.boxes)
        for box, corners in zip(boxes, wanted.boxes, strict=True):
            assert np.abs(to_pixels(box["bounding_box"], SIZES[position]) - corners).max() < 0.01
    first = read[0]["predictions"]["detections"]
    assert [(box["confidence"], box["score"]) for box in first] == [(0.8125, 0.9), (0.25, 0.1)]


def test_what_a_person_drew_is_apart_and_has_no_confidence(tmp_path: Path) -> None:
    export("fiftyone", subject(tmp_path / "images"), tmp_path / "out")
    *others, human = samples(tmp_path / "out")
    assert human["predictions"]["detections"] == []
    (box,) = human["human"]["detections"]
    assert not {"confidence", "score"} & set(box)
    assert not [sample for sample in others if "human" in sample]


def test_images_lie_in_data(tmp_path: Path) -> None:
    export("fiftyone", subject(tmp_path / "images"), tmp_path / "out")
    for sample, id in zip(samples(tmp_path / "out"), IDS, strict=True):
        assert (tmp_path / "out" / sample["filepath"]).samefile(tmp_path / "images" / id)
    export("fiftyone", subject(tmp_path / "images"), tmp_path / "none", images="none")
    for sample, id in zip(samples(tmp_path / "none"), IDS, strict=True):
        assert sample["filepath"] == str(tmp_path / "images" / id)


def test_without_confidence_the_score_stands_there_and_a_note_says_so(tmp_path: Path) -> None:
    found = without_review(subject(tmp_path / "images"))
    notes = export("fiftyone", found, tmp_path / "out")
    first = samples(tmp_path / "out")[0]["predictions"]["detections"]
    assert [box["confidence"] for box in first] == [0.9, 0.1]
    assert any("have boxes without a confidence" in note and "2 images" in note for note in notes)
    assert export("fiftyone", subject(tmp_path / "images"), tmp_path / "with") == []


@pytest.mark.parametrize("position", [0, 1])
def test_a_mask_is_the_part_within_its_box(tmp_path: Path, position: int) -> None:
    export("fiftyone", subject(tmp_path / "images", masks=True), tmp_path / "out")
    box = samples(tmp_path / "out")[position]["predictions"]["detections"][0]
    content = base64.b64decode(box["mask"]["$binary"]["base64"])
    mask = np.load(io.BytesIO(zlib.decompress(content)))
    wanted = boxes_of(position, True)
    x0, y0, x1, y1 = wanted.boxes[0].tolist()
    whole = coco_mask.decode(wanted.masks[0]).astype(bool)
    assert np.array_equal(mask, whole[int(y0) : math.ceil(y1), int(x0) : math.ceil(x1)])
    assert mask.sum() == whole.sum()


READ = """
import json
from fiftyone.utils.data.importers import FiftyOneDatasetImporter
importer = FiftyOneDatasetImporter("out")
assert importer._is_legacy_format_data()
importer = importer._to_legacy_importer()
importer.setup()
samples = list(importer)
def boxes(sample, field):
    if not sample.has_field(field) or sample[field] is None:
        return []
    return [[d.label, d.bounding_box, d.confidence, None if d.mask is None else int(d.mask.sum())]
            for d in sample[field].detections]
print("READ " + json.dumps([
    importer.get_dataset_info()["classes"],
    [[s.filepath, s.tags, s["image"], s["review_rank"], boxes(s, "predictions"), boxes(s, "human")]
     for s in samples]]))
"""


@needs(FIFTYONE)
def test_fiftyone_reads_it(tmp_path: Path) -> None:
    """Run FiftyOne's importer, which makes samples without a database."""
    export("fiftyone", subject(tmp_path / "images", masks=True), tmp_path / "out")
    settings = {"FIFTYONE_DO_NOT_TRACK": "true", "HOME": str(tmp_path)}
    classes, read = read_by(FIFTYONE, READ, tmp_path, **settings)
    assert classes == list(CLASSES)
    assert [sample[2] for sample in read] == IDS
    assert all(Path(sample[0]).is_file() for sample in read)
    assert [sample[1] for sample in read] == [
        ["val"], ["val", "review_sample"], ["train"], ["train", "reviewed"],
    ]  # fmt: skip
    assert [sample[3] for sample in read] == [2, 1, 4, 3]
    label, box, confidence, mask = read[0][4][0]
    assert (label, confidence) == (CLASSES[0], 0.8125)
    assert np.abs(to_pixels(box, SIZES[0]) - boxes_of(0, False).boxes[0]).max() < 0.01
    assert mask == coco_mask.area(boxes_of(0, True).masks[0])
    assert [len(sample[4]) for sample in read] == [2, 1, 0, 0]
    assert [len(sample[5]) for sample in read] == [0, 0, 0, 1]
    assert read[HUMAN][5][0][2] is None
