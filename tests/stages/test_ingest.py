"""Reviews on the command line: they outlive new names of classes, and can be taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats import human_boxes
from pipeline.results.confidence import ConfidenceModels
from pipeline.segmenter.confidence import default_model
from pipeline.stages.rank.stage import describe_checkpoint_kind, describe_kind
from tests.conftest import Cli

RUN = ("+experiment=cam", "data=folder", "data.size=32", "model=small", "train.epochs=1",
       "train.batch=8", "explain.split=all", "rank.sample=40",
       "stages=[train,explain,localize,rank]")  # fmt: skip
INGEST = "+experiment=ingest"


def read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def review(path: Path, *ids: str, name: str) -> Path:
    """Write what a COCO tool writes of reviewed images, each with a box of a class."""
    images = [
        {"id": n, "file_name": id, "width": 64, "height": 48, "reviewed": True}
        for n, id in enumerate(ids)
    ]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [n, 1, 20, 20], "iscrowd": 0,
              "area": 400} for n in range(len(ids))]  # fmt: skip
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": name}]}
    path.write_text(json.dumps(content))
    return path


def count_human() -> int:
    return sum(box.get("source") == "human" for box in read("outputs/latest/predictions.json")
               ["annotations"])  # fmt: skip


def test_reviews_outlive_new_names_and_can_be_taken_back(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (*RUN, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    first = review(tmp_path / "a.json", "val/red/0.png", "val/red/1.png", name="red")
    assert cli(INGEST, "run=outputs/latest", f"corrections={first}") == 0
    kept = Path("outputs/latest").resolve()
    assert f"ingest.undo=outputs/runs/ingest/{kept.name}" in capsys.readouterr().out
    annotations = read("outputs/human_boxes.json")["annotations"]
    assert [box["class_folder"] for box in annotations] == ["red", "red"]

    (folder_of_images / "classes.txt").write_text("red\tcardinal\nblue\tjay\n")
    assert cli(INGEST, f"run={next(Path('outputs/runs/cam').iterdir())}",
               f"corrections={first}") == 2  # fmt: skip
    assert "classes.txt gave their classes other names" in capsys.readouterr().err
    assert cli(*run) == 0
    assert "2 boxes ('val/red/0.png: red, now cardinal'" in capsys.readouterr().out
    assert count_human() == 2

    second = review(tmp_path / "b.json", "val/red/1.png", "val/red/2.png", name="red")
    assert cli(INGEST, "run=outputs/latest", f"corrections={second}") == 0
    assert "calls by its folder" in capsys.readouterr().out
    assert len(human_boxes.read(Path("outputs/human_boxes.json"))[0]) == 3
    wrong = Path("outputs/latest").resolve()
    assert cli(INGEST, f"ingest.undo={wrong}") == 0
    told = capsys.readouterr().out
    assert "taken back 2 images with boxes of a person and 0 marked as wrong" in told
    assert "1 images have the boxes of an older review again" in told
    images, _ = human_boxes.read(Path("outputs/human_boxes.json"))
    assert {image.id: image.boxes[0, 0] for image in images} == {
        "val/red/0.png": 0, "val/red/1.png": 1,
    }  # fmt: skip
    assert Path("outputs/latest").resolve() == wrong, "undoing leads to no run"
    (taken,) = Path("outputs/runs/ingest").glob("*/taken_back.json")
    assert len(human_boxes.read(taken)[0]) == 2
    assert cli(INGEST, f"ingest.undo={tmp_path}") == 2
    assert str(wrong.name) in capsys.readouterr().err
    assert cli(INGEST, f"ingest.undo={wrong}", f"corrections={first}") == 2


def test_why_confidences_are_not_calibrated() -> None:
    models = ConfidenceModels(default_model("classifier", False))
    (note,) = describe_kind(models, 0, 6, 5)
    assert "of 6 images that a person reviewed 5 are of the random sample" in note
    assert "from 10 on" in note
    (other,) = describe_checkpoint_kind(None, "RUN", True)
    assert "another saliency=, segmenter=" in other
    (none,) = describe_checkpoint_kind(None, "RUN", False)
    assert "no stage rank" in none
    (default,) = describe_checkpoint_kind(models, "RUN", True)
    assert "not calibrated there" in default


def test_the_latest_run_leads_to_a_report_also_after_an_export(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = "stages=[train,explain,localize,rank,evaluate,annotate,report]"
    assert cli(*RUN[:-1], stages, f"data.root={folder_of_images}") == 0
    latest = Path("outputs/latest")
    run, page = latest.resolve(), (latest / "report/index.html").read_bytes()
    for command in (
        ("+experiment=export", "export.formats=[csv]"),
        (INGEST, f"corrections={review(Path('a.json'), 'val/red/0.png', name='red')}"),
    ):
        capsys.readouterr()
        assert cli(*command, "run=outputs/latest") == 0
        assert latest.resolve() != run
        assert (latest / "report/index.html").read_bytes() == page
        assert (latest / "review/index.html").is_file()
        assert not (latest / "predictions.json").exists()
        assert capsys.readouterr().out.rstrip().endswith(str(latest.resolve().name))
    assert cli("clean", "runs=cam", "--yes") == 0
    assert (latest / "report/index.html").read_bytes() == page, "clean keeps what a link leads to"
