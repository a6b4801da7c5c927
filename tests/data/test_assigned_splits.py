"""Splits that are drawn: by hash as ever, stratified, kept in a file, near duplicates together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data import hashed_splits
from pipeline.data.assigned_splits import Shares, assign, read_record, write_record
from pipeline.data.folder import Folder
from pipeline.data.listing import File, Listing
from pipeline.data.near_duplicates import number_leaders
from pipeline.data.table import Table
from pipeline.engine.choices import instantiate
from pipeline.errors import UserError
from pipeline.types import Split
from tests.ops.test_perceptual_hash import draw_scene

CLASSES = ("auk", "bunting", "crane", "dove", "egret")
ASKED: dict[Split, float] = {"val": 0.2, "calibration": 0.1, "held_back": 0.1}


def list_images(names: list[tuple[str, int]]) -> Listing:
    ordered = sorted(names)
    files = [File(name, f"/{name}", (0, 0)) for name, _ in ordered]
    return Listing(files, [label for _, label in ordered], CLASSES)


def draw_names(rng: np.random.Generator, count: int, start: int) -> list[tuple[str, int]]:
    labels = rng.choice(len(CLASSES), count, p=[0.4, 0.3, 0.2, 0.08, 0.02]).tolist()
    return [(f"{CLASSES[label]}/{start + n}.jpg", label) for n, label in enumerate(labels)]


def split_of(parts: dict[Split, Listing]) -> dict[str, Split]:
    return {id: split for split, part in parts.items() for id in part.ids}


def shares(stratified: bool, asked: dict[Split, float] = ASKED) -> Shares:
    return Shares([*asked], [*asked.values()], stratified)


def test_by_hash_they_are_those_of_set_apart():
    images = list_images(draw_names(np.random.default_rng(0), 500, 0))
    parts = assign(images, shares(False, {"val": 0.2, "held_back": 0.1}))
    train, val = hashed_splits.set_apart(images, 0.2, "val")
    kept, held_back = hashed_splits.set_apart(train, 0.1, "held_back")
    assert [parts[name].ids for name in ("train", "held_back", "val")] == [
        kept.ids, held_back.ids, val.ids
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_each_class_has_its_shares_to_an_image(seed):
    images = list_images(draw_names(np.random.default_rng(seed), 700, 0))
    parts = assign(images, shares(True))
    labels = np.asarray(images.labels)
    left = np.bincount(labels, minlength=len(CLASSES)).astype(float)
    for split, share in ASKED.items():
        found = np.bincount(parts[split].labels, minlength=len(CLASSES))
        assert (np.abs(found - share * left) <= 1).all(), split
        left -= found
    assert sum(len(part.files) for part in parts.values()) == len(labels)


def test_small_classes_have_the_share_of_the_whole_set():
    """Of 4 images a tenth is no image; of 300 such classes it is 120 images."""
    names = tuple(f"class {n}" for n in range(300))
    files = [File(f"{name}/{k}.jpg", "", (0, 0)) for name in names for k in range(4)]
    images = Listing(files, [n for n in range(300) for _ in range(4)], names)
    parts = assign(images, shares(True, {"held_back": 0.1}))
    assert len(parts["held_back"].files) == pytest.approx(120, abs=3 * np.sqrt(300 * 0.24))
    assert max(Counter(parts["held_back"].labels).values()) == 1


@pytest.mark.parametrize("stratified", [False, True])
def test_no_image_moves_when_a_thousand_are_added_and_some_removed(tmp_path, stratified):
    rng, record = np.random.default_rng(3), tmp_path / "splits.csv"
    names, count = draw_names(rng, 300, 0), 300
    before: dict[str, Split] = {}
    while count < 1300:
        images = list_images(names)
        known = read_record(record)
        parts = assign(images, shares(stratified), known=known)
        write_record(record, known, parts)
        now = split_of(parts)
        assert {id: now[id] for id in before if id in now} == {
            id: split for id, split in before.items() if id in now
        }
        before = now
        if stratified and count < 800:  # so far none was removed
            left = np.bincount(images.labels, minlength=len(CLASSES)).astype(float)
            for split, share in ASKED.items():
                found = np.bincount(parts[split].labels, minlength=len(CLASSES))
                assert (np.abs(found - share * left) <= 2).all(), (split, count)
                left -= found
        added = int(rng.integers(1, 60))
        names += draw_names(rng, added, count)
        if count >= 800:
            names = [name for name in names if rng.random() > 0.01]
        count += added
    assert len(read_record(record)) >= len(before)


def test_by_hash_no_image_moves_without_a_file():
    """Except where a class would have no image to train on, which these classes have."""
    rng = np.random.default_rng(5)
    names = draw_names(rng, 300, 0)
    before = split_of(assign(list_images(names), shares(False)))
    for start in range(300, 1300, 100):
        names += draw_names(rng, 100, start)
        now = split_of(assign(list_images(names), shares(False)))
        assert {id: now[id] for id in before} == before
        before = now


@pytest.mark.parametrize("stratified", [False, True])
def test_a_group_stays_in_one_split(stratified):
    rng = np.random.default_rng(7)
    images = list_images(draw_names(rng, 600, 0))
    groups = [sorted(rng.choice(600, 3, replace=False).tolist()) for _ in range(40)]
    seen: set[int] = set()
    apart = []
    for group in groups:
        if not seen & {*group}:
            seen.update(group)
            apart.append(group)
    groups = apart
    leaders = number_leaders(600, groups)
    parts = assign(images, shares(stratified), leaders)
    now = split_of(parts)
    assert all(len({now[images.ids[n]] for n in group}) == 1 for group in groups)
    assert len(parts["val"].files) == pytest.approx(120, abs=30)
    group = groups[0]
    known: dict[str, Split] = {images.ids[group[1]]: "val"}
    joined = split_of(assign(images, shares(stratified), leaders, known))
    assert {joined[images.ids[n]] for n in group} == {"val"}, "new images join their group"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of 20 scenes each; 6 images of a class are there as a smaller JPEG, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "set"
    for label, name in enumerate(CLASSES[:2]):
        (root / name).mkdir(parents=True)
        for n in range(20):
            draw_scene(100 * label + n, 64).save(root / name / f"{n}.png")
        for n in range(6):
            draw_scene(100 * label + n, 64).resize((48, 48)).save(root / name / f"{n}-small.jpg")
    return root


def group_splits(data: Folder) -> list[set[str]]:
    parts: tuple[Split, ...] = ("train", "held_back", "val")
    now = {id: part for part in parts for id in data.ids(part)}
    return [
        {now[f"{name}/{n}.png"], now[f"{name}/{n}-small.jpg"]}
        for name in CLASSES[:2] for n in range(6)
    ]  # fmt: skip


def test_near_duplicates_in_a_folder(root, monkeypatch):
    plain = Folder(str(root))
    apart = sum(len(splits) > 1 for splits in group_splits(plain))
    assert apart, "by hash some copies are in another split than their originals"
    assert not any("near duplicates" in note for note in plain.notes())
    told = Folder(str(root), near_duplicates="report")
    assert [told.ids(part) for part in ("train", "val")] == [
        plain.ids(part) for part in ("train", "val")
    ]
    (note,) = [note for note in told.notes() if note.startswith("near duplicates")]
    assert f"{apart} group" in note
    assert "near_duplicates=together" in note
    together = Folder(str(root), near_duplicates="together", stratified=True)
    assert all(len(splits) == 1 for splits in group_splits(together))
    (note,) = [note for note in together.notes() if note.startswith("near duplicates")]
    assert "12 groups" in note

    read: list[str] = []
    from pipeline.formats import photo

    real = photo.read

    def note_path(path, **options):
        read.append(str(path))
        return real(path, **options)

    monkeypatch.setattr(photo, "read", note_path)
    draw_scene(900, 64).save(root / "auk" / "new.png")
    assert Folder(str(root), near_duplicates="together").notes()
    assert read == [str(root / "auk" / "new.png")], "only the new image is read"


def test_a_file_of_splits_in_a_folder(root, tmp_path):
    file = tmp_path / "splits.csv"
    given: dict[str, Any] = {"split_file": str(file), "stratified": True}
    first = Folder(str(root), **given)
    val = first.ids("val")
    lines = file.read_text().splitlines()
    assert lines[0] == "image,split"
    assert len(lines) == 53
    for n in range(30):
        draw_scene(300 + n, 64).save(root / "auk" / f"later{n}.png")
    later = Folder(str(root), **given)
    assert {*val} <= {*later.ids("val")}
    assert not {*first.ids("train")} & {*later.ids("val"), *later.ids("held_back")}
    assert len(later.ids("val")) == pytest.approx(0.2 * 82, abs=1.5)
    (root / "auk" / "0.png").unlink()
    notes = Folder(str(root), **given).notes()
    assert any("'auk/0.png'" in note and "their lines are kept" in note for note in notes)

    for content, message in (
        ("a,b\n", "its first line is not image,split"),
        ("image,split\nauk/1.png,test\n", "line 2: expected an image and one of train"),
        ("image,split\nauk/1.png,val\nauk/1.png,train\n", "line 3: auk/1.png is in two splits"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            _ = Folder(str(root), **given).classes


def test_a_calibration_share(root, tmp_path):
    with pytest.raises(UserError, match="there are no boxes that could choose a threshold"):
        Folder(str(root), calibration_share=0.2)
    boxes = tmp_path / "boxes.json"
    ids = Folder(str(root)).ids("all")
    boxes.write_text(
        '{"images": ['
        + ",".join(
            f'{{"id": {n}, "file_name": "{id}", "width": {64 if id.endswith("png") else 48},'
            f' "height": {64 if id.endswith("png") else 48}}}'
            for n, id in enumerate(ids, 1)
        )
        + '], "annotations": ['
        + ",".join(
            f'{{"id": {n}, "image_id": {n}, "category_id": {1 + ("bunting" in id)},'
            ' "bbox": [4, 4, 20, 20], "iscrowd": 0}'
            for n, id in enumerate(ids, 1)
        )
        + '], "categories": [{"id": 1, "name": "auk"}, {"id": 2, "name": "bunting"}]}'
    )
    data = Folder(str(root), boxes=str(boxes), calibration_share=0.2, stratified=True)
    chosen = data.ids("calibration")
    assert len(chosen) == pytest.approx(0.2 * 0.8 * 52, abs=2)
    assert {*data.truth("calibration")} == {*chosen}
    assert {*data.truth("val")} == {*data.ids("val")}
    assert not {*chosen} & {*data.ids("train"), *data.ids("val"), *data.ids("held_back")}
    with pytest.raises(UserError, match=r"calibration_share=1\.0: expected a share"):
        Folder(str(root), calibration_share=1.0)


def test_a_wrong_rule_is_refused(root):
    with pytest.raises(UserError, match="near_duplicates=both: expected report"):
        Folder(str(root), near_duplicates="both")  # type: ignore[arg-type]
    Image.new("RGB", (64, 64)).save(root / "auk/black.png")
    Image.new("RGB", (64, 64)).save(root / "auk/black2.png")
    notes = Folder(str(root), near_duplicates="together").notes()
    assert not any("black" in note for note in notes), "images without content are not compared"


def test_far_fewer_scored_images_than_asked_are_said(tmp_path):
    fraction = hashed_splits.hash_to_fraction
    names = [f"{n}.png" for n in range(400)]
    late = [name for name in names if fraction(f"auk/{name}", "val") > 0.2][:20]
    early = [name for name in names if fraction(f"auk/{name}", "val") < 0.2][:4]
    for name in late:
        (tmp_path / "auk").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "auk" / name)
    folder = Folder(str(tmp_path))
    (note,) = [note for note in folder.notes() if "asked for" in note]
    assert note.startswith("data.val=0.2: 1 of 20 images are scored, where 4.0 were asked for: ")
    assert note.endswith("; data.stratified=true gives each class its share")
    assert not any("asked for" in note for note in Folder(str(tmp_path), stratified=True).notes())
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "".join(f"auk/{name},auk\n" for name in late))
    assert any("name a column of splits" in note for note in Table(str(table)).notes())
    for name in early:
        Image.new("RGB", (8, 8)).save(tmp_path / "auk" / name)
    assert not any("asked for" in note for note in Folder(str(tmp_path)).notes())


def test_an_option_of_another_data_set_is_answered_with_its_name():
    node = {"_target_": "pipeline.data.table.Table", "table": "a.csv", "stratified": True}
    with pytest.raises(UserError, match="no 'stratified', which is an option of data=folder; cho"):
        instantiate("data", node)
    del node["stratified"]
    with pytest.raises(UserError, match="Table has no 'nothing'; choices: "):
        instantiate("data", {**node, "nothing": 1})
