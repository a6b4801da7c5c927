"""Files in archives and at addresses are read as local files are, by any number of processes."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from pipeline.data.archive_files import list_stored
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo, signature, stored
from pipeline.formats.stored import Member
from tests.data.archive_layouts import noise, to_bytes, write_tar, write_zip

ADDRESS = "memory://stored"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def deep_files() -> dict[str, bytes]:
    """Images of each way of reading: JPEG, PNG of 16 bits, TIFF, a common and a rare format."""
    folder = {"a.jpg": to_bytes(noise(0), "JPEG"), "b.tif": to_bytes(noise(1), "TIFF")}
    grey = np.arange(2400, dtype=np.uint16).reshape(40, 60) * 20
    folder["c.png"] = to_bytes(grey)
    folder["d.tga"] = to_bytes(noise(2), "TGA")
    folder["e.jp2"] = to_bytes(noise(3), "JPEG2000")
    return folder


@pytest.fixture(params=["tar", "zip", "address", "tar at an address"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, tuple[str, Path]]:
    """Each image as a location, and as the local file that it is a copy of."""
    files = deep_files()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    archive = tmp_path / ("all.zip" if request.param == "zip" else "all.tar")
    (write_zip if request.param == "zip" else write_tar)(archive, files)
    location = str(archive)
    memory = fsspec.filesystem("memory")
    if request.param == "address":
        location = f"{ADDRESS}/folder"
        memory.pipe({f"/stored/folder/{name}": data for name, data in files.items()})
    elif request.param == "tar at an address":
        location = f"{ADDRESS}/all.tar"
        memory.pipe("/stored/all.tar", archive.read_bytes())
    listed = list_stored(location).files
    assert [file.id for file in listed] == sorted(files)
    return {file.id: (file.path, tmp_path / file.id) for file in listed}


def test_images_are_read_as_local_files_are(places: dict[str, tuple[str, Path]]) -> None:
    for name, (location, path) in places.items():
        assert not stored.is_local(location)
        there, here = photo.read(location), photo.read(path)
        np.testing.assert_array_equal(there.pixels, here.pixels)
        assert photo.read_size(location) == photo.read_size(path) == (40, 60)
        assert photo.read_mode(location) == photo.read_mode(path)
        assert photo.has_deep_pixels(location) == photo.has_deep_pixels(path) == (name == "c.png")
        assert signature.identify(location) == signature.identify(path)
        assert stored.read_bytes(location) == path.read_bytes()
        small = photo.read(location, at=(8, 8)).pixels
        np.testing.assert_array_equal(small, photo.read(path, at=(8, 8)).pixels)
    values = photo.read_deep(places["c.png"][0]).values
    np.testing.assert_array_equal(values, np.asarray(Image.open(places["c.png"][1])))


def test_a_location_holds_all_that_a_reader_needs() -> None:
    member = Member("/a b/\u00fc!.tar", "x/y z.jpg", 1 << 40, 7, stored.RAW, (1 << 41, 1 << 60))
    assert Member.from_location(member.to_location()) == member
    assert member.to_location().endswith(".jpg")
    for text, is_local in (("/a.jpg", True), ("s3://b/a.jpg", False), ("c:/a.jpg", True),
                           ("a/http://b", True), (member.to_location(), False)):  # fmt: skip
        assert stored.is_local(text) is is_local
    assert stored.is_local(Path("/a.jpg"))


def test_faults_are_reasons_to_skip(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.png": b"", "b.png": b"no image", "c.png": to_bytes(noise(0))})
    empty, wrong, good = (file.path for file in list_stored(str(tmp_path / "a.tar")).files)
    with pytest.raises(SkippedImage, match="a: an empty file"):
        photo.read(empty, name="a")
    with pytest.raises(SkippedImage, match="b: not an image"):
        photo.read(wrong, name="b")
    os.utime(tmp_path / "a.tar", ns=(1, 1))
    with pytest.raises(SkippedImage, match=r"c: .*a\.tar was changed after it was indexed"):
        photo.read(good, name="c")
    (tmp_path / "a.tar").unlink()
    with pytest.raises(SkippedImage, match="c: no such file"):
        photo.read(good, name="c")
    with pytest.raises(SkippedImage, match="d: no such file"):
        photo.read(f"{ADDRESS}/gone.png", name="d")


def test_a_damaged_member_of_a_zip_is_skipped(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"a.bmp": b"", "b.bmp": to_bytes(noise(0) // 99, "BMP")})
    file = list_stored(str(tmp_path / "a.zip")).files[1]
    member = Member.from_location(file.path)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[member.offset + 60 : member.offset + 160] = bytes(100)
    stat = os.stat(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(data)
    os.utime(tmp_path / "a.zip", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(SkippedImage, match="b: "):
        photo.read(file.path, name="b")


def test_a_network_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/stored/again.png", to_bytes(noise(0)))
    calls, original = list[str](), type(memory).cat_file

    def fail_twice(self: object, path: str, *rest: object, **options: object) -> bytes:
        calls.append(path)
        if len(calls) < 3:
            raise TimeoutError("slow")
        return original(self, path, *rest, **options)

    monkeypatch.setattr(type(memory), "cat_file", fail_twice)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert photo.read(f"{ADDRESS}/again.png").size == (40, 60)
    assert len(calls) == 3
    monkeypatch.setattr(type(memory), "cat_file", lambda *a, **b: 1 / 0)
    with pytest.raises(SkippedImage, match=r"not read in 3 attempts .ZeroDivisionError"):
        photo.read(f"{ADDRESS}/again.png", name="a")


def test_a_server_that_is_gone_ends_the_run_and_skips_no_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/stored/gone.png", to_bytes(noise(0)))
    calls: list[str] = []

    def fail(self: object, path: str, *rest: object, **options: object) -> bytes:
        calls.append(path)
        raise ConnectionResetError("gone")

    monkeypatch.setattr(type(memory), "cat_file", fail)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"gone\.png: its server cannot be reached in 7 attempts"):
        photo.read(f"{ADDRESS}/gone.png", name="a")
    assert len(calls) == 7


def test_an_unknown_address_is_named() -> None:
    with pytest.raises(UserError, match="nonsense://a"):
        stored.open_address("nonsense://a")


def hash_images(locations: list[str]) -> list[int]:
    return [int(photo.read(location).pixels.sum()) for location in locations]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_and_threads_read_one_archive(tmp_path: Path, start: str) -> None:
    write_tar(tmp_path / "a.tar", {f"{n}.png": to_bytes(noise(n)) for n in range(24)})
    locations = [file.path for file in list_stored(str(tmp_path / "a.tar")).files]
    expected = hash_images(locations)
    with ThreadPoolExecutor(4) as threads:
        parts = [locations[n::4] for n in range(4)] * 3
        assert [*threads.map(hash_images, parts)] == [expected[n::4] for n in range(4)] * 3
    with multiprocessing.get_context(start).Pool(2) as pool:
        assert pool.map(hash_images, [locations, locations[::-1]]) == [expected, expected[::-1]]
        pool.close()
        pool.join()


def test_processes_read_an_address_after_a_fork() -> None:
    fsspec.filesystem("memory").pipe({f"/stored/f/{n}.png": to_bytes(noise(n)) for n in range(4)})
    locations = [file.path for file in list_stored(f"{ADDRESS}/f").files]
    expected = hash_images(locations)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(hash_images, [locations, locations]) == [expected, expected]
        pool.close()
        pool.join()
