"""coco: what is written opens in readers that are strict, and on machines of another locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision.datasets import CocoDetection

from pipeline.exporter.coco import Coco
from pipeline.formats import coco, coco_results
from pipeline.ops.rle import encode_rle
from pipeline.types import Boxes, CocoIds, FoundBoxes, Size
from tests.exporter import tools
from tests.exporter.subjects import CLASSES as ODD_CLASSES
from tests.exporter.subjects import HUMAN, IDS, PARTS, SIZES, boxes_of, drawn_source, found_boxes
from tests.exporter.tools import DATUMARO, needs, read_by, subject

SIZE: Size = (40, 60)
NAMES = ["val/Zaunkönig/Übung 1.jpg", "val/鳥/2.png", "val/without box.png"]
CLASSES = ("Zaunkönig", "鳥")


def export(folder: Path, masks: bool) -> Path:
    """Write boxes of names beyond ASCII: two in the first image, one in the second, none."""

    def boxes() -> Iterator[tuple[int, Boxes]]:
        for position, corners in enumerate([[[1, 2, 30, 20], [0, 0, 60, 40]], [[5, 5, 9, 9]]]):
            found = np.array(corners, np.float32)
            drawn = [encode_rle(np.ones(SIZE, np.uint8), SIZE) for _ in found] if masks else None
            scores = np.array([0.9, 0.1][: len(found)], np.float32)
            yield position, Boxes(NAMES[position], position, found, scores, SIZE, drawn)

    def sizes() -> Iterator[tuple[int, Size]]:
        yield from ((position, SIZE) for position in range(len(NAMES)))

    names = CocoIds([1, 2, 3], NAMES, [1, 2])
    Coco()(FoundBoxes(boxes=boxes, sizes=sizes, ids=NAMES, classes=CLASSES, coco=names), folder)
    return folder


@pytest.mark.parametrize("masks", [False, True])
def test_every_field_that_readers_ask_for_is_there(tmp_path: Path, masks: bool) -> None:
    folder = export(tmp_path, masks)
    content = json.loads((folder / "predictions.json").read_text("ascii"))
    assert set(content) == {"info", "licenses", "images", "categories", "annotations"}
    assert content["licenses"] == []
    assert all(isinstance(value, str) for value in content["info"].values())
    for record in content["images"]:
        assert set(record) == {"id", "file_name", "width", "height"}
    for record in content["categories"]:
        assert set(record) == {"id", "name", "supercategory"}
    for record in content["annotations"]:
        assert {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"} < set(
            record
        )
        assert bool(record["segmentation"]) == masks
        assert record["iscrowd"] == 0
        assert record["score"] > 0
    assert [record["file_name"] for record in content["images"]] == NAMES
    assert len({record["id"] for record in content["annotations"]}) == 3


def test_our_reader_takes_both_files_as_they_are(tmp_path: Path) -> None:
    folder = export(tmp_path, masks=True)
    known = coco.read(folder / "predictions.json")
    assert known.notes == []
    assert [len(image.boxes) for image in known.images] == [2, 1, 0]
    results = coco_results.read(folder / "boxes.json", known)
    assert results.notes == []
    assert len(results.boxes) == 3


READ = """
import locale, sys
assert locale.getpreferredencoding(False).upper() not in ("UTF-8", "UTF8"), "a UTF-8 locale"
from pycocotools.coco import COCO
known = COCO("predictions.json")
found = known.loadRes("boxes.json")
assert len(known.imgs) == 3 and len(known.anns) == len(found.anns) == 3
print(ascii([known.imgs[1]["file_name"], known.cats[2]["name"]]))
"""


def test_pycocotools_reads_both_where_the_locale_is_not_utf8(tmp_path: Path) -> None:
    folder = export(tmp_path, masks=False)
    # Without coercion, as on a minimal server, open() decodes as ASCII.
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert ascii([NAMES[0], CLASSES[1]]) in told.stdout


IMPORT = """
import json, sys
from datumaro import Dataset
data = Dataset.import_from("set", "coco_instances")
items = [
    [item.id, sum(type(a).__name__ == "Bbox" for a in item.annotations)] for item in data
]
print("READ", json.dumps([items, [c.name for c in data.categories().popitem()[1].items]]))
"""


@needs(DATUMARO)
@pytest.mark.parametrize("masks", [False, True])
def test_datumaro_reads_the_data_set(tmp_path: Path, masks: bool) -> None:
    """Run datumaro in an environment of its own, which ./scripts/test tools makes."""
    folder = export(tmp_path, masks)
    (tmp_path / "set/annotations").mkdir(parents=True)
    (tmp_path / "set/images").mkdir()
    (folder / "predictions.json").rename(tmp_path / "set/annotations/instances_val.json")
    items, names = read_by(DATUMARO, IMPORT, tmp_path)
    counts: dict[str, Any] = dict(items)
    assert [counts[name.rsplit(".", 1)[0]] for name in NAMES] == [2, 1, 0]
    assert names == list(CLASSES)


# -- what stage export adds, as it knows where the images are


def content(path: Path) -> Any:
    return json.loads(path.read_text("ascii"))


def test_each_part_has_a_data_set(tmp_path: Path) -> None:
    tools.export("coco", subject(tmp_path / "images"), tmp_path / "coco")
    whole = content(tmp_path / "coco/predictions.json")
    parts = {part: content(tmp_path / f"coco/instances_{part}.json") for part in ("train", "val")}
    assert not (tmp_path / "coco/instances_test.json").exists()
    for field in ("images", "annotations"):
        merged = [record for part in parts.values() for record in part[field]]
        assert sorted(merged, key=lambda record: record["id"]) == sorted(
            whole[field], key=lambda record: record["id"]
        )
    for part, data in parts.items():
        assert data["info"] == whole["info"]
        assert data["categories"] == whole["categories"]
        ids = {image["id"] for image in data["images"]}
        assert {image["split"] for image in data["images"]} == {part}
        assert {record["image_id"] for record in data["annotations"]} <= ids
    assert [image["split"] for image in whole["images"]] == PARTS
    assert whole["info"]["root"] == str(tmp_path / "images")
    for image in whole["images"]:
        assert (tmp_path / "images" / image["file_name"]).is_file()


def test_without_knowing_where_images_are_there_are_the_two_files_alone(tmp_path: Path) -> None:
    tools.export("coco", found_boxes(), tmp_path / "coco")
    assert {path.name for path in (tmp_path / "coco").iterdir()} == {
        "boxes.json", "predictions.json",
    }  # fmt: skip
    whole = content(tmp_path / "coco/predictions.json")
    assert "root" not in whole["info"]
    assert not [image for image in whole["images"] if "split" in image]


def test_what_a_person_drew_has_no_score(tmp_path: Path) -> None:
    tools.export("coco", subject(tmp_path / "images"), tmp_path / "coco")
    whole = content(tmp_path / "coco/predictions.json")
    *others, human = whole["annotations"]
    assert human["source"] == "human"
    assert not {"score", "confidence", "probability"} & set(human)
    assert all("source" not in record and record["score"] > 0 for record in others)
    assert [bool(image.get("reviewed")) for image in whole["images"]] == [False] * 3 + [True]
    known = coco.read(tmp_path / "coco/predictions.json")
    assert [image.scored for image in known.images] == [[True, True], [True], [], [False]]
    assert [image.is_reviewed for image in known.images] == [False, False, False, True]
    results = content(tmp_path / "coco/boxes.json")
    assert [record.get("source") for record in results] == [None, None, None, "human"]


def test_pycocotools_reads_each_part_with_odd_names(tmp_path: Path) -> None:
    tools.export("coco", subject(tmp_path / "images", masks=True), tmp_path / "coco")
    read = COCO(str(tmp_path / "coco/instances_val.json"))
    assert [category["name"] for category in read.cats.values()] == list(ODD_CLASSES)
    boxes = [record["bbox"] for record in read.loadAnns(read.getAnnIds(imgIds=[7]))]
    corners = np.array([[x, y, x + width, y + height] for x, y, width, height in boxes])
    assert np.abs(corners - boxes_of(0, False).boxes).max() < 0.01
    (record,) = read.loadAnns(read.getAnnIds(imgIds=[3]))
    assert (record["confidence"], record["review_rank"]) == (0.8125, 1)
    wanted = coco_mask.decode(boxes_of(1, True).masks[0])
    assert np.array_equal(read.annToMask(record), wanted)


def blobs(size: Size) -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.random((size[0] // 8, size[1] // 8)) > 0.45
    return np.repeat(np.repeat(coarse, 8, 0), 8, 1)


def test_polygons_are_the_masks_but_for_their_holes(tmp_path: Path) -> None:
    found = subject(tmp_path / "images", masks=True)
    notes = tools.export("coco", found, tmp_path / "coco", outlines="polygon")
    assert notes == []
    read = COCO(str(tmp_path / "coco/predictions.json"))
    masks = [mask for n in (0, 1, 3) for mask in boxes_of(n, True).masks]
    for record, mask in zip(read.anns.values(), masks, strict=True):
        assert isinstance(record["segmentation"], list)
        assert np.array_equal(read.annToMask(record), coco_mask.decode(mask))
    # A results file keeps run lengths: pycocotools reads no polygons there.
    assert all("counts" in record["segmentation"] for record in content(
        tmp_path / "coco/boxes.json"))  # fmt: skip


def test_holes_that_polygons_fill_are_said_with_the_iou(tmp_path: Path) -> None:
    size = (160, 240)
    mask = encode_rle(blobs(size), size)
    item = Boxes("a", 0, np.array([[0, 0, 240, 160]], np.float32), np.ones(1, np.float32), size,
                 [mask])  # fmt: skip
    found = FoundBoxes(
        boxes=lambda: iter([(0, item)]), sizes=lambda: iter([(0, size)]), ids=["a"],
        classes=["a"], coco=CocoIds([1], ["a"], [1]),
    )  # fmt: skip
    (note,) = tools.export("coco", found, tmp_path / "coco", outlines="polygon")
    read = COCO(str(tmp_path / "coco/predictions.json"))
    ((iou,),) = coco_mask.iou([read.annToRLE(read.anns[1])], [mask], [0])
    assert 0.5 < iou < 1
    assert f"IoU with the mask {iou:.3f} or more" in note


def test_upright_images_are_what_torchvision_shows(tmp_path: Path) -> None:
    found = subject(tmp_path / "images")
    notes = tools.export("coco", found, tmp_path / "coco", upright=True)
    assert any("1 image" in note and "turned by EXIF" in note for note in notes)
    path = tmp_path / "coco/predictions.json"
    root = content(path)["info"]["root"]
    assert root == str(tmp_path / "coco/images")
    for (image, _), (height, width) in zip(CocoDetection(root, str(path)), _by_id(), strict=True):
        assert image.size == (width, height)
    assert [image["file_name"] for image in content(path)["images"]] == IDS
    assert (tmp_path / "coco/images" / IDS[0]).samefile(tmp_path / "images" / IDS[0])


def _by_id() -> list[Size]:
    """The sizes in the order of the images' ids."""
    return [size for _, size in sorted(zip([7, 3, 9, 4], SIZES, strict=True))]


def test_as_files_are_torchvision_shows_the_turned_one_on_its_side(tmp_path: Path) -> None:
    """What upright=true is for; should this fail, the page need not warn any more."""
    tools.export("coco", subject(tmp_path / "images"), tmp_path / "coco")
    shown = CocoDetection(str(tmp_path / "images"), str(tmp_path / "coco/predictions.json"))
    position = sorted([7, 3, 9, 4]).index(4)
    assert shown[position][0].size == SIZES[HUMAN]  # (width, height) against (height, width)


def test_upright_images_that_are_drawn_are_written(tmp_path: Path) -> None:
    tools.export("coco", found_boxes(source=drawn_source()), tmp_path / "coco", upright=True)
    for image in content(tmp_path / "coco/predictions.json")["images"]:
        with Image.open(tmp_path / "coco/images" / image["file_name"]) as written:
            assert written.size == (image["width"], image["height"])
