"""Odd records of annotations and results: repaired or left out and said, and no number changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY, Cli
from tests.stages.test_evaluate_others import (
    BOXES,
    EVALUATE,
    annotate,
    metrics,
    result,
    stage,
    write,
)


def change_records(path: Path, **fields: Any) -> None:
    """Change the annotations of a file: a value, or a function of the record."""
    whole = json.loads(path.read_text())
    for record in whole["annotations"]:
        record |= {k: v(record) if callable(v) else v for k, v in fields.items()}
    write(path, whole)


def test_odd_records_change_no_number(cli: Cli, tmp_path: Path) -> None:
    """The numbers, COCO's too, are those of the records that are good or were repaired."""
    truth = annotate(tmp_path, BOXES)
    theirs = [result(1, 3, [10, 10, 40, 40], 0.9), result(2, 5, [0, 0, 20, 10], 0.8)]
    boxes = write(tmp_path / "theirs.json", theirs)
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    plain = metrics(tmp_path)
    change_records(truth, category_id=lambda record: str(record["category_id"]),
                   image_id=lambda record: float(record["image_id"]), area=None,
                   bbox=lambda record: [str(value) for value in record["bbox"]],
                   segmentation=lambda record: [record["bbox"]])  # fmt: skip
    whole = json.loads(truth.read_text())
    whole["images"] = [image | {"width": "100", "height": 100.0} for image in whole["images"]]
    whole["annotations"] += [
        {"id": 99, "image_id": 1, "category_id": 3, "bbox": [5, 10, 6.5, 0]},
        {"id": 100, "image_id": 2, "category_id": 9, "bbox": [5, 10, 6.5, 5]},
        {"id": 101, "image_id": 2}, None,
    ]  # fmt: skip
    write(truth, whole)
    odd = [
        {k: [str(x) for x in v] if k == "bbox" else str(v) for k, v in one.items()}
        for one in theirs
    ]
    write(boxes, [*odd, {}, [], {**odd[0], "score": "NaN"}])
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    assert metrics(tmp_path) == plain
    notes = " ".join(note["text"] for note in stage(tmp_path, "notes.json"))
    for expected in ("'annotations[4] (id 99): image_id 1, category_id 3') whose bbox is empty",
                     "category_id that no category", "four numbers, a box and no outline",
                     "that are no objects", "without an image_id",
                     "whose score is not finite"):  # fmt: skip
        assert expected in notes


def test_images_without_a_size_are_scored_and_named(cli: Cli, tmp_path: Path) -> None:
    truth = annotate(tmp_path, BOXES)
    whole = json.loads(truth.read_text())
    del whole["images"][0]["width"]
    whole["images"][1]["height"] = None
    write(truth, whole)
    boxes = write(tmp_path / "theirs.json", [result(1, 3, [10, 10, 40, 40], 0.9)])
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    found = metrics(tmp_path)
    assert found["gt_known_loc", 0.5, None, None]["n"] == 3
    assert found["full_image_loc", 0.5, None, None]["n"] == 1
    assert found["coco_box_ap", 0.5, None, None]["n"] == 4
    notes = " ".join(note["text"] for note in stage(tmp_path, "notes.json"))
    assert "2 images ('1.jpg', '2.jpg') without width and height: baselines and groups" in notes


def test_crowds_alone_are_refused_with_a_remedy_that_works(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = annotate(tmp_path, {1: [(3, [10, 10, 40, 40])], 2: [(5, [0, 0, 20, 20])]})
    change_records(truth, iscrowd=1)
    boxes = write(tmp_path / "theirs.json", [result(1, 3, [10, 10, 40, 40], 0.9)])
    given = (EVALUATE, f"boxes={boxes}", f"annotations={truth}")
    assert cli(*given) == 2
    message = capsys.readouterr().err
    assert "2 annotations (" in message
    assert "evaluate.crowds=objects counts them as objects" in message
    assert cli(*given, "evaluate.crowds=objects") == 0
    assert metrics(tmp_path)["gt_known_loc", 0.5, None, None]["value"] == 0.5
    assert metrics(tmp_path)["coco_box_ap", 0.5, None, None]["value"] == pytest.approx(0.5)
    assert cli("+experiment=cam", *TINY, "evaluate.crowds=objects") == 2
    assert "data.crowds=objects" in capsys.readouterr().err
    assert cli(*given, "evaluate.crowds=object") == 2
    assert "evaluate.crowds=object: no such choice" in capsys.readouterr().err


def test_results_that_name_images_by_their_files(cli: Cli, tmp_path: Path) -> None:
    truth = annotate(tmp_path, {1: [(3, [10, 10, 40, 40])], 2: [(5, [0, 0, 20, 20])]})
    whole = json.loads(truth.read_text())
    for image in whole["images"]:
        image["file_name"] = f"s3://photos/val/cat_{image['id']}.JPG"
    write(truth, whole)
    theirs = [{**result(1, 3, [10, 10, 40, 40], 0.9), "image_id": "cat_1"},
              {**result(2, 5, [0, 0, 20, 20], 0.9), "image_id": "D:\\val\\cat_2.jpg"}]  # fmt: skip
    boxes = write(tmp_path / "theirs.json", theirs)
    assert cli(EVALUATE, f"boxes={boxes}", f"annotations={truth}") == 0
    assert metrics(tmp_path)["gt_known_loc", 0.5, None, None]["value"] == 1
    assert any("2 records (" in note["text"] and "matched by it" in note["text"]
               for note in stage(tmp_path, "notes.json"))  # fmt: skip
