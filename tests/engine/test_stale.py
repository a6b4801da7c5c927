"""What changed is noticed, and nothing else is made again: one test for each kind of change."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.__main__ import main
from pipeline.engine import sources
from pipeline.engine.sources import PACKAGE, forget_sources
from pipeline.engine.syntax import parse_source
from tests.conftest import Cli

STAGES = ["train", "explain", "localize", "evaluate", "draw", "report"]
RUN = ("+experiment=cam", "data=folder", "data.root=images", "data.size=32", "train.epochs=1",
       "train.batch=8", f"stages=[{','.join(STAGES)}]")  # fmt: skip


def square(seed: int, colour: tuple[int, int, int] = (220, 30, 30)) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (24, 32, 3)).astype(np.uint8)
    x, y = rng.integers(0, 20), rng.integers(0, 12)
    pixels[y : y + 12, x : x + 12] = colour
    return Image.fromarray(pixels)


def write_images(root: Path) -> None:
    colours = {"red": (220, 30, 30), "blue": (30, 30, 220)}
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for split, count in (("train", 8), ("val", 3)):
        for name, colour in colours.items():
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                square(n, colour).save(root / split / name / f"{n}.png")
                if split == "val":
                    number = len(images) + 1
                    images.append({"id": number, "file_name": f"val/{name}/{n}.png",
                                   "width": 32, "height": 24})  # fmt: skip
                    boxes.append({"id": number, "image_id": number, "bbox": [4, 4, 12, 12],
                                  "category_id": [*colours].index(name) + 1})  # fmt: skip
    categories = [{"id": n, "name": name} for n, name in enumerate(colours, 1)]
    data_set = {"images": images, "annotations": boxes, "categories": categories}
    (root / "instances_val.json").write_text(json.dumps(data_set))
    (root / "classes.txt").write_text("red red\nblue blue\n")


@dataclass
class Place:
    """A working folder with images/ and outputs/, where a run was done."""

    path: Path
    cli: Cli
    capsys: pytest.CaptureFixture[str]

    def list_recomputed(self, *arguments: str) -> list[str]:
        """The stages that a run makes again."""
        self.capsys.readouterr()
        assert self.cli(*RUN, *arguments) == 0
        return re.findall(r"^(\w+) +made ", self.capsys.readouterr().out, re.M)

    def boxes(self) -> list[dict[str, object]]:
        return list(json.loads((self.path / "outputs/latest/boxes.json").read_text()))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("done")
    write_images(path / "images")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(path)
        patched.setattr(sys, "argv", ["pipeline", *RUN])
        main()
    return path


@pytest.fixture
def place(done: Path, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    """A copy elsewhere: neither absolute paths nor links tie a result to its place."""
    shutil.copytree(done, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Place(tmp_path, cli, capsys)


def test_nothing_changed_and_all_is_kept_wherever_it_was_moved(place: Place) -> None:
    latest = place.path / "outputs/latest"
    assert (latest / "stages/explain/DONE").is_file()
    assert next((latest / "pictures").iterdir()).is_file()
    assert place.list_recomputed() == []
    shutil.move(place.path / "outputs", place.path / "moved")
    shutil.move(place.path / "images", place.path / "photos/images")
    assert place.list_recomputed("outputs=moved", "data.root=photos/images") == []
    assert (place.path / "moved/latest/stages/explain/DONE").is_file()


def test_how_work_is_spread_changes_nothing(place: Place) -> None:
    spread = ("runtime.device=cpu", "runtime.workers=0", "runtime.batch=3", "runtime.shard=2")
    assert place.list_recomputed(*spread) == []


# -- images --------------------------------------------------------------------------------------

AFTER_TRAIN = STAGES[1:]


def test_an_image_added(place: Place) -> None:
    square(9).save(place.path / "images/val/red/9.png")
    assert place.list_recomputed() == AFTER_TRAIN
    assert len(place.boxes()) == 7


def test_an_image_added_to_train(place: Place) -> None:
    square(9).save(place.path / "images/train/red/9.png")
    assert place.list_recomputed() == STAGES


def test_an_image_removed(place: Place) -> None:
    (place.path / "images/val/red/1.png").unlink()
    assert place.list_recomputed() == AFTER_TRAIN
    assert {record["image_id"] for record in place.boxes()} == {1, 3, 4, 5, 6}


def test_an_image_changed(place: Place) -> None:
    before = place.boxes()
    square(7).save(place.path / "images/val/red/1.png")
    assert place.list_recomputed() == AFTER_TRAIN
    assert place.boxes() != before


def test_an_image_moved_to_another_class(place: Place) -> None:
    val = place.path / "images/val"
    (val / "red/1.png").rename(val / "blue/red1.png")
    assert place.list_recomputed() == AFTER_TRAIN


def test_an_image_renamed(place: Place) -> None:
    val = place.path / "images/val/red"
    (val / "1.png").rename(val / "other.png")
    assert place.list_recomputed() == AFTER_TRAIN
    text = (place.path / "outputs/latest/predictions.json").read_text()
    assert "val/red/other.png" in text
    assert "val/red/1.png" not in text


def test_an_empty_class_folder_is_named_in_a_new_report(place: Place) -> None:
    (place.path / "images/val/green").mkdir()
    assert place.list_recomputed() == ["report"]
    page = (place.path / "outputs/latest/report/index.html").read_text()
    assert "val/green" in page
    assert "no image in it, left out" in page


def test_annotations_edited(place: Place) -> None:
    path = place.path / "images/instances_val.json"
    data_set = json.loads(path.read_text())
    for record in data_set["annotations"]:
        record["bbox"] = [0, 0, 32, 24]
    path.write_text(json.dumps(data_set))
    assert place.list_recomputed() == ["evaluate", "report"]
    data_set["images"][0]["id"] = data_set["annotations"][0]["image_id"] = 99
    path.write_text(json.dumps(data_set))
    assert place.list_recomputed() == ["localize", "evaluate", "draw", "report"]
    assert 99 in {record["image_id"] for record in place.boxes()}


def test_class_names_edited(place: Place) -> None:
    (place.path / "images/classes.txt").write_text("red crimson\nblue blue\n")
    assert place.list_recomputed() == STAGES
    assert "crimson" in (place.path / "outputs/latest/predictions.json").read_text()


# -- the configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("precision=bf16", STAGES),
        ("precision=float32", STAGES),
        ("seed=1", STAGES),
        ("data.size=40", STAGES),
        ("objective.label_smoothing=0.2", STAGES),
        ("train.lr=0.2", STAGES),
        ("saliency=cam_positive", AFTER_TRAIN),
        ("explain.target=predicted", AFTER_TRAIN),
        ("segmenter.threshold=0.35", ["localize", "evaluate", "draw", "report"]),
        ("evaluate.ious=[0.5]", ["evaluate", "report"]),
        ("draw.side=64", ["draw"]),
        ("name=mine", ["report"]),
    ],
)
def test_another_value_makes_again_what_reads_it(
    argument: str, expected: list[str], place: Place
) -> None:
    from pipeline.engine import runtime

    if argument == f"precision={runtime.select_precision('auto', torch.device('cpu'))}":
        expected = []  # that is what auto stands for here
    assert place.list_recomputed(argument) == expected
    assert place.list_recomputed() == [], "and what was there before is still there"


def test_another_weight_file(place: Place) -> None:
    from torchvision.models import squeezenet1_0

    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(squeezenet1_0().state_dict(), place.path / f"{seed}.pth")
    run = ("model=squeezenet1_0", "data.size=64", "stages=[train,explain]", "model.weights=w.pth")
    shutil.copyfile(place.path / "0.pth", place.path / "w.pth")
    assert place.list_recomputed(*run) == ["train", "explain"]
    shutil.copyfile(place.path / "0.pth", place.path / "again.pth")
    assert place.list_recomputed(*run, "model.weights=again.pth") == [], "the same by another name"
    shutil.copyfile(place.path / "1.pth", place.path / "w.pth")
    assert place.list_recomputed(*run) == ["train", "explain"]


# -- the source ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("saliency/cam.py", AFTER_TRAIN),
        ("segmenter/threshold.py", ["localize", "evaluate", "draw", "report"]),
        ("ops/iou.py", ["localize", "evaluate", "draw", "report"]),  # of features of boxes
        ("model/classifier.py", STAGES),  # a helper that model and saliency import
        ("formats/photo.py", STAGES),
        ("objective/cross_entropy.py", ["train"]),  # to the very same weights
        ("engine/runtime.py", STAGES),  # autocast
        ("stages/explain/stage.py", AFTER_TRAIN),
        ("stages/draw/stage.py", ["draw"]),
        ("plotting/boxes.py", ["draw", "report"]),  # which draws in the same colours
        ("stages/report/page.html", ["report"]),
        ("stages/report/stage.py", ["report"]),
        ("saliency/__init__.py", AFTER_TRAIN),
        ("exporter/coco.py", []),
        ("engine/progress.py", []),
        ("engine/store.py", []),  # where results are kept cannot change them
        ("__init__.py", []),
    ],
)
def test_an_edited_source_makes_again_what_it_makes(
    file: str, expected: list[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = hash_copy(place, monkeypatch)
    with (copy / file).open("a") as source:
        source.write("\nEDITED = 1\n")
    try:
        assert place.list_recomputed() == expected
    finally:
        forget_sources()


def test_comments_in_all_sources_make_nothing_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in hash_copy(place, monkeypatch).rglob("*.py"):
        with path.open("a") as source:
            source.write("\n# edited\n")
    try:
        assert place.list_recomputed() == []
    finally:
        forget_sources()


parse_once = cache(parse_source)  # by the bytes of a file, for all copies of the package


def hash_copy(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the sources of a copy of the package be hashed in place of the real ones."""
    from pipeline.stages.report import stage as report

    copy = place.path / "pipeline"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "PACKAGE", copy)
    monkeypatch.setattr(sources, "parse_source", parse_once)
    monkeypatch.setattr(report, "FOLDER", copy / "stages/report")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.path / "cache"))
    forget_sources()
    return copy
