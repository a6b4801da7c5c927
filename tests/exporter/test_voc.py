"""voc: what torchvision reads, boxes counted from 1, lists of parts, images with their turn."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCDetection

from pipeline.exporter.voc import Voc
from pipeline.types import FoundBoxes
from tests.exporter.subjects import (
    CLASSES,
    HUMAN,
    IDS,
    PARTS,
    SIZES,
    boxes_of,
    drawn_source,
    found_boxes,
    image_source,
    write_images,
)


@pytest.fixture
def found(tmp_path: Path) -> FoundBoxes:
    write_images(tmp_path / "images")
    return found_boxes(source=image_source(tmp_path / "images"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder that torchvision expects below its root."""
    folder = tmp_path / "VOCdevkit/VOC2012"
    folder.mkdir(parents=True)
    return folder


def read_box(record: dict[str, dict[str, str]]) -> list[float]:
    """Return half-open xyxy of an object, of which VOC counts pixels from 1, the last included."""
    side = {name: float(value) for name, value in record["bndbox"].items()}
    return [side["xmin"] - 1, side["ymin"] - 1, side["xmax"], side["ymax"]]


@pytest.mark.parametrize("upright", [False, True])
def test_torchvision_reads_images_and_boxes(found: FoundBoxes, out: Path, upright: bool) -> None:
    Voc(upright=upright)(found, out)
    seen = []
    for part in ("train", "val"):
        data = VOCDetection(str(out.parents[1]), year="2012", image_set=part, download=False)
        for image, content in data:
            record = content["annotation"]
            position = IDS.index(record["path"])
            seen.append((position, part))
            width, height = int(record["size"]["width"]), int(record["size"]["height"])
            assert (height, width) == SIZES[position]
            is_upright = upright or position != HUMAN
            assert image.size == ((width, height) if is_upright else (height, width))
            given = boxes_of(position, masks=False)
            objects = record.get("object", [])
            boxes = np.reshape([read_box(each) for each in objects], (-1, 4))
            assert boxes == pytest.approx(given.boxes, abs=0.01)
            assert {each["name"] for each in objects} <= {CLASSES[given.label]}
            assert [float(each["confidence"]) for each in objects if position != HUMAN] == (
                pytest.approx([] if given.confidences is None else given.confidences)
            )
    assert sorted(seen) == [(n, part) for n, part in enumerate(PARTS)]


def test_predictions_say_what_they_are(found: FoundBoxes, out: Path) -> None:
    Voc()(found, out)
    for path in (out / "Annotations").iterdir():
        root = ElementTree.parse(path).getroot()
        is_human = root.findtext("path") == IDS[HUMAN]
        sources = {each.findtext("source") for each in root.iter("object")}
        assert sources <= {"human" if is_human else "prediction"}
        assert root.findtext("source/annotation") == (
            "a person" if is_human else found.model_version
        )


def test_images_are_linked_copied_or_left(found: FoundBoxes, out: Path, tmp_path: Path) -> None:
    original = tmp_path / "images" / IDS[0]
    (name,) = [path.stem for path in _write(Voc(), found, out) if "robin" in path.name]
    assert os.path.samefile(original, out / f"JPEGImages/{name}.jpg")
    _write(Voc(images="copy"), found, out)
    assert not os.path.samefile(original, out / f"JPEGImages/{name}.jpg")
    assert original.read_bytes() == (out / f"JPEGImages/{name}.jpg").read_bytes()
    _write(Voc(images="none"), found, out.parent)
    assert not (out.parent / "JPEGImages").exists()


def _write(exporter: Voc, found: FoundBoxes, folder: Path) -> list[Path]:
    exporter(found, folder)
    return sorted((folder / "Annotations").iterdir())


def test_turned_images_are_named_or_written_upright(found: FoundBoxes, out: Path) -> None:
    notes = Voc()(found, out)
    (note,) = [note for note in notes if "EXIF" in note]
    assert IDS[HUMAN] in note.names
    assert "export.upright=true" in note
    (note,) = [note for note in Voc(upright=True)(found, out) if "upright" in note]
    assert "1 image" in note
    (path,) = [path for path in (out / "JPEGImages").iterdir() if "it_s" in path.name]
    with Image.open(path) as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert np.asarray(image).shape[:2] == SIZES[HUMAN]


def test_other_formats_are_counted(found: FoundBoxes, out: Path) -> None:
    (note,) = [note for note in Voc()(found, out) if "no JPEGs" in note]
    assert set(note.names) == {IDS[1], IDS[2]}


def test_drawn_images_are_written(out: Path) -> None:
    Voc()(found_boxes(source=drawn_source()), out)
    assert len(list((out / "JPEGImages").iterdir())) == len(IDS)


def test_masks_are_counted_as_missing(out: Path) -> None:
    notes = Voc()(found_boxes(masks=True), out)
    (note,) = [note for note in notes if "4 masks" in note]
    assert "box alone" in note
    assert any("not in JPEGImages" in note for note in notes)


def test_names_are_plain_and_unique(found: FoundBoxes, out: Path) -> None:
    names = [path.stem for path in _write(Voc(), found, out)]
    assert len(set(names)) == len(IDS)
    lists = [(out / f"ImageSets/Main/{part}.txt").read_text() for part in ("train", "val", "test")]
    assert sorted("".join(lists).splitlines()) == sorted(names)
    assert "val_robin_a_b" in names
    assert not [name for name in names if " " in name or "." in name]
