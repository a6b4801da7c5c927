"""Files in arrays are those of a list: ids, paths, stamps, parts, unions and fingerprints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.file_table import FileTable, join_files, list_ids, pack
from pipeline.data.folder import Folder
from pipeline.data.hashed_splits import set_apart
from pipeline.data.listing import File, Listing
from pipeline.types import Split


@pytest.fixture
def files(tmp_path: Path) -> list[File]:
    """Some files in three folders, one of them nested, with names beyond ASCII."""
    made = []
    for n in range(40):
        id = f"train/{('a', 'b/deep', 'é')[n % 3]}/{n} ü.jpg"
        path = tmp_path / id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(n))
        made.append(File.from_path(id, str(path)))
    return made


def test_a_table_is_the_list(files):
    table = pack(files, 1)
    assert isinstance(table, FileTable)
    assert [*table] == files
    assert table[-1] == files[-1]
    assert [*table[3:9]] == files[3:9]
    assert list_ids(table) == [file.id for file in files]
    assert table.stamps().tolist() == [[*file.stamp] for file in files]
    chosen = np.array([7, 2, 30])
    assert [*table.take(chosen)] == [files[n] for n in chosen]


def test_parts_unions_and_fingerprints_of_listings(files):
    labels = [n % 3 for n in range(40)]
    plain, packed = (Listing(each, labels, "abc") for each in (files, pack(files, 1)))
    assert packed.fingerprint() == plain.fingerprint()
    for one, other in zip(set_apart(plain, 0.3, "s"), set_apart(packed, 0.3, "s"), strict=True):
        assert (one.ids, one.labels, one.fingerprint()) == (
            other.ids, other.labels, other.fingerprint()
        )  # fmt: skip
    kept, taken = set_apart(packed, 0.3, "s")
    assert [*(taken + kept).files] == [*taken.files, *kept.files]
    empty = Listing((), (), ())
    assert isinstance((kept + empty).files, FileTable)
    assert isinstance((empty + kept).files, FileTable)
    assert [*(kept + Listing(files[:2], labels[:2], "abc")).files] == [*kept.files, *files[:2]]


def test_groups_are_joined(files):
    groups = [pack(files[:10], 1), files[10:12], (), pack(files[12:], 1)]
    joined = join_files(groups)
    assert isinstance(joined, FileTable)
    assert [*joined] == files
    part = joined.take(np.arange(5, 20))
    assert [*join_files([part, pack(files[:3], 1)])] == [*files[5:20], *files[:3]]
    assert join_files([files[:2], files[2:4]]) == files[:4], "lists stay a list"


def test_few_files_and_other_ids_stay_a_list(files):
    assert pack(files) is files
    other = [*files[:1], File("another id.jpg", files[1].path, files[1].stamp)]
    assert pack(other, 1) is other


def test_a_folder_of_many_files_has_the_same_listing(tmp_path, monkeypatch):
    for n in range(30):
        path = tmp_path / f"{'ab'[n % 2]}/{n}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(n))
    plain = Folder(str(tmp_path))
    splits: tuple[Split, ...] = ("train", "held_back", "val", "all")
    ids = {split: plain.ids(split) for split in splits}
    prints = {split: plain.fingerprint(split) for split in splits}
    monkeypatch.setattr("pipeline.data.file_table.MIN_PACKED", 1)
    monkeypatch.setattr(pack, "__defaults__", (1,))
    packed = Folder(str(tmp_path))
    assert {split: packed.ids(split) for split in ids} == ids
    assert {split: packed.fingerprint(split) for split in prints} == prints
    assert isinstance(packed.splits.train.files, FileTable)
