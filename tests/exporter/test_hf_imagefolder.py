"""hf_imagefolder: images and metadata that Hugging Face's datasets loads from files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.exporter.subjects import CLASSES, HUMAN, IDS, PARTS, SIZES, boxes_of, without_review
from tests.exporter.tools import DATASETS, export, needs, read_by, subject

FOLDERS = {"train": "train", "val": "validation"}


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    """The line of each image by its name, with the folder that it is from."""
    read = {}
    for path in sorted(folder.glob("*/metadata.jsonl")):
        for line in path.read_text("ascii").splitlines():
            record = json.loads(line)
            read[record["image_id"]] = {**record, "folder": path.parent.name}
    return read


def test_boxes_classes_scores_and_parts_come_back(tmp_path: Path) -> None:
    export("hf_imagefolder", subject(tmp_path / "images"), tmp_path / "out")
    read = lines(tmp_path / "out")
    assert set(read) == set(IDS)
    for position, id in enumerate(IDS):
        line, wanted = read[id], boxes_of(position, False)
        assert line["folder"] == FOLDERS[PARTS[position]]
        assert (tmp_path / "out" / line["folder"] / line["file_name"]).samefile(
            tmp_path / "images" / id
        )
        assert [line["height"], line["width"]] == list(SIZES[position])
        objects = line["objects"]
        assert objects["categories"] == [wanted.label] * len(wanted.boxes)
        xywh = np.reshape(objects["bbox"], (-1, 4))
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        assert np.allclose(corners, wanted.boxes, atol=0.01)
    first = read[IDS[0]]["objects"]
    assert (first["scores"], first["confidences"]) == ([0.9, 0.1], [0.8125, 0.25])
    assert read[IDS[HUMAN]]["objects"]["sources"] == ["human"]
    assert [read[id]["reviewed"] for id in IDS] == [False, False, False, True]
    assert [read[id]["review_rank"] for id in IDS] == [2, 1, 4, 3]


def test_no_list_holds_an_empty_value_of_which_the_type_is_unknown(tmp_path: Path) -> None:
    for name, found in (("with", subject(tmp_path / "a")), ("without", subject(tmp_path / "b"))):
        found = without_review(found) if name == "without" else found
        export("hf_imagefolder", found, tmp_path / name)
        for line in lines(tmp_path / name).values():
            assert all(None not in values for values in line["objects"].values())
            assert ("confidences" in line["objects"]) == (name == "with")


def test_the_card_names_classes_and_parts(tmp_path: Path) -> None:
    export("hf_imagefolder", subject(tmp_path / "images"), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---\n")[1])
    (config,) = head["configs"]
    assert {item["split"] for item in config["data_files"]} == {"train", "validation"}
    assert json.loads((tmp_path / "out/classes.json").read_text("ascii")) == list(CLASSES)
    assert f"- 1: {json.dumps(CLASSES[1], ensure_ascii=False)}\n" in card


def test_a_part_without_a_box_is_said(tmp_path: Path) -> None:
    found = subject(tmp_path / "images")
    found = replace(
        found, source=replace(found.source, part=lambda n: "test" if n == 2 else "train")
    )
    notes = export("hf_imagefolder", found, tmp_path / "out")
    assert ["test/ has no box at all" in note for note in notes] == [True]


def test_masks_that_are_left_out_are_counted(tmp_path: Path) -> None:
    found = subject(tmp_path / "images", masks=True)
    notes = export("hf_imagefolder", found, tmp_path / "out")
    assert ["3 images" in note and "masks" in note for note in notes] == [True]


LOAD = """
import json
from datasets import load_dataset
read = []
for arguments in ((("out",), {}), (("imagefolder",), {"data_dir": "out"})):
    data = load_dataset(*arguments[0], **arguments[1])
    read.append({part: [[row["image_id"], row["image"].size, row["objects"], row["review_rank"]]
                        for row in rows] for part, rows in data.items()})
print("READ " + json.dumps(read))
"""


@needs(DATASETS)
def test_datasets_loads_it(tmp_path: Path) -> None:
    export("hf_imagefolder", subject(tmp_path / "images"), tmp_path / "out")
    settings = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    by_card, by_folder = read_by(DATASETS, LOAD, tmp_path, **settings)
    assert by_card == by_folder
    assert {part: [row[0] for row in rows] for part, rows in by_card.items()} == {
        "train": [IDS[2], IDS[3]], "validation": [IDS[0], IDS[1]],
    }  # fmt: skip
    rows = {row[0]: row[1:] for rows in by_card.values() for row in rows}
    for id, (height, width) in zip(IDS, SIZES, strict=True):
        assert rows[id][0] == [width, height]  # upright: datasets turns images by their EXIF data
    _, objects, rank = rows[IDS[0]]
    assert objects["bbox"] == [[1.5, 2.0, 28.75, 18.0], [0.0, 0.0, 60.0, 40.0]]
    assert objects["scores"] == pytest.approx([0.9, 0.1])
    assert rank == 2
