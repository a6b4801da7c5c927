"""labelme: a file beside each image that labelme opens, with what it knows and what it keeps."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.exporter.labelme import Labelme
from tests.exporter.subjects import (
    CLASSES,
    HUMAN,
    IDS,
    SIZES,
    boxes_of,
    drawn_source,
    found_boxes,
    image_source,
    write_images,
)

LABELME = "LABEL2BOX_LABELME_PYTHON"


def export(tmp_path: Path, masks: bool = False, **options: Any) -> dict[str, Any]:
    """Return the content of each file by the id of its image."""
    write_images(tmp_path / "images")
    (tmp_path / "out").mkdir(exist_ok=True)
    found = found_boxes(masks=masks, source=image_source(tmp_path / "images"))
    Labelme(**options)(found, tmp_path / "out")
    contents = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "out").rglob("*.json")]
    return {content["image_id"]: content for content in contents}


def test_each_image_has_a_file_with_its_boxes(tmp_path: Path) -> None:
    contents = export(tmp_path)
    assert set(contents) == set(IDS)
    for position, id in enumerate(IDS):
        content, given = contents[id], boxes_of(position, masks=False)
        assert (content["imageHeight"], content["imageWidth"]) == SIZES[position]
        boxes = [np.ravel(shape["points"]) for shape in content["shapes"]]
        assert np.reshape(boxes, (-1, 4)) == pytest.approx(given.boxes, abs=0.01)
        assert {shape["label"] for shape in content["shapes"]} <= {CLASSES[given.label]}
        assert {shape["shape_type"] for shape in content["shapes"]} <= {"rectangle"}
        assert content["flags"] == {"reviewed": position == HUMAN}
        assert (content["review_rank"], content["imageData"]) == ([2, 1, 4, 3][position], None)
    assert (tmp_path / "out/labels.txt").read_text("utf-8").splitlines() == list(CLASSES)


def test_numbers_are_for_people_and_programs(tmp_path: Path) -> None:
    contents = export(tmp_path)
    shape = contents[IDS[0]]["shapes"][0]
    assert shape["description"] == "confidence 0.8125, score 0.9, probability 0.75"
    assert (shape["confidence"], shape["score"]) == (0.8125, 0.9)
    (human,) = contents[IDS[HUMAN]]["shapes"]
    assert human["description"] == "source human"
    assert "score" not in human


def test_image_paths_lead_to_the_images(tmp_path: Path) -> None:
    for images in ("link", "copy", "none"):
        contents = export(tmp_path, images=images)
        for path in (tmp_path / "out").rglob("*.json"):
            content = json.loads(path.read_text("utf-8"))
            image = path.parent / content["imagePath"]
            original = tmp_path / "images" / content["image_id"]
            assert os.path.samefile(image, original) == (images != "copy")
            assert image.read_bytes() == original.read_bytes()
            assert Path(content["imagePath"]).is_absolute() == (images == "none")
        assert len(contents) == len(IDS)


def test_drawn_images_are_written_beside(tmp_path: Path) -> None:
    Labelme()(found_boxes(source=drawn_source()), tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == len(IDS)


def test_images_that_are_not_known_are_counted(tmp_path: Path) -> None:
    (note,) = Labelme()(found_boxes(), tmp_path)
    assert "4 images" in note


@pytest.mark.parametrize("outlines", ["rle", "polygon"])
def test_masks_are_in_the_group_of_their_box(outlines: str, tmp_path: Path) -> None:
    shapes = export(tmp_path, masks=True, outlines=outlines)[IDS[0]]["shapes"]
    kind = "mask" if outlines == "rle" else "polygon"
    assert [shape["shape_type"] for shape in shapes] == ["rectangle", kind] * 2
    assert [shape["group_id"] for shape in shapes] == [1, 1, 2, 2]


READ = """
import json, sys
from labelme._label_file import LabelFile

def count(mask):
    return None if mask is None else int(mask.sum())

def to_saved(shape):
    kept = {key: shape[key] for key in shape if key not in ("other_data", "mask")}
    return {**kept, **shape["other_data"], "mask": None}

rows = []
for path in sys.argv[1:]:
    file = LabelFile(path)
    shapes = [[s["label"], s["shape_type"], s["points"], count(s["mask"])] for s in file.shapes]
    file.save(
        path + ".new", shapes=[to_saved(shape) for shape in file.shapes],
        image_path=file.image_path, image_height=1, image_width=1,
        other_data=file.other_data, flags=file.flags,
    )
    with open(path + ".new") as saved:
        rows.append([file.other_data["image_id"], file.flags, shapes, json.load(saved)])
print("READ", json.dumps(rows))
"""


@pytest.mark.skipif(LABELME not in os.environ, reason=f"{LABELME} names no python with labelme")
@pytest.mark.parametrize("outlines", ["rle", "polygon"])
def test_labelme_reads_the_files_and_keeps_our_fields(outlines: str, tmp_path: Path) -> None:
    """Run labelme's own reader in an environment of its own, which ./scripts/test tools makes."""
    export(tmp_path, masks=True, outlines=outlines)
    paths = sorted(map(str, (tmp_path / "out").rglob("*.json")))
    result = subprocess.run(
        [os.environ[LABELME], "-c", READ, *paths], capture_output=True, text=True, timeout=300,
        check=False, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("READ ")]
    for id, flags, shapes, saved in json.loads(line.removeprefix("READ ")):
        position = IDS.index(id)
        given = boxes_of(position, masks=True)
        boxes = [np.ravel(points) for _, kind, points, *_ in shapes if kind == "rectangle"]
        assert np.reshape(boxes, (-1, 4)) == pytest.approx(given.boxes, abs=0.01)
        assert {label for label, *_ in shapes} <= {CLASSES[given.label]}
        assert flags == {"reviewed": position == HUMAN}
        assert (saved["image_id"], saved["review_rank"]) == (id, [2, 1, 4, 3][position])
        if position == 0:
            assert saved["shapes"][0]["confidence"] == 0.8125
            if outlines == "rle":
                assert shapes[1][3] == 29 * 18
