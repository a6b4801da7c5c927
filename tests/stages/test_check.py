"""Stage check: planted faults of every kind, the exit code, what is kept, and a killed run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.folder import Folder
from pipeline.stages.check.annotations import check_annotations
from pipeline.stages.check.duplicates import find_duplicates
from pipeline.stages.check.findings import Finding, check_ids, check_labels
from pipeline.stages.check.images import CheckedImages, Measured, load_measured, measure_images
from pipeline.types import GroundTruth
from tests.conftest import Cli
from tests.ops.test_perceptual_hash import draw_scene
from tests.stages.test_report import Page

CLASSES = ("robin", "wren", "kite")
TRAINED, SCORED = 12, 8  # images of each class


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of drawn scenes, all different, in train/ and val/: nothing is wrong."""
    root, seed = tmp_path / "photos", 0
    for split, count in (("train", TRAINED), ("val", SCORED)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                draw_scene(seed, 96).save(root / split / name / f"{n}.png")
                seed += 1
    return root


def command(root: Path, *more: str) -> tuple[str, ...]:
    return ("+experiment=check", "data=folder", f"data.root={root}", "data.size=64", *more)


def read_check(tmp_path: Path) -> dict[str, Any]:
    """The newest check.json: a check alone does not become outputs/latest."""
    newest = max((tmp_path / "outputs/runs").glob("*/*/check.json"), key=lambda p: p.parent.name)
    return dict(json.loads(newest.read_text()), run=newest.parent)


def by_kind(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["kind"]: finding for finding in summary["findings"]}


def change(path: Path, target: Path) -> None:
    """Save an image half as large, as a JPEG: it looks the same."""
    image = Image.open(path)
    image.resize((image.width // 2, image.height // 2)).save(target, quality=70)


def test_a_data_set_without_faults(cli: Cli, photos: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli(*command(photos)) == 0
    summary = read_check(tmp_path)
    assert summary["findings"] == []
    assert summary["images"] == 60
    assert summary["splits"]["val"] == 24
    counts = summary["classes"]["robin"]
    assert counts["train"] + counts["held_back"] == TRAINED
    assert summary["modes"] == [{"name": "RGB", "count": 60}]
    assert summary["sizes"]["width"] == {"min": 96, "median": 96.0, "max": 96}
    said = capsys.readouterr().out
    assert "60 images of 3 classes: 0 errors, 0 warnings, 0 notes" in said
    page = Page((summary["run"] / "check/index.html").read_text(encoding="utf-8"))
    assert "Nothing was found that speaks against training on it." in page.said
    assert all(asked.startswith("data:image/jpeg") for asked in page.asked)
    with Image.open(summary["run"] / "check/sheet.jpg") as sheet:
        assert sheet.width > 1000
    assert not (tmp_path / "outputs/latest").exists()

    assert cli(*command(photos)) == 0
    assert "check      kept" in capsys.readouterr().out


def plant_faults(root: Path) -> None:
    """Plant a fault of every kind that a folder can have."""
    train, val = root / "train", root / "val"
    shutil.copy(train / "robin/0.png", val / "wren/wrong.png")
    shutil.copy(train / "robin/1.png", val / "robin/leak.png")
    shutil.copy(train / "robin/2.png", train / "robin/again.png")
    change(train / "wren/0.png", val / "wren/near.jpg")
    change(train / "wren/1.png", train / "kite/near_wrong.jpg")
    change(train / "wren/2.png", train / "wren/near_same.jpg")
    (train / "kite/broken.png").write_bytes((train / "kite/0.png").read_bytes()[:2000])
    (train / "kite/empty.jpg").write_bytes(b"")
    Image.new("RGB", (96, 96), (9, 90, 9)).save(train / "robin/<b>.png")
    draw_scene(900, 30).save(train / "robin/small.png")
    draw_scene(901, 400).resize((400, 100)).save(train / "robin/long.png")
    grey = np.asarray(draw_scene(902, 96).convert("L")).astype(np.uint16) * 200
    Image.fromarray(grey).save(train / "robin/deep.png")
    frames = [draw_scene(903 + n, 96) for n in range(2)]
    frames[0].save(train / "robin/frames.gif", save_all=True, append_images=frames[1:])
    (val / "owl").mkdir()
    draw_scene(905, 96).save(val / "owl/0.png")
    (train / "rare").mkdir()
    draw_scene(906, 96).save(train / "rare/0.png")


def annotate(root: Path) -> None:
    """Write boxes with a fault each."""
    boxes = {
        "robin/0.png": [("robin", [5, 5, 1, 1])],
        "robin/1.png": [("robin", [10, 10, 40, 40]), ("robin", [10, 10, 41, 40])],
        "robin/2.png": [("wren", [5, 5, 50, 50])],
        "wren/0.png": [("wren", [0, 0, 96, 96])],
        "wren/1.png": [("wren", [-20, 10, 60, 50])],
        "nowhere/9.png": [("wren", [1, 1, 9, 9])],
    }
    images = [{"id": n, "file_name": name, "width": 96, "height": 96}
              for n, name in enumerate(boxes, 1)]  # fmt: skip
    records = [(n, name, box) for n, of in enumerate(boxes.values(), 1) for name, box in of]
    annotations = [
        {"id": k, "image_id": n, "category_id": CLASSES.index(name) + 1, "bbox": box,
         "area": box[2] * box[3], "iscrowd": 0}
        for k, (n, name, box) in enumerate(records, 1)
    ]  # fmt: skip
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances_val.json").write_text(json.dumps(content))


EXPECTED = {
    "class_without_training_image": ("error", 1, "owl"),
    "exact_duplicates_conflict": ("error", 1, "train/robin/0.png (robin) = val/wren/wrong.png"),
    "class_rare": ("warning", 1, "rare (1)"),
    "class_without_scored_image": ("warning", 1, "rare (1 trained on)"),
    "imbalance": ("warning", 0, ""),
    "unreadable": ("warning", None, "kite/"),
    "one_colour": ("warning", 1, "train/robin/<b>.png"),
    "small": ("warning", 1, "train/robin/small.png"),
    "long": ("warning", 1, "train/robin/long.png"),
    "bits": ("warning", 1, "train/robin/deep.png"),
    "exact_duplicates_across": ("warning", 1, "train/robin/1.png = val/robin/leak.png"),
    "exact_duplicates_within": ("warning", 1, "train/robin/2.png = train/robin/again.png"),
    "near_duplicates_conflict": (
        "warning",
        1,
        "train/kite/near_wrong.jpg (kite) = train/wren/1.png",
    ),
    "near_duplicates_across": ("warning", 1, "train/wren/0.png = val/wren/near.jpg"),
    "near_duplicates_within": ("warning", 1, "near_same.jpg"),
    "annotations": ("warning", 1, ""),
    "files_missing": ("warning", 1, "nowhere/9.png"),
    "box_small": ("warning", 1, "val/robin/0.png"),
    "box_double": ("warning", 1, "val/robin/1.png"),
    "box_class": ("warning", 1, "val/robin/2.png"),
    "box_whole": ("note", 1, "val/wren/0.png"),
    "box_missing": ("note", 28 - 5, "val/"),
    "pages": ("note", 1, "train/robin/frames.gif"),
    "plain": ("note", 2, "train/robin/"),
}


def test_planted_faults_are_found_and_nothing_else(
    cli: Cli, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    plant_faults(photos)
    annotate(photos)
    assert cli(*command(photos, "data.held_back=0")) == 1
    summary, output = read_check(tmp_path), capsys.readouterr()
    found = by_kind(summary)
    assert set(found) == set(EXPECTED)
    for kind, (severity, count, name) in EXPECTED.items():
        finding = found[kind]
        assert finding["severity"] == severity, kind
        assert finding["remedy"], kind
        assert count is None or finding["count"] == count, kind
        assert not name or any(name in known for known in finding["names"]), finding
    assert found["unreadable"]["count"] == 2
    assert "2 errors are listed above with the remedy" in output.err
    assert "check.stop=false" in output.err
    assert "note: check: error: 1 class ('owl') has no image to train on" in output.out
    notes = json.loads((summary["run"] / "notes.json").read_text())
    counted = re.search(r"(\d+) errors?, (\d+) warnings?, (\d+) notes?", output.out)
    assert counted is not None
    assert sum(map(int, counted.groups())) == len(notes), "one count of notes"
    assert f"{len(notes)} notes, with their names" in output.out
    severities = [finding["severity"] for finding in summary["findings"]]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    exact = [group for group in summary["duplicates"] if group["kind"] == "exact"]
    assert {image["id"] for image in exact[0]["images"]} == {
        "train/robin/0.png", "val/wren/wrong.png"
    }  # fmt: skip

    text = (summary["run"] / "check/index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "To train on this would be a mistake: 2 errors" in page.said
    assert "<b>.png" in page.said, "names of files are no HTML"
    for finding in summary["findings"]:
        assert finding["remedy"][:30] in page.said
    assert summary["boxes"] == {"val": {"boxes": 6, "images": 5}}
    assert "boxes of 5 val images" in page.said
    assert "val: scored, never learned from." in page.said

    assert cli(*command(photos, "data.held_back=0", "check.stop=false")) == 0
    assert "check      kept" in capsys.readouterr().out, "check.stop is no part of the key"


def test_an_error_ends_a_run_before_it_trains(
    cli: Cli, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copy(photos / "train/robin/0.png", photos / "val/wren/wrong.png")
    run = ("+experiment=cam", "data=folder", f"data.root={photos}", "data.size=32", "model=small",
           "train.epochs=1", "stages=[check,train]")  # fmt: skip
    assert cli(*run, "check.stop=true") == 1
    assert not (tmp_path / "outputs/train").exists()
    assert not (tmp_path / "outputs/latest").exists()
    assert (read_check(tmp_path)["run"] / "check/index.html").is_file()
    assert cli(*run) == 0
    assert (tmp_path / "outputs/latest/check.json").is_file()
    notes = json.loads((tmp_path / "outputs/latest/notes.json").read_text())
    assert any(note["text"].startswith("check: error:") for note in notes)


def test_annotate_stops_before_it_trains_where_that_would_be_a_mistake(
    cli: Cli, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copy(photos / "train/robin/0.png", photos / "val/wren/wrong.png")
    run = ("+experiment=annotate", "data=folder", f"data.root={photos}", "data.size=32",
           "model=small", "train.epochs=1", "refine.steps=2", "annotate.sheet=4")  # fmt: skip
    assert cli(*run) == 1
    said = capsys.readouterr()
    assert "check.stop=false goes on all the same" in said.err
    assert "note: check: error:" in said.out
    assert not (tmp_path / "outputs/train").exists()
    assert cli(*run, "check.stop=false") == 0
    assert (tmp_path / "outputs/latest/check/index.html").is_file()
    assert (tmp_path / "outputs/latest/review/index.html").is_file()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("unreadable", "unreadable"), ("leak", "leak"), ("one class", "single_class"),
     ("nothing", "no_training_image"), ("boxes", "annotations_unreadable")],
)  # fmt: skip
def test_each_error_ends_with_exit_code_1(
    cli: Cli, photos: Path, tmp_path: Path, fault: str, kind: str
) -> None:
    train = photos / "train"
    if fault == "unreadable":
        for path in [*(photos / "val").rglob("*.png")][:14]:
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 50)
    elif fault == "leak":
        for n in range(3):
            shutil.copy(train / f"robin/{n}.png", photos / f"val/robin/{n}.png")
    elif fault == "one class":
        for split in ("train", "val"):
            for name in CLASSES[1:]:
                shutil.rmtree(photos / split / name)
    elif fault == "nothing":
        for path in train.rglob("*.png"):
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 50)
    else:
        (photos / "instances_val.json").write_text('{"images": [')
    assert cli(*command(photos)) == 1
    finding = by_kind(read_check(tmp_path))[kind]
    assert finding["severity"] == "error"


def test_a_killed_check_goes_on_from_its_shards(
    cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.stages.check import images as module

    real, seen = module._measure, []

    def fail_late(images: CheckedImages, number: int, has_hashes: bool) -> dict[str, Any]:
        seen.append(number)
        if number == 30:
            raise KeyboardInterrupt
        return real(images, number, has_hashes)

    shards = ("runtime.shard=8", "runtime.workers=0")
    monkeypatch.setattr(module, "_measure", fail_late)
    assert cli(*command(photos, *shards)) != 0

    def note(images: Any, number: int, has_hashes: bool) -> Any:
        seen.append(number)
        return real(images, number, has_hashes)

    monkeypatch.setattr(module, "_measure", note)
    seen.clear()
    assert cli(*command(photos, *shards)) == 0
    assert min(seen) == 24, "the shards of the first 24 images are there"
    assert read_check(tmp_path)["images"] == 60


def test_only_new_images_are_read_again(
    cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Two new images, one under another name, one of another class: the others are not opened."""
    assert cli(*command(photos)) == 0
    robin, wren = photos / "train/robin", photos / "train/wren"
    for n in (100, 101):
        draw_scene(n, 96).save(robin / f"{n}.png")
    (robin / "3.png").rename(robin / "renamed.png")
    shutil.move(robin / "4.png", wren / "moved.png")
    read: list[str] = []
    real = Folder.example

    def note(self: Folder, split: Any, position: int, **sizes: Any) -> Any:
        read.append(self.ids(split)[position])
        return real(self, split, position, **sizes)

    monkeypatch.setattr(Folder, "example", note)
    capsys.readouterr()
    assert cli(*command(photos)) == 0
    assert "check: 59 of 62 images are as they were" in capsys.readouterr().out
    new = {"train/robin/100.png", "train/robin/101.png", "train/wren/moved.png"}
    assert new <= set(read)
    again = read_check(tmp_path)
    shown = {n for n in read if n not in new}  # on the contact sheet, and not on that of before
    assert len(shown) < 20
    assert cli(*command(photos, "outputs=afresh")) == 0
    newest = next((tmp_path / "afresh/runs").glob("*/*/check.json"))
    assert json.loads(newest.read_text()) == {k: v for k, v in again.items() if k != "run"}
    for name in ("check/index.html", "check/sheet.jpg"):
        assert (newest.parent / name).read_bytes() == (again["run"] / name).read_bytes()


def test_without_duplicates_nothing_is_hashed(cli: Cli, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "train/robin/0.png", photos / "val/wren/wrong.png")
    assert cli(*command(photos, "check.duplicates=false", "check.sheet=0")) == 0
    summary = read_check(tmp_path)
    assert summary["duplicates"] == []
    assert not (summary["run"] / "check/sheet.jpg").exists()


def test_a_network_without_weights_can_doubt_nothing(cli: Cli, photos: Path, capsys: Any) -> None:
    assert cli(*command(photos, "check.doubt=true", "model=small")) == 2
    assert "check.doubt=true: model= has no weights" in capsys.readouterr().err


def test_labels_that_a_pretrained_network_doubts(
    cli: Cli, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    """A file of random weights of three classes, which is wrong about most images."""
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    weights = tmp_path / "weights.pth"
    torch.save(resnet18(num_classes=3).state_dict(), weights)
    given = ("model=resnet18", f"model.weights={weights}", "model.classes=[robin,wren,kite]")
    assert cli(*command(photos, *given, "check.doubt=true")) == 0
    summary = read_check(tmp_path)
    finding = by_kind(summary)["doubt"]
    assert finding["count"] > 12, "a random head is wrong on most images"
    doubts = summary["doubted"]
    assert all(doubt["probability"] > doubt["probability_of_label"] for doubt in doubts)
    strength = [doubt["probability"] - doubt["probability_of_label"] for doubt in doubts]
    assert strength == sorted(strength, reverse=True)
    page = (summary["run"] / "check/index.html").read_text(encoding="utf-8")
    assert "Labels that the pretrained network doubts" in page

    unknown = ("model=resnet18", f"model.weights={weights}", "model.classes=[robin,wren,owl]")
    assert cli(*command(photos, *unknown, "check.doubt=true")) == 2
    assert "no row for the class 'kite'" in capsys.readouterr().err


# -- what a folder cannot have, but a data set of somebody's own


class OwnData:
    """A data set in memory, with what is asked of it."""

    size = (64, 64)

    def __init__(self, ids: list[str], labels: list[int], val: list[str] | None = None) -> None:
        self._ids = {"train": ids, "val": val or []}
        self._labels = {"train": labels, "val": [0] * len(val or [])}
        self.classes = ("robin", "wren")

    def ids(self, split: str) -> list[str]:
        return self._ids.get(split, [])

    def labels(self, split: str) -> np.ndarray:
        return np.array(self._labels.get(split, []), np.int64)


def measured(count: int, **changes: Any) -> Measured:
    side = np.full(count, 96, np.int32)
    given = {
        "height": side, "width": side, "mode": side, "is_deep": side < 0,
        "is_first_of_several": side < 0, "contrast": side.astype(np.float32), "colour_range": side,
        "content": np.arange(count), "perceptual": np.zeros(count, np.uint64),
        "grey": np.zeros((count, 64), np.uint8), "chroma": np.full((count, 32), 128, np.uint8),
        "reasons": {},
    }  # fmt: skip
    return Measured(**{**given, **changes})


def kinds(findings: list[Finding]) -> set[str]:
    return {finding.kind for finding in findings}


def test_names_that_are_double_or_missing() -> None:
    images = CheckedImages(OwnData(["a", "b", "a", " "], [0, 1, 0, 1], ["b"]))  # type: ignore[arg-type]
    double, missing = sorted(check_ids(images), key=lambda finding: finding.kind)
    assert (double.kind, double.severity, double.names) == ("id_double", "error", ("a", "b"))
    assert (missing.kind, missing.severity, missing.count) == ("id_missing", "error", 1)


def test_labels_that_are_no_class() -> None:
    images = CheckedImages(OwnData(["a", "b", "c", "d"], [0, 1, 2, -1]))  # type: ignore[arg-type]
    findings = check_labels(images, measured(4), images.data.classes)
    assert kinds(findings) == {"label_unknown", "label_missing", "class_rare"}


def test_classes_without_any_image() -> None:
    data = OwnData(["a", "b", "c"], [0, 1, 0])
    data.classes = ("robin", "wren", "kite", "owl")  # type: ignore[assignment]
    images = CheckedImages(data)  # type: ignore[arg-type]
    found = {f.kind: f for f in check_labels(images, measured(3), data.classes)}
    absent = found["class_without_image"]
    assert (absent.severity, absent.names) == ("warning", ("kite", "owl"))
    assert absent.text.startswith("2 classes ('kite', 'owl') of 4 have no image in any split")


class OwnBoxes(OwnData):
    """A data set whose boxes are of another size than its image."""

    def truth(self, split: str) -> dict[str, GroundTruth]:
        boxes = np.array([[1, 1, 20, 20]], np.float32)
        return {id: GroundTruth(id, 0, (48, 96), boxes) for id in self.ids(split)}

    def truth_fingerprint(self, split: str) -> str:
        return ""

    def truth_notes(self) -> list[str]:
        return []

    def notes(self) -> list[str]:
        return []

    example = coco_names = fingerprint = notes


def test_boxes_of_another_size_than_the_image() -> None:
    images = CheckedImages(OwnBoxes(["a"], [0], ["b"]))  # type: ignore[arg-type]
    (finding,) = check_annotations(images, measured(2))
    assert (finding.kind, finding.names) == ("box_size", ("b",))


def test_many_images_of_the_same_hash_are_grouped_by_what_they_show() -> None:
    """Slides of one layout: their hashes are equal, their grey values are of two kinds."""
    rng = np.random.default_rng(0)
    two = rng.integers(0, 256, (2, 64)).astype(np.uint8)
    which = np.arange(3000) % 2
    groups = find_duplicates(measured(3000, grey=two[which]), 8).near
    assert [len(group) for group in groups] == [1500, 1500]
    assert {int(which[n]) for n in groups[0]} == {0}


def test_what_is_measured_of_real_photographs(shared: Path, tmp_path: Path) -> None:
    """No two of the images in val of Imagenette are the same; a copy of half the size is found."""
    root = tmp_path / "some"
    for folder in sorted((shared / "data/imagenette/val").iterdir())[:4]:
        for n, path in enumerate(sorted(folder.iterdir())[:12]):
            target = root / ("train" if n else "val") / folder.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    copied = sorted((root / "train").rglob("*.JPEG"))[5]
    change(copied, root / "val" / copied.parent.name / "copy.jpg")
    data: Any = Folder(str(root))
    images = CheckedImages(data)
    measure_images(images, tmp_path, 16, 0, True)
    (group,) = find_duplicates(load_measured(tmp_path, len(images)), 8).near
    assert {Path(images.ids[n]).name for n in group} == {copied.name, "copy.jpg"}
