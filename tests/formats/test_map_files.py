"""map_files: what a folder of maps holds beside the maps that were expected there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.formats.map_files import describe_expected_maps, find_other_files
from pipeline.formats.wsolevaluation import Metadata

IDS = ["val/c0/im0.jpg", "val/c1/im1.jpg"]


@pytest.mark.parametrize(
    ("name", "inside", "said"),
    [
        ("maps/val/c0/im0.npy", "", "there is 'maps/val/c0/im0.npy'; give the folder FOLDER/maps"),
        ("val/c0/im0.npy", "val", "there is 'c0/im0.npy'; give the folder FOLDER"),
        ("val/c1/im1.jpg.npy", "val/c1", "there is 'im1.jpg.npy'; give the folder FOLDER"),
        ("im1.npy", "", "there is 'im1.npy', expected 'val/c1/im1.npy': keep the folders of"),
        ("other.npy", "", "there are 1 .npy files, as 'other.npy', of no image of image_ids.txt"),
        ("im1.png", "", "expected 'val/c0/im0.npy' or 'val/c0/im0.jpg.npy' in it, and it holds no"),
    ],
)
def test_the_folder_that_holds_the_maps_is_named(
    name: str, inside: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theirs" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    hint = describe_expected_maps(Path("theirs") / inside, IDS)
    assert said.replace("FOLDER", "theirs") in hint


def test_maps_in_their_place_need_no_hint(tmp_path: Path) -> None:
    (tmp_path / "val/c0").mkdir(parents=True)
    np.save(tmp_path / "val/c0/im0.npy", np.zeros(3))
    assert describe_expected_maps(tmp_path, IDS) == ""


def test_files_of_other_formats_are_listed_by_ending(tmp_path: Path) -> None:
    metadata = Metadata(tmp_path / "meta", IDS, {}, {}, {}, {}, [])
    names = ("val/c0/im0.jpg", "val/c0/im0.png", "im1.NPZ", "meta/mask.png", "read.me", "a.npy")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    others = find_other_files(tmp_path, metadata)
    assert others == {".npz": ["im1.NPZ"], ".png": ["val/c0/im0.png"]}
