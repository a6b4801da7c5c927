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

from pipeline.exporter.coco import Coco
from pipeline.formats import coco, coco_results
from pipeline.ops.rle import encode_rle
from pipeline.types import Boxes, CocoIds, FoundBoxes, Size

SIZE: Size = (40, 60)
NAMES = ["val/Zaunkönig/Übung 1.jpg", "val/鳥/2.png", "val/without box.png"]
CLASSES = ("Zaunkönig", "鳥")
DATUMARO = "LABEL2BOX_DATUMARO_PYTHON"


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


@pytest.mark.skipif(DATUMARO not in os.environ, reason=f"{DATUMARO} names no python with datumaro")
@pytest.mark.parametrize("masks", [False, True])
def test_datumaro_reads_the_data_set(tmp_path: Path, masks: bool) -> None:
    """Run datumaro in an environment of its own, which ./scripts/test tools makes."""
    folder = export(tmp_path, masks)
    (tmp_path / "set/annotations").mkdir(parents=True)
    (tmp_path / "set/images").mkdir()
    (folder / "predictions.json").rename(tmp_path / "set/annotations/instances_val.json")
    told = subprocess.run(
        [os.environ[DATUMARO], "-c", IMPORT],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (line,) = [line for line in told.stdout.splitlines() if line.startswith("READ ")]
    items, names = json.loads(line.removeprefix("READ "))
    counts: dict[str, Any] = dict(items)
    assert [counts[name.rsplit(".", 1)[0]] for name in NAMES] == [2, 1, 0]
    assert names == list(CLASSES)
    assert "rror" not in told.stderr
