"""The XML of PASCAL VOC: boxes by both conventions, odd objects apart, odd files refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.formats.odd_records import BadRecord
from pipeline.formats.pascal_voc import read_voc

OBJECT = (
    "<object><name>cat</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin>"
    "<ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def write(path: Path, *objects: str, size: tuple[int, int] = (40, 60)) -> Path:
    width_height = f"<width>{size[1]}</width><height>{size[0]}</height>"
    path.write_text(f"<annotation><size>{width_height}</size>{''.join(objects)}</annotation>")
    return path


@pytest.mark.parametrize(("first_pixel", "box"), [(1, (0, 1, 60, 40)), (0, (1, 2, 61, 41))])
def test_boxes_of_both_conventions(tmp_path, first_pixel, box):
    path = write(tmp_path / "a.xml", OBJECT.format(1, 2, 60, 40, difficult=1))
    image = read_voc(path, first_pixel)
    (only,) = image.objects
    assert (image.size, only.name, only.box, only.is_difficult) == ((40, 60), "cat", box, True)


@pytest.mark.parametrize(
    ("corners", "fault"),
    [((9, 2, 5, 4), "reversed"), (("nan", 2, 5, 4), "not finite"), (("", 2, 5, 4), "four numbers")],
)
def test_odd_objects_are_apart(tmp_path, corners, fault):
    good, bad = (OBJECT.format(*c, difficult=0) for c in ((1, 1, 5, 5), corners))
    image = read_voc(write(tmp_path / "a.xml", bad, good))
    assert [one.box for one in image.objects] == [(0, 0, 5, 5)]
    assert len(image.faults) == 1
    assert fault in image.faults[0]


def test_a_size_of_zero_is_none(tmp_path):
    assert read_voc(write(tmp_path / "a.xml", size=(0, 0))).size is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [("<annotation>\n<object>", "not XML from line 2"), ("", "not XML from line 1"),
     ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "with entities"),
     ('<?xml version="1.0" encoding="nothing"?><a/>', "not XML")],
)  # fmt: skip
def test_odd_files(tmp_path, text, reason):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(BadRecord, match=reason):
        read_voc(path)
    with pytest.raises(FileNotFoundError):
        read_voc(tmp_path / "none.xml")
