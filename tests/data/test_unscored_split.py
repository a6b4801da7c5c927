"""unscored_split: the images of test/ get boxes, and are neither trained on nor scored."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from pipeline.data.folder import Folder
from pipeline.engine.images import image_source
from pipeline.protocols import DataSet
from pipeline.types import Note, Split


@pytest.fixture
def root(tmp_path: Path, paint) -> Path:
    for split, count in (("train", 12), ("val", 3)):
        for name in ("n01", "n02"):
            for n in range(count):
                paint(tmp_path / f"data/{split}/{name}/{n}.png")
    return tmp_path / "data"


def labels(data: Folder, split: Split = "test") -> dict[str, int]:
    return dict(zip(data.ids(split), data.labels(split).tolist(), strict=True))


def test_images_with_and_without_a_class(root, paint):
    plain = Folder(str(root))
    assert plain.ids("test") == []
    for place in ("n02/a", "n02/deeper/b", "n09/c", "d"):
        paint(root / f"test/{place}.png")
    (root / "test/list.txt").write_text("?")
    data = Folder(str(root))
    assert labels(data) == {
        "test/d.png": -1, "test/n02/a.png": 1, "test/n02/deeper/b.png": 1, "test/n09/c.png": -1,
    }  # fmt: skip
    for split in ("train", "held_back", "val"):
        assert data.ids(split) == plain.ids(split)
        assert data.fingerprint(split) == plain.fingerprint(split)
    assert data.classes == plain.classes == ("n01", "n02")
    assert list(data.ids("all")) == [*plain.ids("all"), *data.ids("test")]
    assert data.fingerprint("all") != plain.fingerprint("all")
    assert data.truth("test") == {}
    others, counted, unlabelled = data.notes()
    assert others == "1 other file beside the images, not read: 1 .txt"
    assert counted == (
        "test: 4 images, neither trained on nor scored; explain.split=all gives boxes to all "
        "images, explain.split=test to these alone; data.val_folder=test scores them instead of val"
    )
    assert isinstance(unlabelled, Note)
    assert unlabelled.total == 2
    assert unlabelled.startswith("test: 2 images ('test/d.png', 'test/n09/c.png') in no folder of")


def test_a_detector_tests_on_them(root, paint):
    paint(root / "test/n01/a.png")
    data = Folder(str(root))
    splits: dict[Split, int] = {"all": 31, "test": 1}
    for split, count in splits.items():
        part = image_source(cast(DataSet, data), split).part
        parts = [part(position) for position in range(count)]
        assert len(parts) == len(data.ids(split))
        assert parts.count("test") == 1
        assert parts[-1] == "test"


def test_without_val_a_share_of_train_is_scored(root, paint):
    (root / "val").rename(root.parent / "away")
    plain = Folder(str(root))
    before = plain.notes()
    for n in range(3):
        paint(root / f"test/{n}.png")
    data = Folder(str(root))
    assert data.ids("val") == plain.ids("val") != []
    assert set(labels(data).values()) == {-1}
    about, unlabelled, *others = data.notes()
    assert others == before
    assert about == (
        "test: 3 images, neither trained on nor scored; explain.split=all gives boxes to all "
        "images, explain.split=test to these alone"
    )
    assert "3 images" in unlabelled


@pytest.mark.parametrize(
    ("folders", "test"),
    [(("Test",), "Test"), (("testing",), "testing"), (("test", "testing"), "test"),
     (("test_set",), "test_set"), (("tests",), None), (("more",), None)],
)  # fmt: skip
def test_which_folder_it_is(root, paint, folders, test):
    for name in folders:
        paint(root / name / "n01/a.png")
    ids = Folder(str(root)).ids("test")
    assert list(ids) == ([] if test is None else [f"{test}/n01/a.png"])


def test_a_folder_of_another_split_is_not_it(root, paint):
    for n in range(2):
        paint(root / f"test/n01/{n}.png")
    scored = Folder(str(root), val_folder="test")
    assert (len(scored.ids("val")), len(scored.ids("test"))) == (2, 0)
    assert str(scored.notes()[0]).startswith("val (6 images): in no split, not used")
    (root / "val").rename(root.parent / "away")
    alone = Folder(str(root))
    assert (len(alone.ids("val")), len(alone.ids("test"))) == (2, 0)


def test_an_empty_one_is_said(root):
    (root / "test/n01").mkdir(parents=True)
    data = Folder(str(root))
    assert data.ids("test") == []
    assert data.notes() == ["test: no image in it"]


def test_a_link_back_is_not_followed_and_links_are_listed_once(root, paint):
    paint(root / "test/n01/a.png")
    (root / "test/n01/b.png").symlink_to(root / "test/n01/a.png")
    (root / "test/loop").symlink_to(root / "test")
    data = Folder(str(root))
    assert list(data.ids("test")) == ["test/n01/a.png"]
    assert any("link back" in note for note in data.notes())
