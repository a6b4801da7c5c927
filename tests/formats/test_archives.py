"""Tar and zip archives are listed as tarfile and zipfile list them; damage is named by its byte."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.formats import stored
from pipeline.formats.archives import is_archive, read_archive
from tests.data.archive_layouts import write_tar, write_zip

FILES = {
    "a.txt": b"first",
    "folder/b.txt": b"x" * 513,
    "l" * 120 + "/" + "m" * 120 + ".txt": b"long",
    "\u00fc/\u00f6 \u4e2d.txt": b"",
    "z.txt": b"y" * 512,
}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_listed_as_tarfile_does(tmp_path: Path, form: int) -> None:
    path = tmp_path / "a.tar"
    files = dict(FILES)
    if form == tarfile.USTAR_FORMAT:
        files["l" * 90 + "/" + "m" * 90 + ".txt"] = files.pop(next(n for n in files if "lll" in n))
    write_tar(path, files, form)
    found = read_archive(str(path), lambda name: name == "z.txt")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    assert found.names == [member.name for member in members] == list(files)
    assert found.offsets == [member.offset_data for member in members]
    assert found.lengths == [member.size for member in members]
    assert found.contents == {found.names.index("z.txt"): b"y" * 512}
    assert not found.notes
    data = path.read_bytes()
    for name, start, length in zip(found.names, found.offsets, found.lengths, strict=True):
        assert data[start : start + length] == files[name]


def test_folders_and_links_in_a_tar(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("a")
    (tmp_path / "in/b.txt").symlink_to("a.txt")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "in", "in")
    found = read_archive(str(tmp_path / "a.tar"))
    assert found.names == ["in/a.txt"]
    assert found.notes == ["a.tar: 1 entry is no plain file, not read: 1 link"]


def test_a_size_in_binary_is_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.txt": b"x" * 700, "b.txt": b"y"})
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[124:136] = b"\x80" + (700).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(data)
    assert read_archive(str(tmp_path / "a.tar")).lengths == [700, 1]


@pytest.mark.parametrize("cut", [100, 512, 700, 1536, 1700, 2048, 2560, 3000, 3072, 3584])
def test_a_tar_that_ends_early_gives_what_is_before(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, {"a.txt": b"x" * 600, "b.txt": b"y" * 600, "c.txt": b"z"})
    whole = read_archive(str(path))
    path.write_bytes(path.read_bytes()[:cut])
    if cut < 512:
        with pytest.raises(UserError, match="no tar or zip archive"):
            read_archive(str(path))
        return
    found = read_archive(str(path))
    ends = [start + length for start, length in zip(whole.offsets, whole.lengths, strict=True)]
    good = sum(end <= cut for end in ends)
    assert found.names == whole.names[:good]
    (note,) = found.notes
    assert note.startswith(f"a.tar: ends early, at byte {cut}")
    assert f"{good} file" in note
    assert "get the archive again" in note


def test_a_damaged_header_is_named_by_its_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, {"a.txt": b"x", "b.txt": b"y"})
    data = bytearray(path.read_bytes())
    data[1024 + 100] ^= 1
    path.write_bytes(data)
    found = read_archive(str(path))
    assert found.names == ["a.txt"]
    assert found.notes[0].startswith("a.tar: damaged at byte 1024")


def test_a_zip_is_listed_as_zipfile_does(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    write_zip(path, FILES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("empty")
        archive.writestr("c.txt", b"c" * 99, zipfile.ZIP_BZIP2)
    found = read_archive(str(path), lambda name: name == "a.txt")
    assert found.names == list(FILES)
    assert found.contents == {0: b"first"}
    assert found.notes == ["a.zip: 1 entry is no plain file, not read: 1 compressed by bzip2"]


def test_a_zip_that_ends_early_gives_what_is_before(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    files = {f"{name}/{n}.png": bytes([n]) * (400 * n + 9) for n in range(3) for name in "ab"}
    write_zip(path, files)
    data = path.read_bytes()
    whole = read_archive(str(path))
    with zipfile.ZipFile(path) as archive:
        starts = [entry.header_offset for entry in archive.infolist()] + [archive.start_dir]
    for cut in range(starts[1], len(data), 61):
        path.write_bytes(data[:cut])
        found = read_archive(str(path), lambda name: True)
        good = sum(end <= cut for end in starts[1:])
        assert found.names == whole.names[:good]
        assert found.numbers().tolist() == whole.numbers()[:good].tolist()
        assert list(found.contents.values()) == [*files.values()][:good]
        (note,) = found.notes
        assert note.startswith(f"a.zip: ends early, at byte {cut}: ")
        assert f"{good} file" in note
        if good < len(starts) - 1 and cut >= starts[good] + 30 + len("a/0.png"):
            assert f"'{whole.names[good]}', from byte {starts[good]} on, has " in note


def test_a_zip_whose_sizes_stand_behind_the_files_cannot_be_read_without_its_list(
    tmp_path: Path,
) -> None:
    class Stream(io.RawIOBase):  # zipfile writes sizes behind the files where it cannot seek
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            with open(tmp_path / "a.zip", "ab") as file:
                return file.write(data)

    with zipfile.ZipFile(Stream(), "w") as archive:
        archive.writestr("a.txt", b"x" * 99)
    assert read_archive(str(tmp_path / "a.zip")).names == ["a.txt"]
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data[:-30])
    with pytest.raises(UserError, match=r"and the size of 'a\.txt', at byte 0, neither"):
        read_archive(str(tmp_path / "a.zip"))


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", FILES)
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data[:30])
    with pytest.raises(UserError, match=r"ends early, at byte 30: .*get the archive again"):
        read_archive(str(tmp_path / "a.zip"))
    write_tar(tmp_path / "a.tar", FILES)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(UserError, match="compressed by gzip as a whole"):
        read_archive(str(tmp_path / "a.tar.gz"))
    (tmp_path / "b.tar").write_text("no archive " * 100)
    with pytest.raises(UserError, match="no tar or zip archive"):
        read_archive(str(tmp_path / "b.tar"))
    with pytest.raises(UserError, match="no such file"):
        read_archive(str(tmp_path / "gone.tar"))
    (tmp_path / "empty.tar").write_bytes(b"")
    assert not read_archive(str(tmp_path / "empty.tar")).names


def test_archives_are_told_by_content(tmp_path: Path) -> None:
    write_tar(tmp_path / "a", FILES)
    write_zip(tmp_path / "b", FILES)
    (tmp_path / "c").write_text("text")
    assert [is_archive(str(tmp_path / name)) for name in "abcd"] == [True, True, False, False]
    assert is_archive("s3://bucket/a.TAR")
    assert not is_archive("s3://bucket/folder")
    assert stored.is_address("s3://bucket/a")
    assert not os.path.exists(tmp_path / "d")
