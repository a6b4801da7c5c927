"""CVAT's XML: who drew a shape, which images are finished, rotation, masks, and odd shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from pipeline.exporter.cvat import Cvat
from pipeline.formats.corrections import read_corrections
from pipeline.types import CorrectedImage, CorrectionFile
from tests.exporter.subjects import HUMAN, IDS, found_boxes
from tests.formats.corrections.roundtrip import by_name, check_boxes_came_back, check_image, count

BOX = '<box label="cat" source="{}" occluded="0" xtl="10" ytl="20" xbr="30" ybr="40" z_order="0"/>'


def read(tmp_path: Path, shapes: str, meta: str = "", image: str = "") -> CorrectionFile:
    path = tmp_path / "annotations.xml"
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta>{meta}'
        f'</meta><image id="0" name="val/a.png" width="100" height="80">{shapes}</image>{image}'
        "</annotations>",
        encoding="utf-8",
    )
    return read_corrections(path)


def read_one(tmp_path: Path, shapes: str, meta: str = "") -> CorrectedImage:
    (image,) = read(tmp_path, shapes, meta).images
    return image


@pytest.mark.parametrize("outlines", ["rle", "polygon"])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("is_folder", [False, True])
def test_what_was_exported_comes_back(
    is_folder: bool, masks: bool, outlines: str, tmp_path: Path
) -> None:
    Cvat(outlines=outlines)(found_boxes(masks=masks), tmp_path)
    file = read_corrections(tmp_path if is_folder else tmp_path / "annotations.xml")
    check_boxes_came_back(file, masks)
    assert file.format == "cvat"


@pytest.mark.parametrize("masks", [False, True])
def test_boxes_of_a_tagged_image_are_accepted(masks: bool, tmp_path: Path) -> None:
    Cvat()(found_boxes(masks=masks), tmp_path)
    path = tmp_path / "annotations.xml"
    start = '<image id="0"'
    text = path.read_text("utf-8")
    head, _, rest = text.partition(start)
    first, _, rest = rest.partition("</image>")
    path.write_text(f'{head}{start}{first}<tag label="reviewed"/></image>{rest}', "utf-8")
    images = by_name(read_corrections(path))
    check_image(images[IDS[0]], 0, masks)
    reviewed = {id for id, image in images.items() if image.is_reviewed}
    assert reviewed == {IDS[0], IDS[HUMAN]}
    assert set(images[IDS[0]].are_predictions) == {False}


@pytest.mark.parametrize(
    ("meta", "is_finished"),
    [
        ("<job><state>completed</state></job>", True),
        ("<task><jobs><job><stage>acceptance</stage></job></jobs></task>", True),
        ("<task><status>annotation</status></task>", False),
        ("<job><status>completed</status></job><job><status>annotation</status></job>", False),
        ("<task><name>a</name></task>", False),
    ],
)  # fmt: skip
def test_the_state_of_a_job_says_whether_images_are_finished(
    meta: str, is_finished: bool, tmp_path: Path
) -> None:
    file = read(tmp_path, BOX.format("auto"), meta)
    assert file.images[0].is_reviewed == is_finished
    assert bool(file.notes) == (not is_finished)
    assert file.images[0].are_predictions == [not is_finished]


@pytest.mark.parametrize(
    ("source", "is_prediction"),
    [("auto", True), ("file", True), ("manual", False), ("semi-auto", False), ("", False)],
)
def test_the_source_says_who_drew_a_box(source: str, is_prediction: bool, tmp_path: Path) -> None:
    assert read_one(tmp_path, BOX.format(source)).are_predictions == [is_prediction]


def test_a_file_without_any_state_says_so(tmp_path: Path) -> None:
    (note,) = read(tmp_path, BOX.format("manual")).notes
    assert "annotations.xml: 1 image ('val/a.png') has neither the tag" in note


def test_date_and_author_are_those_of_the_job(tmp_path: Path) -> None:
    meta = (
        "<job><state>completed</state><updated>2026-01-01</updated><assignee>ann</assignee></job>"
    )
    image = read_one(tmp_path, BOX.format("manual"), meta)
    assert (image.date, image.author, image.size) == ("2026-01-01", "ann", (80, 100))


def test_turned_boxes_and_ellipses_become_tight_boxes(tmp_path: Path) -> None:
    turned = (
        BOX.format("manual").replace("ybr", 'rotation="90" ybr').replace('xbr="30"', 'xbr="50"')
    )
    ellipse = '<ellipse label="cat" source="manual" cx="50" cy="40" rx="20" ry="10"/>'
    image = read_one(tmp_path, turned + ellipse)
    assert image.boxes.round(3).tolist() == [[20, 10, 40, 50], [30, 30, 70, 50]]


def test_masks_are_run_lengths_inside_their_box(tmp_path: Path) -> None:
    mask = '<mask label="cat" rle="0, 3, 1, 2" left="10" top="20" width="3" height="2"/>'
    image = read_one(tmp_path, mask)
    assert image.boxes.tolist() == [[10, 20, 13, 22]]
    pixels = coco_mask.decode(image.masks[0])
    assert pixels[20:22, 10:13].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert pixels.sum() == 5


def test_polygons_of_a_group_are_one_object_of_their_class(tmp_path: Path) -> None:
    polygon = '<polygon label="{}" group_id="1" points="{},0;{},0;{},10"/>'
    parts = [polygon.format("cat", 0, 10, 10), polygon.format("cat", 40, 60, 60),
             polygon.format("dog", 70, 80, 80)]  # fmt: skip
    image = read_one(tmp_path, "".join(parts))
    assert image.boxes.tolist() == [[0, 0, 60, 10], [70, 0, 80, 10]]
    assert list(image.classes) == ["cat", "dog"]


def test_odd_shapes_are_left_out_and_counted(tmp_path: Path) -> None:
    shapes = [
        BOX.format("manual"), BOX.format("manual").replace('"10"', '"x"'),
        BOX.format("manual").replace('"30"', '"5"'), '<polyline label="cat" points="1,1;2,2"/>',
        '<polygon label="cat" points="1,1;2,2"/>', '<polygon label="cat" points="a"/>',
        '<mask label="cat" rle="1, 2" left="10" top="20" width="3" height="2"/>',
        '<mask label="cat" rle="6" left="99" top="20" width="3" height="2"/>',
        '<box xtl="1" ytl="1" xbr="2" ybr="2"/>',
    ]  # fmt: skip
    file = read(tmp_path, "".join(shapes), "<job><state>completed</state></job>")
    assert len(file.images[0].boxes) == 1
    assert count(file) == 8
    assert all("left out" in note for note in file.notes)


def test_an_image_is_read_once(tmp_path: Path) -> None:
    again = f'<image id="1" name="val/a.png" width="100" height="80">{BOX.format("manual")}</image>'
    file = read(tmp_path, "", "<job><state>completed</state></job>", again)
    assert [len(image.boxes) for image in file.images] == [1]
    assert "newer record" in file.notes[0]


def test_broken_files_and_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"annotations\.xml, line 1, column \d+: not XML"):
        read(tmp_path, "<box>")
    with pytest.raises(UserError, match=r"annotations of a video.*CVAT for images"):
        read(tmp_path, "", image='<track id="0"></track>')
    (tmp_path / "a.xml").write_text("<other/>")
    with pytest.raises(UserError, match="no format that is known"):
        read_corrections(tmp_path / "a.xml")
