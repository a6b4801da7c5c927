"""data=folder and data=images in archives and at addresses give what the unpacked folder gives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline.data import archive_files
from pipeline.data.folder import Folder
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.types import Split
from tests.data.archive_layouts import noise, shape_files, to_bytes, write_tar, write_zip

SPLITS: tuple[Split, ...] = ("train", "held_back", "val", "test")
PNG = to_bytes(noise(0))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_folder(root: Path, files: Mapping[str, bytes]) -> str:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def places(root: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """The same files as a zip with a folder around all, a tar, and both kinds of address."""
    write_zip(root / "a.zip", {f"photos/{name}": data for name, data in files.items()})
    write_tar(root / "a.tar", files)
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/{root.name}/p/{name}": data for name, data in files.items()})
    memory.pipe(f"/{root.name}/a.zip", (root / "a.zip").read_bytes())
    address = f"memory://{root.name}"
    return {
        "zip": f"{root}/a.zip", "tar": f"{root}/a.tar",
        "address": f"{address}/p", "zip at an address": f"{address}/a.zip",
    }  # fmt: skip


@pytest.mark.parametrize("with_splits", [True, False])
def test_a_folder_is_the_same_in_every_place(tmp_path: Path, with_splits: bool) -> None:
    parts = shape_files()
    files = parts["train"]
    if with_splits:
        files = {f"{part}/{name}": data for part in parts for name, data in parts[part].items()}
        files["test/nameless.png"] = to_bytes(noise(3))
        files["classes.txt"] = "".join(
            f"{name} a {name}\n" for name in sorted({each.split("/")[0] for each in parts["train"]})
        ).encode()
    here = Folder(write_folder(tmp_path / "plain", files))
    fingerprints = set()
    for root in places(tmp_path, files).values():
        there = Folder(root)
        assert there.classes == here.classes
        for split in SPLITS:
            assert there.ids(split) == here.ids(split)
            assert there.labels(split).tolist() == here.labels(split).tolist()
            for n in range(len(there.ids(split)))[:2]:
                np.testing.assert_array_equal(
                    there.example(split, n).image, here.example(split, n).image
                )
        assert there.notes() == here.notes()
        fingerprints.add(there.fingerprint("train"))
        assert there.path("train", 0) is None
    assert len(fingerprints) == 4, "they differ in offsets and times"


def test_a_changed_archive_has_another_fingerprint(tmp_path: Path) -> None:
    path = str(tmp_path / "a.tar")
    files = {f"{name}/{n}.png": PNG for name in ("cat", "dog") for n in range(4)}
    write_tar(tmp_path / "a.tar", files)
    first, again = Folder(path).fingerprint("train"), Folder(path).fingerprint("train")
    assert first == again
    os.utime(path, ns=(1, 1))
    assert Folder(path).fingerprint("train") != first


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {
        "cat/1.png": PNG, "dog/2.png": PNG, "loose.png": PNG, "__MACOSX/cat/._1.png": b"x",
        "cat/.hidden.png": PNG, "cat/notes.txt": b"x", ".git/x.png": PNG, "cat/Thumbs.db": b"x",
    })  # fmt: skip
    data = Folder(str(tmp_path / "a.zip"), val=0, held_back=0)
    assert data.ids("train") == ["cat/1.png", "dog/2.png"]
    notes = "\n".join(data.notes())
    for expected in ("loose.png", "__MACOSX", ".git", "cat/.hidden.png", "1 other file",
                     "cat/Thumbs.db"):  # fmt: skip
        assert expected in notes
    images = Images(str(tmp_path / "a.zip"))
    assert images.ids("val") == ["cat/1.png", "dog/2.png", "loose.png"]


def test_folders_in_no_split_are_named(tmp_path: Path) -> None:
    files = {f"{part}/{name}/{n}.png": PNG for part in ("train", "val", "extra")
             for name in ("cat", "dog") for n in range(2)}  # fmt: skip
    write_tar(tmp_path / "a.tar", files)
    data = Folder(str(tmp_path / "a.tar"))
    assert "extra (4 images): in no split, not used" in "\n".join(data.notes())
    scored = Folder(str(tmp_path / "a.tar"), val_folder="extra")
    assert scored.ids("val")[0] == "extra/cat/0.png"
    with pytest.raises(UserError, match=r"data\.val_folder=gone: no such folder"):
        _ = Folder(str(tmp_path / "a.tar"), val_folder="gone").splits


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    write_zip(tmp_path / "empty.zip", {"readme.txt": b"x"})
    with pytest.raises(UserError, match="no image found"):
        _ = Folder(str(tmp_path / "empty.zip")).splits
    with pytest.raises(UserError, match="no image in"):
        _ = Images(str(tmp_path / "empty.zip")).splits
    write_tar(tmp_path / "a.tar", {"cat/1.png": PNG, "dog/1.png": PNG})
    with pytest.raises(UserError, match=r"data\.calibration=valid: .* is no local folder"):
        Folder(str(tmp_path / "a.tar"), calibration="valid")
    write_folder(tmp_path, {"text": b"x"})
    with pytest.raises(UserError, match="or a zip or tar archive of it"):
        Folder(str(tmp_path / "text"))
    with pytest.raises(UserError, match="nowhere: no image found"):
        _ = Folder("memory://nowhere").splits


def test_a_tar_that_ends_early_gives_its_start(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {f"{name}/{n}.png": PNG for n in range(4) for name in "ab"})
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: len(data) // 2])
    folder = Folder(str(tmp_path / "a.tar"), val=0, held_back=0)
    assert len(folder.ids("train")) in (3, 4)
    for notes in (folder.notes(), Images(str(tmp_path / "a.tar")).notes()):
        assert f"a.tar: ends early, at byte {len(data) // 2}" in "\n".join(notes)


def test_unlabelled_images_of_several_places(tmp_path: Path) -> None:
    files = {"x/1.png": PNG, "x/2.png": to_bytes(noise(2))}
    named = places(tmp_path, files)
    expected = ["x/1.png", "x/2.png"]
    for kind, root in named.items():
        prefix = "photos/" if "zip" in kind else ""
        data = Images(root)
        assert data.ids("val") == [f"{prefix}{id}" for id in expected]
        np.testing.assert_array_equal(data.example("val", 1).image, noise(2))
    single = Images(f"{named['address']}/x/2.png")
    assert single.ids("val") == ["2.png"]
    folder = write_folder(tmp_path / "plain", files)
    both = Images([named["tar"], folder])
    assert both.ids("val") == [f"{place}/{id}" for place in ("a.tar", "plain") for id in expected]
    with_address = Images([named["address"], folder])
    assert with_address.ids("val") == [f"{top}/{id}" for top in ("p", "plain") for id in expected]


def test_the_list_of_a_large_archive_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "a.tar", {f"{name}/{n}.png": PNG for n in range(4) for name in "ab"})
    monkeypatch.setattr(archive_files, "MIN_KEPT", 8)
    first = Folder(str(tmp_path / "a.tar"))
    ids = first.ids("train")
    monkeypatch.setattr(archive_files, "read_archive", None)
    again = Folder(str(tmp_path / "a.tar"))
    assert again.ids("train") == ids
    assert again.fingerprint("val") == first.fingerprint("val")
