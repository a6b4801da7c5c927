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


def test_reviews_lie_in_the_folder_of_outputs_of_their_run(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*RUN, f"data.root={folder_of_images}", "outputs=elsewhere") == 0
    first = review(tmp_path / "a.json", "val/red/0.png", name="red")
    given = tmp_path / "elsewhere/latest"  # no outputs=, as the last lines of the run have it
    assert cli(INGEST, f"run={given}", f"corrections={first}") == 0
    assert "with boxes of a person in elsewhere/human_boxes.json" in capsys.readouterr().out
    assert not Path("outputs").exists()
    (run,) = Path("elsewhere/runs/cam").iterdir()
    assert cli("+experiment=export", f"run={run}", "export.formats=[csv]") == 0
    assert "has the boxes of a person" in read("elsewhere/latest/notes.json")[0]["text"]
    assert "1 note, with its names, in elsewhere/runs/" in capsys.readouterr().out

    assert cli(INGEST, f"run={run}", f"corrections={first}", "outputs=outputs") == 0
    assert "and human_boxes=outputs/human_boxes.json" in capsys.readouterr().out


def test_what_reviews_measured_is_said_of_the_boxes_that_are_delivered(
    cli: Cli, folder_of_images: Path, tmp_path: Path
) -> None:
    stages = "stages=[train,explain,calibrate,localize,rank,evaluate]"
    run = (*RUN[:-1], stages, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    names = [*(f"train/red/{n}.png" for n in range(11)), "val/red/0.png", "val/red/1.png"]
    reviewed = review(tmp_path / "a.json", *names, name="red")
    assert cli(INGEST, "run=outputs/latest", f"corrections={reviewed}") == 0
    measured = read("outputs/latest/ingest.json")
    assert cli(*run) == 0
    delivered = read("outputs/latest/stages/calibrate/thresholds.json")["delivered"]
    assert (delivered["n"], delivered["source"]) == (13, "user")
    assert delivered["right"] == measured["random_right"], "the boxes are cut as they were"
    table = read("outputs/latest/stages/evaluate/table.json")
    assert (
        f"as {delivered['right']} of 13 are in images with boxes of a person" in table["expected"]
    )
    assert not table["has_annotations"], "of the other six images of val nothing is known"
    (note,) = [n["text"] for n in read("outputs/latest/notes.json") if "was chosen on" in n["text"]]
    assert note.startswith("evaluate: 2 images ('val/red/0.png', 'val/red/1.png') of 8 have boxes")
    assert "(human_boxes.json): not scored; human_boxes=none scores them" in note


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
