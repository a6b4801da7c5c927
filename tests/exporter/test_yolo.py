"""yolo: labels, names and images that ultralytics trains on, and nothing lost beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from pipeline.ops.rle import encode_rle
from pipeline.types import Boxes, CocoIds, FoundBoxes, ImageSource, Size
from tests.exporter.subjects import CLASSES, HUMAN, IDS, SIZES, drawn_source, found_boxes
from tests.exporter.tools import ULTRALYTICS, export, needs, read_by, subject


def boxes_in(path: Path, size: Size) -> list[tuple[int, list[float]]]:
    """Class and xyxy in pixels of each line of a label file."""
    height, width = size
    lines = []
    for line in path.read_text("ascii").splitlines():
        label, x, y, w, h = line.split()
        cx, cy, half_w, half_h = float(x), float(y), float(w) / 2, float(h) / 2
        box = [(cx - half_w) * width, (cy - half_h) * height,
               (cx + half_w) * width, (cy + half_h) * height]  # fmt: skip
        lines.append((int(label), box))
    return lines


def one_image(size: Size, boxes: Sequence[Sequence[float]], masks: Any = None) -> FoundBoxes:
    found = np.array(boxes, np.float32)
    item = Boxes("a.jpg", 0, found, np.ones(len(found), np.float32), size, masks)
    return FoundBoxes(
        boxes=lambda: iter([(0, item)]), sizes=lambda: iter([(0, size)]), ids=["a.jpg"],
        classes=["a"], coco=CocoIds([1], ["a.jpg"], [1]),
    )  # fmt: skip


def named(ids: Sequence[str], root: Path) -> FoundBoxes:
    """Images of these names, files of 12x12 pixels, with a box each."""
    for id in ids:
        path = root / id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (200, 10, 10)).save(path)

    def boxes() -> Iterator[tuple[int, Boxes]]:
        for n, id in enumerate(ids):
            corners = np.array([[1, 2, 8, 9]], np.float32)
            yield n, Boxes(id, 0, corners, np.ones(1, np.float32), (12, 12))

    count = len(ids)
    source = ImageSource(
        root, lambda n: root / ids[n], lambda n: "train", lambda n: 0,
        lambda n: np.full((12, 12, 3), n, np.uint8),
    )  # fmt: skip
    return FoundBoxes(
        boxes=boxes, sizes=lambda: ((n, (12, 12)) for n in range(count)), ids=ids,
        classes=["a"], coco=CocoIds(range(count), ids, [1]), source=source,
    )  # fmt: skip


def test_labels_are_the_boxes_to_a_hundredth_of_a_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = (7_001, 10_000)
    low = rng.uniform(0, 6_000, (200, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.5, 1_000, (200, 2))], 1).astype(np.float32)
    export("yolo", one_image(size, boxes.tolist()), tmp_path / "yolo")
    (label_file,) = (tmp_path / "yolo/labels").rglob("*.txt")
    read = np.array([box for _, box in boxes_in(label_file, size)])
    assert np.abs(read - boxes).max() < 0.01


def test_each_image_has_its_boxes_and_an_empty_file_where_it_has_none(tmp_path: Path) -> None:
    notes = export("yolo", subject(tmp_path / "images"), tmp_path / "yolo")
    with (tmp_path / "yolo/images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == IDS
    assert [row["file"].split("/")[1] for row in rows] == ["val", "val", "train", "train"]
    assert [row["source"] for row in rows] == ["label2box"] * 3 + ["human"]
    assert [row["review_rank"] for row in rows] == ["2", "1", "4", "3"]
    for row, size, count in zip(rows, SIZES, [2, 1, 0, 1], strict=True):
        label_file = (tmp_path / "yolo" / row["file"].replace("images", "labels", 1)).with_suffix(
            ".txt"
        )
        assert len(boxes_in(label_file, size)) == count
    assert any("1 image ('x.webp') has no box and an empty label file" in note for note in notes)
    assert any("reviewed by a person" in note for note in notes)
    assert any("below 10 pixels" in note for note in notes)


def test_scores_stand_beside_the_labels_and_a_person_has_none(tmp_path: Path) -> None:
    export("yolo", subject(tmp_path / "images"), tmp_path / "yolo")
    with (tmp_path / "yolo/confidence.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["class"], row["score"], row["confidence"], row["source"])
            for row in rows] == [
        ("1", CLASSES[0], "0.9", "0.8125", "label2box"),
        ("2", CLASSES[0], "0.1", "0.25", "label2box"),
        ("1", CLASSES[1], "0.9", "0.8125", "label2box"),
        ("1", CLASSES[2], "", "", "human"),
    ]  # fmt: skip
    for row in rows:
        assert (tmp_path / "yolo" / row["file"]).is_file()


ODD_NAMES = ("no", "1", "null", "a: b", "#c", "- d", "'e\"", " f ", "Zaunkönig", "鳥", "{g}")


def test_names_of_classes_are_text_whatever_they_are(tmp_path: Path) -> None:
    found = replace(found_boxes(0), classes=ODD_NAMES)
    export("yolo", found, tmp_path / "yolo")
    content = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text(encoding="utf-8"))
    assert content["names"] == dict(enumerate(ODD_NAMES))
    assert {"train", "val"} < set(content)


@pytest.mark.parametrize("present", ["train", "val", "test"])
def test_a_missing_part_is_another_and_a_note_says_so(tmp_path: Path, present: Any) -> None:
    found = named(["a.png"], tmp_path / "images")
    found = replace(found, source=replace(found.source, part=lambda n: present))
    notes = export("yolo", found, tmp_path / "yolo")
    content = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text(encoding="utf-8"))
    for part in ("train", "val"):
        assert any((tmp_path / "yolo" / content[part]).iterdir())
    assert len([note for note in notes if "ultralytics asks for" in note]) == 1


def test_images_are_hard_links(tmp_path: Path) -> None:
    export("yolo", subject(tmp_path / "images"), tmp_path / "yolo")
    assert (tmp_path / "yolo/images/val/a b.jpg").samefile(tmp_path / "images" / IDS[0])
    export("yolo", subject(tmp_path / "images"), tmp_path / "copy", images="copy")
    copied = tmp_path / "copy/images/val/a b.jpg"
    assert not copied.samefile(tmp_path / "images" / IDS[0])
    assert copied.read_bytes() == (tmp_path / "images" / IDS[0]).read_bytes()


def test_no_images_are_placed_where_none_are_wanted(tmp_path: Path) -> None:
    found = subject(tmp_path / "images")
    notes = export("yolo", found, tmp_path / "yolo", images="none")
    assert not [path for path in (tmp_path / "yolo/images").rglob("*") if path.is_file()]
    assert len(list((tmp_path / "yolo/labels").rglob("*.txt"))) == 4
    assert any("4 images" in note and "are not in images/" in note for note in notes)


def test_an_image_that_is_gone_is_counted(tmp_path: Path) -> None:
    found = subject(tmp_path / "images")
    (tmp_path / "images" / IDS[0]).unlink()
    notes = export("yolo", found, tmp_path / "yolo")
    assert any("'val/robin/a b.jpg'" in note and "has no file" in note for note in notes)


COLLIDING = [
    "鳥" * 80 + ".png",
    "a.jpg",
    "b/a.jpg",
    "b/a.png",
    "b/A.png",
    "con.png",
    "b/c d.jpg",
    "c:d.png",
    "x.gif",
]


def test_names_are_unique_without_ending_and_case(tmp_path: Path) -> None:
    notes = export("yolo", named(COLLIDING, tmp_path / "images"), tmp_path / "yolo")
    images = sorted((tmp_path / "yolo/images/train").iterdir())
    stems = [path.stem.casefold() for path in images]
    assert len(set(stems)) == len(COLLIDING)
    assert not {"con", "a"} & set(stems)
    assert {"c d", "c_d", "x"} < set(stems)
    assert {path.stem for path in (tmp_path / "yolo/labels/train").iterdir()} == {
        path.stem for path in images
    }
    assert (tmp_path / "yolo/images/train/x.png").is_file()  # ultralytics reads no GIF
    assert any("'x.gif'" in note and "PNG" in note for note in notes)


def test_a_name_does_not_depend_on_other_images(tmp_path: Path) -> None:
    names = []
    for number, ids in enumerate([["a.jpg", "b/a.jpg"], ["z.jpg", "c/a.png", "a.jpg", "b/a.jpg"]]):
        folder = tmp_path / str(number)
        export("yolo", named(ids, folder / "images"), folder / "yolo")
        with (folder / "yolo/images.csv").open(encoding="utf-8", newline="") as file:
            names.append({row["image"]: row["file"] for row in csv.DictReader(file)})
    assert names[0].items() <= names[1].items()


def test_an_image_that_is_drawn_is_written(tmp_path: Path) -> None:
    export("yolo", found_boxes(source=drawn_source()), tmp_path / "yolo")
    with Image.open(tmp_path / "yolo/images/val/a b.png") as image:
        assert image.size == (60, 40)
        assert image.getpixel((0, 0)) == (90, 90, 90)


def test_an_image_that_exif_turns_is_written_upright_where_asked(tmp_path: Path) -> None:
    found = subject(tmp_path / "images")
    original = tmp_path / "images" / IDS[HUMAN]
    content = original.read_bytes()
    notes = export("yolo", found, tmp_path / "yolo", upright=True)
    export("yolo", found, tmp_path / "yolo", upright=True)  # over what is there
    (turned,) = (tmp_path / "yolo/images/train").glob("1-*.jpg")
    assert original.read_bytes() == content
    with Image.open(turned) as image, Image.open(original) as raw:
        assert image.size == SIZES[HUMAN][::-1] != raw.size
        assert 0x0112 not in image.getexif()
        pixels, wanted = np.asarray(image, int), np.asarray(ImageOps.exif_transpose(raw), int)
        assert np.abs(pixels - wanted).mean() < 2
    assert (tmp_path / "yolo/images/val/a b.jpg").samefile(tmp_path / "images" / IDS[0])
    assert any("turned by EXIF" in note for note in notes)


def test_outlines_are_those_of_the_masks(tmp_path: Path) -> None:
    size = (40, 60)
    mask = np.zeros(size, np.uint8)
    mask[5:20, 10:30] = 1
    mask[25:35, 40:50] = 1
    ring = np.zeros(size, np.uint8)
    ring[2:30, 2:30] = 1
    ring[10:20, 10:20] = 0
    boxes = [[10, 5, 50, 35], [2, 2, 30, 30]]
    found = one_image(size, boxes, [encode_rle(mask, size), encode_rle(ring, size)])
    notes = export("yolo", found, tmp_path / "yolo", outlines="polygon")
    (label_file,) = (tmp_path / "yolo/labels").rglob("*.txt")
    first, second = (
        np.array(line.split()[1:], float).reshape(-1, 2) * size[::-1]
        for line in label_file.read_text().splitlines()
    )
    for points, wanted in ((first, mask), (second, np.maximum(ring, _filled(size)))):
        (drawn,) = coco_mask.decode(coco_mask.frPyObjects([points.ravel().tolist()], *size)).T
        assert np.array_equal(drawn.T, wanted)
    assert any("holes" in note and "0.872" in note for note in notes)


def _filled(size: Size) -> np.ndarray:
    whole = np.zeros(size, np.uint8)
    whole[2:30, 2:30] = 1
    return whole


def test_a_box_without_a_mask_is_a_rectangle_beside_outlines(tmp_path: Path) -> None:
    export("yolo", one_image((40, 60), [[15, 10, 30, 20]]), tmp_path / "yolo", outlines="polygon")
    (label_file,) = (tmp_path / "yolo/labels").rglob("*.txt")
    values = label_file.read_text().split()
    assert [float(value) for value in values] == [
        0, 0.25, 0.25, 0.5, 0.25, 0.5, 0.5, 0.25, 0.5,
    ]  # fmt: skip


TRAIN = """
import json, sys
from pathlib import Path
from ultralytics import YOLO
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset

data = check_det_dataset("yolo/data.yaml")
found = {}
for part in ("train", "val"):
    labels = YOLODataset(data[part], data=data, task=TASK, augment=False, batch_size=1).labels
    found[part] = [
        [Path(label["im_file"]).name, list(label["shape"]), label["cls"].ravel().tolist(),
         label["bboxes"].tolist(), len(label["segments"])] for label in labels
    ]
caches = [Path(f"yolo/labels/{part}.cache") for part in ("train", "val")]
import numpy as np
counts = [np.load(str(path), allow_pickle=True).item()["results"] for path in caches]
model = YOLO("yolov8n.yaml" if TASK == "detect" else "yolov8n-seg.yaml")
model.train(data="yolo/data.yaml", epochs=1, imgsz=64, batch=2, workers=0, device="cpu",
            plots=False, project=str(Path("runs").absolute()), amp=False, pretrained=False,
            verbose=False)
print("READ " + json.dumps([data["names"], found, counts]))
"""


@needs(ULTRALYTICS)
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_ultralytics_finds_everything_and_trains(tmp_path: Path, task: str) -> None:
    """Run ultralytics in an environment of its own: it is AGPL, and no dependency."""
    outlines = "polygon" if task == "segment" else "rle"
    found = subject(tmp_path / "source", masks=True)
    export("yolo", found, tmp_path / "yolo", outlines=outlines)
    code = TRAIN.replace("TASK", repr(task))
    settings = {"YOLO_CONFIG_DIR": str(tmp_path / "settings"), "YOLO_OFFLINE": "true"}
    names, found_labels, counts = read_by(ULTRALYTICS, code, tmp_path, **settings)
    assert list(names.values()) == list(CLASSES)
    # found, missing, empty, corrupt, total: x.webp is of one pixel, which a note says
    assert [(count[1], count[3], count[4]) for count in counts] == [(0, 1, 2), (0, 0, 2)]
    by_name = {label[0]: label[1:] for part in found_labels.values() for label in part}
    shape, classes, boxes, segments = by_name["a b.jpg"]
    assert shape == [40, 60]
    assert classes == [0, 0]
    assert segments == (2 if task == "segment" else 0)
    if task == "detect":
        x, y, width, height = np.array(boxes[0]) * [60, 40, 60, 40]
        assert np.allclose([x - width / 2, y - height / 2], [1.5, 2], atol=0.01)
        assert np.allclose([x + width / 2, y + height / 2], [30.25, 20], atol=0.01)
    (turned,) = [label for name, label in by_name.items() if name.startswith("1-") and
                 name.endswith(".jpg")]  # fmt: skip
    assert turned[0] == list(SIZES[HUMAN])  # ultralytics turns it by its EXIF data
    assert any((tmp_path / "runs").rglob("last.pt"))
