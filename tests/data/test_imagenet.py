"""imagenet: both layouts of val, boxes, names; the index is kept and used where nothing changed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import folder_index
from pipeline.data.folder_index import find_cache
from pipeline.data.imagenet import ImageNet
from pipeline.errors import UserError
from tests.data import drawn_sets
from tests.data.drawn_sets import BOX, SYNSETS

NAMES = ("tench", "English springer", "chain saw")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Keep indexes in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/label2box"


@pytest.fixture
def root(tmp_path) -> Path:
    drawn_sets.imagenet(tmp_path / "set")
    return tmp_path / "set"


def settle(root: Path) -> None:
    """Let folders look as if they changed long ago: an index of new ones is not relied on."""
    before = time.time_ns() - 10_000_000_000
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, ns=(before, before))


@pytest.mark.parametrize("is_flat", [True, False])
def test_layouts_of_val(tmp_path, is_flat):
    root = tmp_path / "set"
    drawn_sets.imagenet(root, is_flat)
    data = ImageNet(str(root))
    assert data.classes == NAMES
    assert len(data.ids("train")) + len(data.ids("held_back")) == 15
    assert sorted(data.labels("val").tolist()) == [0, 0, 1, 1, 2, 2]
    assert len(data.ids("val")) == 6
    known = data.truth("val")
    assert list(known) == list(data.ids("val"))
    assert all(
        one.boxes.tolist() == [[BOX[0], BOX[1], BOX[2] + 1, BOX[3] + 1]] for one in known.values()
    )
    assert data.truth("train") == {}, "no XML of training images is there"
    assert data.notes() == data.truth_notes() == []
    labels = dict(zip(data.ids("val"), data.labels("val").tolist(), strict=True))
    for id, label in labels.items():  # the number in the file name says the class
        assert (int(id[-13:-5]) - 1) % 3 == label


def test_layout_of_kaggle(tmp_path):
    drawn_sets.imagenet(tmp_path / "plain")
    root = tmp_path / "kaggle"
    (root / "ILSVRC/Data").mkdir(parents=True)
    (root / "ILSVRC/Annotations").mkdir()
    plain = tmp_path / "plain"
    for name in ("LOC_val_solution.csv", "LOC_synset_mapping.txt"):
        (plain / name).rename(root / name)
    (plain / "Annotations/CLS-LOC").rename(root / "ILSVRC/Annotations/CLS-LOC")
    (plain / "Annotations").rmdir()
    plain.rename(root / "ILSVRC/Data/CLS-LOC")
    data = ImageNet(str(root))
    assert data.classes == NAMES
    assert len(data.truth("val")) == 6


def test_ground_truth_of_the_devkit(root):
    synsets = np.array(
        [(n + 1, synset) for n, synset in enumerate(SYNSETS[::-1])],
        [("ILSVRC2012_ID", object), ("WNID", object)],
    )
    devkit = root / "ILSVRC2012_devkit_t12/data"
    drawn_sets.save_mat(devkit / "meta.mat", synsets=synsets[:, None])
    expected = ImageNet(str(root)).labels("val").tolist()
    (root / "LOC_val_solution.csv").unlink()
    numbers = [3 - (n % 3) for n in range(6)]  # image n + 1 is of class n % 3; the devkit's, 3 - n
    drawn_sets.write_lines(devkit / "ILSVRC2012_validation_ground_truth.txt", [*map(str, numbers)])
    assert ImageNet(str(root)).labels("val").tolist() == expected
    (devkit / "meta.mat").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"meta\.mat: cannot be read as a MATLAB file.*unpack"):
        ImageNet(str(root)).ids("val")
    (devkit / "meta.mat").unlink()
    with pytest.raises(UserError, match=r"numbers of meta\.mat, which is not beside it"):
        ImageNet(str(root)).ids("val")


def test_a_flat_val_without_its_list_is_refused(root):
    (root / "LOC_val_solution.csv").unlink()
    with pytest.raises(UserError, match=r"no list gives their classes; put LOC_val_solution"):
        ImageNet(str(root)).ids("val")


def test_names_without_a_table(root):
    (root / "LOC_synset_mapping.txt").unlink()
    data = ImageNet(str(root))
    assert data.classes == SYNSETS
    assert "put LOC_synset_mapping.txt" in data.notes()[0]


def test_bad_annotations_are_named_and_the_others_go_on(root):
    boxes = sorted((root / "Annotations/CLS-LOC/val").iterdir())
    boxes[0].write_text("<annotation>\n<object></annotation>")
    drawn_sets.write_voc(boxes[1], SYNSETS[2], BOX)
    drawn_sets.write_voc(boxes[2], SYNSETS[2], (70, 2, 90, 9))
    drawn_sets.write_voc(boxes[3], SYNSETS[0], (5, 5, 99, 30))
    drawn_sets.write_voc(boxes[4], SYNSETS[1], BOX, size=(11, 12))
    data = ImageNet(str(root))
    assert sorted(data.truth("val")) == [
        "val/ILSVRC2012_val_00000004.JPEG", "val/ILSVRC2012_val_00000006.JPEG"
    ]  # fmt: skip
    clipped = data.truth("val")["val/ILSVRC2012_val_00000004.JPEG"]
    assert clipped.boxes.tolist() == [[5, 5, 60, 31]]
    notes = "\n".join(data.truth_notes())
    for words in (
        "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml') not XML from line 2",
        "whose objects are of another class than the image: left out",
        "whose box lies outside its image: left out",
        "12 x 11 in Annotations/CLS-LOC/val/ILSVRC2012_val_00000005.xml, 60 x 40 on disk",
        "1 box ('Annotations/CLS-LOC/val/ILSVRC2012_val_00000004.xml')",
    ):
        assert words in notes


def test_what_is_left_out_is_named(root):
    drawn_sets.paint(root / "train/loose.JPEG", 1)
    (root / "train/notes.txt").write_text("")
    (root / "train/n09999999").mkdir()
    drawn_sets.paint(root / "val/ILSVRC2012_val_00000099.JPEG", 1)
    notes = "\n".join(ImageNet(str(root)).notes())
    assert "1 other file beside the images, not read: 1 .txt" in notes
    assert "train: 1 class folder ('n09999999') without an image" in notes
    assert "train: 1 image ('loose.JPEG') in no folder of a class: left out" in notes
    assert "val: 1 image ('ILSVRC2012_val_00000099.JPEG') of 7 has no class" in notes


def test_a_wrong_root(tmp_path):
    with pytest.raises(UserError, match=r"data\.root=.*: no train/ nor val/ there"):
        ImageNet(str(tmp_path))


# -- the kept index


def test_the_index_is_kept_and_only_changed_folders_are_searched(root, cache, monkeypatch):
    settle(root)
    first = ImageNet(str(root))
    ids, fingerprint = first.ids("train"), first.fingerprint("train")
    assert first._indexed.searched == 5  # train/ with three folders, and val/
    assert len([*cache.iterdir()]) == 1
    again = ImageNet(str(root))
    searched: list[str] = []
    search = folder_index._search

    def note_search(place: str, path: str, changed: int) -> folder_index.Folder:
        searched.append(path)
        return search(place, path, changed)

    monkeypatch.setattr(folder_index, "_search", note_search)
    assert (again.ids("train"), again.fingerprint("train")) == (ids, fingerprint)
    assert searched == []
    drawn_sets.paint(root / "train" / SYNSETS[1] / "new.JPEG", 77)
    more = ImageNet(str(root))
    everything = {*more.ids("train"), *more.ids("held_back")}
    assert searched == [f"train/{SYNSETS[1]}"]
    assert f"train/{SYNSETS[1]}/new.JPEG" in everything
    assert len(everything) == 16


def test_a_folder_that_changed_just_now_is_searched_again(root):
    assert ImageNet(str(root))._indexed.searched == 5
    assert ImageNet(str(root))._indexed.searched > 0


def test_a_file_that_changed_in_place_is_found_when_it_is_read(root, cache):
    settle(root)
    ImageNet(str(root)).ids("train")
    data = ImageNet(str(root))
    before = data.fingerprint("val")
    drawn_sets.paint(data.path("val", 0), 99)
    assert ImageNet(str(root)).fingerprint("val") == before, "folders tell nothing of it"
    with pytest.raises(UserError, match=r"val/ILSVRC2012_val_00000001\.JPEG: the file was changed"):
        data.example("val", 0)
    assert not [*cache.iterdir()], "the next run searches all folders"
    again = ImageNet(str(root))
    assert again.fingerprint("val") != before
    stamps = [(a.stamp("val", n), data.stamp("val", n)) for a in (again,) for n in range(6)]
    assert [now != then for now, then in stamps] == [True] + 5 * [False], "one image alone"
    assert again.example("val", 0).size == (40, 60)


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_index_is_made_again(root, cache, content):
    settle(root)
    ids = ImageNet(str(root)).ids("all")
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-40] if content is None else content)
    assert ImageNet(str(root)).ids("all") == ids


def test_without_a_cache_folder_nothing_is_kept(root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert find_cache() is None
    assert len(ImageNet(str(root)).ids("all")) == 21


def test_links_back_are_not_followed(root):
    (root / "train" / SYNSETS[0] / "up").symlink_to(root / "train")
    assert len(ImageNet(str(root)).ids("all")) == 21


def test_packed_files_are_those_of_a_list(root):
    """Position by position the table has what a search by hand finds."""
    data = ImageNet(str(root), held_back=0)
    paths = sorted((root / "train").glob("*/*.JPEG"))
    assert data.ids("train") == [str(path.relative_to(root)) for path in paths]
    for n, path in enumerate(paths):
        stat = path.stat()
        assert data.path("train", n) == path
        assert data.stamp("train", n) == (stat.st_size, stat.st_mtime_ns)
    whole = data.splits.all.files
    assert [file.id for file in whole[3:5]] == data.ids("all")[3:5]


def test_the_shared_folder_gives_the_classes_and_images_of_folder(shared):
    from pipeline.data.folder import Folder

    root = str(shared / "data/imagenette")
    ours, plain = ImageNet(root, held_back=0), Folder(root, held_back=0)
    assert ours.classes == plain.classes
    for split in ("train", "val"):
        assert [*ours.ids(split)] == [*plain.ids(split)]
        assert ours.labels(split).tolist() == plain.labels(split).tolist()
