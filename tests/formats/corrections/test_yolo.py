"""Corrections as YOLO: label files of several tools, with the names that their images have here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.formats.corrections import yolo
from pipeline.types import CorrectedImage
from tests.exporter.subjects import CLASSES, IDS, SIZES, boxes_of
from tests.exporter.tools import export, subject

NAMES = "names:\n  0: robin\n  1: 'no'\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def in_pixels(image: CorrectedImage, size: tuple[int, int]) -> np.ndarray:
    return image.boxes * np.array([size[1], size[0], size[1], size[0]], np.float32)


@pytest.mark.parametrize("target", ["", "data.yaml"])
@pytest.mark.parametrize("options", [{}, {"outlines": "polygon"}, {"images": "none"}])
def test_what_we_wrote_comes_back(tmp_path: Path, options: dict[str, Any], target: str) -> None:
    export("yolo", subject(tmp_path / "images"), tmp_path / "yolo", **options)
    path = tmp_path / "yolo" / target
    assert yolo.matches(path)
    read = yolo.read(path)
    assert (read.format, read.notes) == ("yolo", [])
    by_name = {image.name: image for image in read.images}
    assert set(by_name) == set(IDS)
    for position, id in enumerate(IDS):
        image, wanted = by_name[id], boxes_of(position, False)
        assert image.are_fractions
        assert image.size is None
        assert not image.is_reviewed
        assert np.abs(in_pixels(image, SIZES[position]) - wanted.boxes).max(initial=0) < 0.01
        assert image.classes == [CLASSES[wanted.label]] * len(wanted.boxes)


def test_label_files_that_a_tool_put_side_by_side_keep_their_names(tmp_path: Path) -> None:
    export("yolo", subject(tmp_path / "images"), tmp_path / "yolo", images="none")
    for path in list((tmp_path / "yolo/labels").rglob("*.txt")):
        path.rename(tmp_path / "yolo/labels" / path.name)
    assert {image.name for image in yolo.read(tmp_path / "yolo").images} == set(IDS)


LINE = "0 0.5 0.5 0.2 0.4\n"
LAYOUTS = {
    "ultralytics": {"data.yaml": NAMES, "labels/train/a.txt": LINE, "images/train/a.jpg": ""},
    "label_studio": {"classes.txt": "robin\nno\n", "labels/a.txt": LINE, "images/a.jpg": ""},
    "classes_within": {"labels/classes.txt": "robin\n", "labels/a.txt": LINE},
    "roboflow": {
        "data.yaml": "names: [robin]\n", "train/labels/a.txt": LINE, "train/images/a.jpg": "",
    },
    "cvat": {"obj.names": "robin\n", "obj_train_data/a.txt": LINE, "obj_train_data/a.jpg": ""},
}  # fmt: skip


@pytest.mark.parametrize("tool", LAYOUTS)
def test_layouts_of_other_tools_are_read(tmp_path: Path, tool: str) -> None:
    path = write(tmp_path, LAYOUTS[tool])
    assert yolo.matches(path)
    (image,) = yolo.read(path).images
    assert image.boxes == pytest.approx(np.array([[0.4, 0.3, 0.6, 0.7]]), abs=1e-6)
    assert list(image.classes) == ["robin"]
    has_image = any(name.endswith(".jpg") for name in LAYOUTS[tool])
    assert image.name.endswith("a.jpg" if has_image else "a")


def test_an_outline_is_the_box_around_it(tmp_path: Path) -> None:
    lines = "1 0.1 0.2 0.5 0.2 0.5 0.9 0.1 0.9\n"
    write(tmp_path, {"data.yaml": NAMES, "labels/a.txt": lines})
    (image,) = yolo.read(tmp_path).images
    assert image.boxes == pytest.approx(np.array([[0.1, 0.2, 0.5, 0.9]]))
    assert list(image.classes) == ["no"]


ODD = {
    "0 0.5 0.5 0.2\n": "neither class and box",
    "0 0.5 0.5 0.2 0.4 0.9\n": "neither class and box",
    "0 a 0.5 0.2 0.4\n": "no numbers",
    "0 nan 0.5 0.2 0.4\n": "not finite",
    "7 0.5 0.5 0.2 0.4\n": "no name",
    "0.5 0.5 0.5 0.2 0.4\n": "no name",
    "0 30 20 10 10\n": "stick out",
    "0 0.5 0.5 0 0.4\n": "empty",
    "0 0.5 0.5 -0.2 0.4\n": "empty",
}


@pytest.mark.parametrize("line", ODD)
def test_an_odd_line_is_left_out_and_counted(tmp_path: Path, line: str) -> None:
    write(tmp_path, {"data.yaml": NAMES, "labels/a.txt": LINE + line})
    read = yolo.read(tmp_path)
    assert [len(image.boxes) for image in read.images] == [1]
    (note,) = read.notes
    assert "'labels/a.txt, line 2'" in note
    assert ODD[line] in note
    assert "left out" in note


def test_an_empty_label_file_is_an_image_without_boxes(tmp_path: Path) -> None:
    write(tmp_path, {"data.yaml": NAMES, "labels/a.txt": "", "labels/b.txt": LINE})
    assert [len(image.boxes) for image in yolo.read(tmp_path).images] == [0, 1]


def test_rounding_at_the_border_is_clipped(tmp_path: Path) -> None:
    write(tmp_path, {"data.yaml": NAMES, "labels/a.txt": "0 0.5 0.5 1.0004 1\n"})
    (image,) = yolo.read(tmp_path).images
    assert image.boxes.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"labels/a.txt": LINE}, "classes.txt"),
        ({"data.yaml": NAMES}, "labels/"),
        ({"data.yaml": NAMES, "labels/a.md": ""}, "no label file"),
        ({"data.yaml": "nc: 2\n", "labels/a.txt": LINE}, "names"),
        ({"data.yaml": "names: {a: b}\n", "labels/a.txt": LINE}, "number of a class"),
        ({"data.yaml": "names: [\n", "labels/a.txt": LINE}, "not YAML"),
        ({"data.yaml": NAMES, "labels/a.txt": "9 0.5 0.5 0.2 0.4\n"}, "none of its 1 lines"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        yolo.read(write(tmp_path, files))


@pytest.mark.parametrize("files", [{}, {"labels/a.txt": LINE}, {"data.yaml": NAMES}])
def test_other_folders_do_not_match(tmp_path: Path, files: dict[str, str]) -> None:
    assert not yolo.matches(write(tmp_path, files))
    assert not yolo.matches(tmp_path / "missing")
