"""labelme's files: names relative to the folder, the flag `reviewed`, shapes, and odd files."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from pipeline.exporter.labelme import Labelme
from pipeline.formats.corrections import read_corrections
from pipeline.types import CorrectedImage
from tests.exporter.subjects import IDS, found_boxes, image_source, write_images
from tests.formats.corrections.roundtrip import by_name, check_boxes_came_back, check_image, count


def shape(
    kind: str = "rectangle", points: Any = ((30, 40), (10, 20)), **more: Any
) -> dict[str, Any]:
    return {"label": "cat", "shape_type": kind, "points": [list(point) for point in points], **more}


def write(path: Path, *shapes: Any, **fields: Any) -> Path:
    content = {
        "version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.png",
        "imageHeight": 80, "imageWidth": 100, **fields,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def read_one(tmp_path: Path, *shapes: Any, **fields: Any) -> CorrectedImage:
    (image,) = read_corrections(write(tmp_path / "a.json", *shapes, **fields)).images
    return image


@pytest.mark.parametrize("images", ["link", "none"])
@pytest.mark.parametrize("outlines", ["rle", "polygon"])
@pytest.mark.parametrize("masks", [False, True])
def test_what_was_exported_comes_back(
    masks: bool, outlines: str, images: str, tmp_path: Path
) -> None:
    write_images(tmp_path / "images")
    found = found_boxes(masks=masks, source=image_source(tmp_path / "images"))
    (tmp_path / "out").mkdir()
    Labelme(images=images, outlines=outlines)(found, tmp_path / "out")
    check_boxes_came_back(read_corrections(tmp_path / "out"), masks)


def test_the_flag_makes_boxes_a_persons(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    (tmp_path / "out").mkdir()
    Labelme()(found_boxes(source=image_source(tmp_path / "images")), tmp_path / "out")
    path = (tmp_path / "out" / IDS[0]).with_suffix(".json")
    content = json.loads(path.read_text("utf-8"))
    assert content["flags"] == {"reviewed": False}
    path.write_text(json.dumps({**content, "flags": {"reviewed": True}}))
    image = by_name(read_corrections(tmp_path / "out"))[IDS[0]]
    check_image(image, 0, masks=False)
    assert (image.is_reviewed, set(image.are_predictions)) == (True, {False})
    assert image.date is not None


def test_images_are_named_from_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "val/x/a.json", shape())
    write(tmp_path / "labels/b.json", shape(), imagePath="..\\images\\b.png")
    write(tmp_path / "c.json", shape(), imagePath="/data/c.png")
    names = {image.name for image in read_corrections(tmp_path).images}
    assert names == {"val/x/a.png", "images/b.png", "/data/c.png"}


def test_shapes_become_boxes(tmp_path: Path) -> None:
    pixels = np.array([[1, 0, 0], [1, 1, 0]], bool)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    png = base64.b64encode(content.getvalue()).decode()
    image = read_one(
        tmp_path, shape(), shape("circle", [(50, 40), (53, 44)]),
        shape("polygon", [(1, 1), (9, 1), (9, 5)]),
        shape("mask", [(60, 70), (62, 71)], mask=png),
    )  # fmt: skip
    expected = [[10, 20, 30, 40], [45, 35, 55, 45], [1, 1, 9, 5], [60, 70, 62, 72]]
    assert image.boxes.tolist() == expected
    assert image.masks[0] is None
    assert coco_mask.decode(image.masks[3])[70:72, 60:63].tolist() == pixels.astype(int).tolist()
    assert not image.is_reviewed
    assert image.are_predictions == [False] * 4  # nothing says that a program found them


def test_odd_shapes_and_files_are_left_out_and_counted(tmp_path: Path) -> None:
    write(
        tmp_path / "a.json", shape(), 7, {**shape(), "label": ""}, shape("line"),
        shape(points=[("a", 1), (2, 3)]), shape(points=[]), shape(points=[(1, 1), (1, 5)]),
        shape("polygon", [(1, 1), (2, 2)]), shape("mask", mask="no PNG"),
    )  # fmt: skip
    (tmp_path / "b.json").write_text('{"other": 1}')
    (tmp_path / "c.json").write_text("{")
    file = read_corrections(tmp_path)
    assert [len(image.boxes) for image in file.images] == [1]
    assert count(file) == 8 + 2
    assert all("left out" in note for note in file.notes)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"shapes":\n [,]}')
    with pytest.raises(UserError, match=r"a\.json, line 2, column 3: not JSON"):
        read_corrections(tmp_path / "a.json")
    with pytest.raises(UserError, match="no format that is known"):
        read_corrections(tmp_path)
