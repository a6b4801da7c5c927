"""Stage check: files that lists name and that are not there, archives that end early."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import archive_files, kept_splits
from pipeline.data.coco import Coco
from pipeline.data.cub import Cub
from pipeline.data.folder import Folder
from pipeline.data.imagenet import ImageNet
from pipeline.data.pets import Pets
from pipeline.data.table import Table
from pipeline.data.voc import Voc
from pipeline.data.webdataset import WebDataset
from pipeline.data.yolo import Yolo
from pipeline.ops.text import note_missing
from pipeline.stages.check.losses import MAX_MISSING, check_losses, describe_loss
from pipeline.types import Loss, Note
from tests.conftest import Cli
from tests.data import drawn_sets
from tests.data.archive_layouts import noise, to_bytes, write_tar, write_zip
from tests.stages.test_check import by_kind, read_check


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def losses(data: Any) -> list[tuple[int, int]]:
    """How many are missing of how many, by the notes of a data set."""
    notes = [note for note in data.notes() if isinstance(note, Note) and note.loss is not None]
    assert all(note.loss.kind == "missing" for note in notes)
    return [(note.total, note.loss.of) for note in notes]


def test_a_share_above_the_limit_is_an_error_and_less_a_warning() -> None:
    of = 50
    limit = round(MAX_MISSING * of)
    few, many = (
        note_missing([f"{n}.jpg" for n in range(count)], "image", f"of {of} not there", of,
                     where="list.txt", remedy="unpack; again")
        for count in (limit, limit + 1)
    )  # fmt: skip
    warning, error = check_losses(["a line", few, Note("1 of all", ["a"]), many])
    assert (warning.severity, warning.count) == ("warning", limit)
    assert (error.kind, error.severity, error.count) == ("files_missing", "error", limit + 1)
    assert error.remedy == "unpack; again"
    assert error.text.startswith("list.txt: 6 images ('0.jpg', '1.jpg', '2.jpg', ...) of 50 not")
    assert error.text.endswith("(12% of what is named)")
    assert describe_loss("a line") is None
    for of, severity in ((4, "warning"), (3, "error")):  # a single one of a short list
        (single,) = check_losses([note_missing(["a"], "shard", "not there", of, remedy="get it")])
        assert single.severity == severity
    cut = describe_loss(Note("a.tar: ends early; get it", ["a.tar"], loss=Loss("cut", 0, "get it")))
    assert cut is not None
    assert (cut.kind, cut.severity, cut.text) == ("archive_cut", "error", "a.tar: ends early")


# -- what the readers count


def test_published_sets_count_what_is_missing_of_their_lists(tmp_path: Path) -> None:
    drawn_sets.voc(tmp_path / "voc")
    folder = tmp_path / "voc/VOCdevkit/VOC2007"
    for n in (200, 201):
        (folder / f"JPEGImages/{n:06d}.jpg").unlink()
    (folder / "Annotations/000000.xml").unlink()
    assert losses(Voc(str(tmp_path / "voc"))) == [(1, 10), (2, 5)]
    drawn_sets.pets(tmp_path / "pets")
    (tmp_path / "pets/oxford-iiit-pet/images/Abyssinian_0.jpg").unlink()
    assert losses(Pets(str(tmp_path / "pets"))) == [(1, 10)]
    drawn_sets.coco(tmp_path / "coco")
    names = sorted(path.name for path in (tmp_path / "coco/train2017").iterdir())
    (tmp_path / "coco/train2017" / names[0]).unlink()
    assert losses(Coco(str(tmp_path / "coco"))) == [(1, 5)]
    drawn_sets.imagenet(tmp_path / "imagenet")
    (tmp_path / "imagenet/val/ILSVRC2012_val_00000002.JPEG").unlink()
    assert losses(ImageNet(str(tmp_path / "imagenet"))) == [(1, 6)]


def test_lists_of_users_count_what_is_missing(tmp_path: Path) -> None:
    for n in range(8):
        drawn_sets.paint(tmp_path / f"{n}.jpg", n)
    lines = ["path,label", *(f"{n}.jpg,{'ab'[n % 2]}" for n in range(10))]
    drawn_sets.write_lines(tmp_path / "labels.csv", lines)
    assert losses(Table(str(tmp_path / "labels.csv"))) == [(2, 10)]
    root = tmp_path / "yolo"
    for n in range(6):
        drawn_sets.write_lines(root / f"labels/train/{n}.txt", [f"{n % 2} 0.5 0.5 0.2 0.2"])
        if n < 4:
            drawn_sets.paint(root / f"images/train/{n}.jpg", n)
    drawn_sets.write_lines(root / "data.yaml", ["train: images/train", "names: [a, b]"])
    assert losses(Yolo(str(root))) == [(2, 6)]
    lists = [f"./images/train/{n}.jpg" for n in range(6)]
    drawn_sets.write_lines(root / "train.txt", lists)
    drawn_sets.write_lines(root / "data.yaml", ["train: train.txt", "names: [a, b]"])
    assert (2, 6) in losses(Yolo(str(root)))


def test_cub_counts_what_is_missing(tmp_path: Path) -> None:
    names = [f"{c:03d}.Bird_{c}/{c}_{n}.jpg" for c in (1, 2) for n in range(4)]
    rows = [f"{n + 1} {name}" for n, name in enumerate(names)]
    drawn_sets.write_lines(tmp_path / "images.txt", rows)
    drawn_sets.write_lines(tmp_path / "classes.txt", ["1 001.Bird_1", "2 002.Bird_2"])
    number = [f"{n + 1} {1 + n // 4}" for n in range(8)]
    drawn_sets.write_lines(tmp_path / "image_class_labels.txt", number)
    drawn_sets.write_lines(
        tmp_path / "train_test_split.txt", [f"{n + 1} {n % 2}" for n in range(8)]
    )
    drawn_sets.write_lines(tmp_path / "bounding_boxes.txt", [f"{n + 1} 1 1 9 9" for n in range(8)])
    for n, name in enumerate(names[:-1]):
        drawn_sets.paint(tmp_path / "images" / name, n)
    assert losses(Cub(str(tmp_path))) == [(1, 8)]


def test_a_kept_note_is_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is an error in the second run, too, which reads the kept splits."""
    monkeypatch.setattr(kept_splits, "MIN_KEPT", 1)
    drawn_sets.imagenet(tmp_path / "set")
    (tmp_path / "set/val/ILSVRC2012_val_00000002.JPEG").unlink()
    for path in [tmp_path / "set", *(tmp_path / "set").rglob("*")]:
        os.utime(path, ns=(10**18, 10**18))
    first = ImageNet(str(tmp_path / "set"))
    assert losses(first) == [(1, 6)]
    assert [*(tmp_path / "cache/label2box").glob("splits-*")]
    again = ImageNet(str(tmp_path / "set"))
    assert losses(again) == [(1, 6)]
    assert again.notes() == first.notes()
    assert "_lists" not in vars(again), "the kept splits were used"


PNG = [to_bytes(noise(n)) for n in range(12)]


def test_an_archive_that_ends_early_is_an_error_from_its_kept_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_files, "MIN_KEPT", 1)
    files = {f"{name}/{n}.png": PNG[n] for n in range(6) for name in "ab"}
    for write, name in ((write_tar, "a.tar"), (write_zip, "a.zip")):
        write(tmp_path / name, files)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        for _ in range(2):
            folder = Folder(str(tmp_path / name), val=0, held_back=0)
            (finding,) = check_losses(folder.notes())
            assert (finding.kind, finding.severity) == ("archive_cut", "error")
            assert f"{name}: ends early, at byte {len(data) // 2}: 'a/3.png'" in finding.text or (
                f"{name}: ends early, at byte {len(data) // 2}: 'b/2.png'" in finding.text
            )
            assert finding.remedy == "get the archive again to have all"
            assert folder.ids("train")[0] == "a/0.png"
            assert np.array_equal(folder.example("train", 0).image, noise(0)), "good ones go on"


# -- the stage


def run_check(cli: Cli, *data: str) -> int:
    return cli("+experiment=check", "data.size=32", *data)


def test_a_half_extracted_set_ends_with_exit_code_1(cli: Cli, tmp_path: Path, capsys: Any) -> None:
    drawn_sets.voc(tmp_path / "voc")
    images = tmp_path / "voc/VOCdevkit/VOC2007/JPEGImages"
    for path in sorted(images.iterdir())[5:12]:
        path.rename(tmp_path / path.name)
    voc = ("data=voc", f"data.root={tmp_path / 'voc'}")
    assert run_check(cli, *voc) == 1
    summary = read_check(tmp_path)
    found = [each for each in summary["findings"] if each["kind"] == "files_missing"]
    assert [(each["severity"], each["count"]) for each in found] == [("error", 5), ("error", 2)]
    first = "VOCdevkit/VOC2007/JPEGImages/000100.jpg"
    assert found[0]["text"].startswith(f"2007 trainval.txt: 5 images ('{first}', ")
    assert "unpack or download the images again" in found[0]["remedy"]
    said = capsys.readouterr()
    assert "check: error: 2007 trainval.txt: 5 images" in said.out
    page = (summary["run"] / "check/index.html").read_text()
    assert page.count("2007 trainval.txt: 5 images") == 1, "the finding alone, no note beside it"
    for path in tmp_path.glob("*.jpg"):
        path.rename(images / path.name)
    (images / "000000.jpg").unlink()
    assert run_check(cli, *voc) == 0, "one of ten"
    assert by_kind(read_check(tmp_path))["files_missing"]["severity"] == "warning"


def test_what_a_file_of_boxes_names_beside_the_data_set_is_a_warning(
    cli: Cli, tmp_path: Path
) -> None:
    """People use a part of a set with the boxes of all of it."""
    names = [f"{label}/{n}.png" for label in "ab" for n in range(12)]
    for n, name in enumerate(names):
        for split in ("train", "val")[: 2 if n % 12 < 3 else 1]:
            path = tmp_path / "photos" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(to_bytes(noise(n + 99 * (split == "val"))))
    content = {
        "images": [{"id": n, "file_name": f"val/{name}"} for n, name in enumerate(names)],
        "annotations": [{"id": n + 1, "image_id": n, "category_id": 1 + n // 12,
                         "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
                        for n in range(len(names))],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }  # fmt: skip
    (tmp_path / "photos/instances_val.json").write_text(json.dumps(content))
    assert run_check(cli, "data=folder", f"data.root={tmp_path / 'photos'}") == 0
    finding = by_kind(read_check(tmp_path))["files_missing"]
    assert (finding["severity"], finding["count"]) == ("warning", 18)
    assert "of what is named)" in finding["text"]
    assert "unpack the images again where they are to be there" in finding["remedy"]


def test_a_shard_that_ends_early_ends_with_exit_code_1(cli: Cli, tmp_path: Path) -> None:
    files = dict[str, bytes]()
    for n, png in enumerate(PNG):
        files |= {f"{n:04d}.png": png, f"{n:04d}.cls": b"ab"[n % 2 : n % 2 + 1]}
    write_tar(tmp_path / "shards/train-0.tar", files)
    write_tar(tmp_path / "shards/val-0.tar", {f"v{name}": data for name, data in files.items()})
    path = tmp_path / "shards/train-0.tar"
    data = path.read_bytes()
    cut = data.index(b"0009.png") + 1000
    path.write_bytes(data[:cut])
    assert run_check(cli, "data=webdataset", f"data.shards={tmp_path / 'shards'}") == 1
    summary = read_check(tmp_path)
    finding = by_kind(summary)["archive_cut"]
    assert finding["severity"] == "error"
    assert finding["text"].startswith(f"train-0.tar: ends early, at byte {cut}: '0009.png', from ")
    assert finding["text"].endswith("18 files before it are good and used")
    assert finding["remedy"] == "get the archive again to have all"
    data_set = WebDataset(str(tmp_path / "shards"), held_back=0)
    assert len(data_set.ids("train")) == 9
