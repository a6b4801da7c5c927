"""Image files placed elsewhere: links that are never written through, copies, unique names."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.formats.image_files import (
    PlacingMode,
    has_no_metadata,
    is_turned,
    place_image,
    unique_paths,
    write_image,
)


def test_a_link_shares_the_file_and_a_copy_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"image")
    place_image(path, tmp_path / "new/linked.jpg", "link")
    place_image(path, tmp_path / "new/copied.jpg", "copy")
    assert os.path.samefile(path, tmp_path / "new/linked.jpg")
    assert not os.path.samefile(path, tmp_path / "new/copied.jpg")
    assert (tmp_path / "new/copied.jpg").read_bytes() == b"image"


def test_files_are_copied_where_linking_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a.jpg").write_bytes(b"image")
    place_image(tmp_path / "a.jpg", tmp_path / "b.jpg", "link")
    assert (tmp_path / "b.jpg").read_bytes() == b"image"


@pytest.mark.parametrize("first", ["link", "copy"])
@pytest.mark.parametrize("second", ["link", "copy"])
def test_a_file_that_is_there_is_replaced_and_no_other_changes(
    first: PlacingMode, second: PlacingMode, tmp_path: Path
) -> None:
    old, new, target = tmp_path / "old.jpg", tmp_path / "new.jpg", tmp_path / "target.jpg"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    place_image(old, target, first)
    place_image(old, target, second)
    assert os.path.samefile(old, target) == (second == "link")
    place_image(new, target, second)
    assert (old.read_bytes(), target.read_bytes()) == (b"old", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"old.jpg", "new.jpg", "target.jpg"}


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    place_image(tmp_path / "b.jpg", tmp_path / "deep/er/c.jpg", "link")
    assert not (tmp_path / "deep/er/c.jpg").is_symlink()
    assert (tmp_path / "deep/er/c.jpg").read_bytes() == b"image"


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("turn", [1, 3, 6])
def test_turned_files_are_recognized(
    ending: str, turn: int, tmp_path: Path, paint: Callable[..., Path]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = paint(tmp_path / f"a.{ending}", size=(30, 40), exif=exif)
    assert is_turned(path, (40, 30) if turn == 6 else (30, 40)) == (turn != 1)


def test_a_header_is_read_in_its_place_where_it_has_no_metadata(
    tmp_path: Path, paint: Callable[..., Path]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert has_no_metadata(paint(tmp_path / "plain.jpg", size=(30, 40)))
    assert not has_no_metadata(paint(tmp_path / "turned.jpg", size=(30, 40), exif=exif))
    assert not has_no_metadata(paint(tmp_path / "plain.png", size=(30, 40)))
    (tmp_path / "short.jpg").write_bytes((tmp_path / "plain.jpg").read_bytes()[:200])
    assert not has_no_metadata(tmp_path / "short.jpg")


def test_what_is_no_image_is_not_turned(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    assert not is_turned(tmp_path / "a.jpg", (3, 4))


@pytest.mark.parametrize(("name", "kind"), [("a.JPG", "JPEG"), ("a.png", "PNG"), ("a.tif", "PNG")])
def test_pixels_are_written_in_the_format_of_the_name(
    name: str, kind: str, tmp_path: Path, painted: Callable[..., np.ndarray]
) -> None:
    pixels = painted(30, 40)
    write_image(pixels, tmp_path / "new" / name)
    with Image.open(tmp_path / "new" / name) as image:
        assert image.format == kind
        difference = np.abs(np.asarray(image).astype(int) - pixels)
    assert difference.mean() < (2 if kind == "JPEG" else 1e-9)


def test_paths_stay_below_their_folder_and_differ() -> None:
    ids = ["a.jpg", "a.png", "A.JPG", "a-2.jpg", "b/a.jpg", "/etc/x.jpg", "../../y.jpg", "..", ""]
    paths = unique_paths(ids)
    stems = [os.path.splitext(path)[0].casefold() for path in paths]
    assert len(set(stems)) == len(ids)
    assert paths[0] == "a.jpg"
    assert paths[4:7] == ["b/a.jpg", "etc/x.jpg", "y.jpg"]
    assert not [path for path in paths if ".." in path.split("/") or path.startswith("/")]


def test_long_names_fit_into_a_file_system(tmp_path: Path) -> None:
    for path in unique_paths(["ü" * 200 + ".jpg", "ü" * 201 + ".jpg"]):
        (tmp_path / path).touch()
    assert len(list(tmp_path.iterdir())) == 2
