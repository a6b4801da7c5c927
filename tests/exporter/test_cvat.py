"""cvat: XML that CVAT's rules and datumaro read, with every name as it is, boxes to the pixel."""

from __future__ import annotations

import json
import os
import subprocess
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.exporter.cvat import ATTRIBUTES, Cvat
from pipeline.types import Boxes, CocoIds, FoundBoxes, Size
from tests.exporter.subjects import (
    CLASSES,
    HUMAN,
    IDS,
    SIZES,
    boxes_of,
    drawn_source,
    found_boxes,
    image_source,
    without_review,
    write_images,
)

DATUMARO = "LABEL2BOX_DATUMARO_PYTHON"


def export(folder: Path, masks: bool = False, outlines: str = "rle") -> ElementTree.Element:
    Cvat(outlines=outlines)(found_boxes(masks=masks), folder)
    return ElementTree.parse(folder / "annotations.xml").getroot()


def test_images_have_names_sizes_and_boxes(tmp_path: Path) -> None:
    images = export(tmp_path).findall("image")
    assert [image.get("name") for image in images] == IDS
    assert [(int(image.get("height")), int(image.get("width"))) for image in images] == SIZES
    assert len({image.get("id") for image in images}) == len(IDS)
    for position, image in enumerate(images):
        given = boxes_of(position, masks=False)
        sides = ("xtl", "ytl", "xbr", "ybr")
        boxes = [[float(box.get(side)) for side in sides] for box in image.iter("box")]
        assert np.reshape(boxes, (-1, 4)) == pytest.approx(given.boxes, abs=0.01)
        assert {box.get("label") for box in image.iter("box")} <= {CLASSES[given.label]}


def test_predictions_are_never_manual(tmp_path: Path) -> None:
    for position, image in enumerate(export(tmp_path, masks=True).findall("image")):
        sources = {shape.get("source") for shape in image}
        assert sources <= {"manual" if position == HUMAN else "auto"}
        assert [tag.get("label") for tag in image.iter("tag")] == ["reviewed"] * (position == HUMAN)


def test_attributes_are_declared_and_hold_confidence_and_rank(tmp_path: Path) -> None:
    root = export(tmp_path)
    labels = root.findall("meta/task/labels/label")
    assert [label.findtext("name") for label in labels] == [*CLASSES, "reviewed"]
    for label in labels[:-1]:
        names = [attribute.findtext("name") for attribute in label.iter("attribute")]
        assert names == list(ATTRIBUTES)
    box = root.find("image/box")
    values = {attribute.get("name"): float(attribute.text) for attribute in box}
    assert values == {"confidence": 0.8125, "score": 0.9, "probability": 0.75, "review_rank": 2}
    constructor = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    assert [label["name"] for label in constructor] == [*CLASSES, "reviewed"]


def test_what_is_not_known_is_not_written(tmp_path: Path) -> None:
    notes = Cvat()(without_review(found_boxes()), tmp_path)
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    assert {each.get("name") for each in root.iterfind("image/box/attribute")} == {"score"}
    assert notes == []


def test_images_without_boxes_have_no_place_for_their_rank(tmp_path: Path) -> None:
    (note,) = Cvat()(found_boxes(), tmp_path)
    assert "1 image ('x.webp') has no box" in note


@pytest.mark.parametrize("outlines", ["rle", "polygon"])
def test_masks_are_in_the_group_of_their_box(outlines: str, tmp_path: Path) -> None:
    image = export(tmp_path, masks=True, outlines=outlines).find("image")
    boxes, shapes = image.findall("box"), image.findall("mask" if outlines == "rle" else "polygon")
    assert [shape.get("group_id") for shape in shapes] == [box.get("group_id") for box in boxes]
    if outlines == "rle":
        runs = [int(run) for run in shapes[0].get("rle").split(",")]
        left, top, width, height = (
            int(shapes[0].get(side)) for side in ("left", "top", "width", "height")
        )
        pixels = np.zeros(SIZES[0], np.uint8)
        values = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
        pixels[top : top + height, left : left + width] = values
        assert (pixels == coco_mask.decode(boxes_of(0, masks=True).masks[0])).all()


def test_images_lie_beside_under_their_names(tmp_path: Path) -> None:
    write_images(tmp_path / "originals")
    found = found_boxes(source=image_source(tmp_path / "originals"))
    Cvat()(found, tmp_path)
    for id in IDS:
        assert os.path.samefile(tmp_path / "originals" / id, tmp_path / "images" / id)
    (tmp_path / "none").mkdir()
    Cvat(images="none")(found, tmp_path / "none")
    assert not (tmp_path / "none/images").exists()


def test_images_that_are_no_files_are_written(tmp_path: Path) -> None:
    Cvat()(found_boxes(source=drawn_source()), tmp_path)
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    for image in root.findall("image"):
        with Image.open(tmp_path / "images" / image.get("name")) as picture:
            assert picture.size == (int(image.get("width")), int(image.get("height")))


def test_characters_that_xml_cannot_hold_are_escaped_and_counted(tmp_path: Path) -> None:
    found = replace(found_boxes(), classes=("a\0b", *CLASSES[1:]))
    notes = Cvat()(found, tmp_path)
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    assert root.findtext("meta/task/labels/label/name") == r"a\x00b"
    assert any("1 class" in note for note in notes)


def test_memory_does_not_grow_with_the_number_of_boxes(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        Cvat()(many_boxes(count), tmp_path)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(4000) < peak(400) + 200_000


def many_boxes(count: int) -> FoundBoxes:
    """Return five boxes in each of `count` images."""
    boxes = np.array([[n, n, n + 5, n + 9] for n in range(5)], np.float32)

    def iterate() -> Iterator[tuple[int, Boxes]]:
        for n in range(count):
            yield n, Boxes("a", 0, boxes, np.ones(5, np.float32), (40, 60))

    def sizes() -> Iterator[tuple[int, Size]]:
        yield from ((n, (40, 60)) for n in range(count))

    ids = ["a"] * count
    return FoundBoxes(
        boxes=iterate, sizes=sizes, ids=ids, classes=["a"], coco=CocoIds(range(count), ids, [1])
    )


IMPORT = """
import json
from datumaro import Dataset
data = Dataset.import_from("annotations.xml", "cvat")
names = [label.name for label in data.categories().popitem()[1].items]
rows = [
    [item.id, names[a.label], list(map(float, a.get_bbox())), a.attributes.get("confidence"),
     type(a).__name__]
    for item in data for a in item.annotations if type(a).__name__ != "Label"
]
print("READ", json.dumps([rows, names]))
"""


@pytest.mark.skipif(DATUMARO not in os.environ, reason=f"{DATUMARO} names no python with datumaro")
@pytest.mark.parametrize("outlines", ["rle", "polygon"])
def test_datumaro_reads_the_file(outlines: str, tmp_path: Path) -> None:
    """Run datumaro in an environment of its own, which ./scripts/test tools makes."""
    write_images(tmp_path / "originals")
    found = found_boxes(masks=True, source=image_source(tmp_path / "originals"))
    Cvat(outlines=outlines)(found, tmp_path)
    result = subprocess.run(
        [os.environ[DATUMARO], "-c", IMPORT],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("READ ")]
    rows, names = json.loads(line.removeprefix("READ "))
    assert names == [*CLASSES, "reviewed"]
    boxes = [row for row in rows if row[4] == "Bbox"]
    expected = [
        (IDS[position].rpartition(".")[0], CLASSES[given.label], box)
        for position in range(len(IDS))
        for given in [boxes_of(position, masks=True)]
        for box in given.boxes.tolist()
    ]
    assert [tuple(row[:2]) for row in boxes] == [row[:2] for row in expected]
    for (_, _, (x, y, w, h), *_), (_, _, box) in zip(boxes, expected, strict=True):
        assert [x, y, x + w, y + h] == pytest.approx(box, abs=0.01)
    assert [float(row[3]) for row in boxes[:2]] == [0.8125, 0.25]
    assert len(rows) == 2 * len(boxes)
