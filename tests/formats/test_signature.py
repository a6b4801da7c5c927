"""signature: files are what their first bytes say, whatever the name says."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from pipeline.formats import signature
from pipeline.formats.signature import HEAD_BYTES, identify, identify_bytes


def encode(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, form)
    return buffer.getvalue()


def box(main: str, *others: str) -> bytes:
    brands = b"".join(each.encode() for each in others)
    content = b"ftyp" + main.encode() + bytes(4) + brands
    return (len(content) + 4).to_bytes(4, "big") + content + bytes(100)


@pytest.mark.parametrize(
    "form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "ICO", "DDS", "PPM"]
)
def test_images_that_pillow_writes(form: str) -> None:
    if form == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    file_type = identify_bytes(encode(form)[:HEAD_BYTES])
    assert file_type is not None
    assert file_type.is_image
    assert file_type.is_readable


def name_of(head: bytes, ending: str = "") -> str:
    file_type = identify_bytes(head, ending)
    assert file_type is not None
    assert not file_type.is_image
    return file_type.name


def test_brands() -> None:
    assert name_of(box("heic", "mif1", "heic")) == "HEIC image"
    assert name_of(box("mif1", "heic")) == "HEIC image"
    assert name_of(box("mif1", "avif")) == "AVIF image"
    assert name_of(box("avif")) == "AVIF image"
    assert name_of(box("crx ")) == "CR3 camera raw"
    assert name_of(box("isom", "mp42")) == "MP4 video"
    assert name_of(box("qt  ")) == "QuickTime video"


def test_others() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", "x")
    assert name_of(buffer.getvalue()) == "zip archive"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    assert name_of(buffer.getvalue()) == "tar archive"
    assert name_of(b"%PDF-1.7") == "PDF document"
    assert name_of(b"\n<!DOCTYPE html><html>") == "HTML page"
    assert name_of(b"<?xml version='1.0'?><svg/>") == "SVG image"
    assert name_of(b"<?xml version='1.0'?><annotation/>") == "XML file"
    assert name_of(b"404: not found\n") == "text file"
    assert name_of("grün\n".encode() * HEAD_BYTES) == "text file"
    assert name_of(b"version https://git-lfs.github.com/spec/v1\n") == "Git LFS pointer"
    assert name_of(bytes(300)) == "file of zero bytes only"
    assert name_of(b"\xff\x0a" + bytes(9)) == "JPEG XL image"
    assert name_of(bytes(128) + b"DICM") == "DICOM file"
    for nothing in (b"", b"\x93\x12\xff\x80", np.random.default_rng(0).bytes(500)):
        assert identify_bytes(nothing) is None


def test_camera_raws_that_are_tiff_files() -> None:
    tiff = encode("TIFF")
    assert name_of(tiff, "nef") == "NEF camera raw"
    assert name_of(b"II*\0\x10\0\0\0CR\2\0") == "CR2 camera raw"
    tags = Image.new("L", (8, 8))
    buffer = io.BytesIO()
    tags.save(buffer, "TIFF", tiffinfo={50706: b"\x01\x04\x00\x00"})
    assert name_of(buffer.getvalue(), "tif") == "DNG camera raw"
    assert identify_bytes(encode("JPEG"), "nef") == identify_bytes(encode("JPEG"))


def test_the_ending_decides_where_the_content_says_nothing(tmp_path: Path) -> None:
    for name, expected in (
        ("a.HEIC", "HEIC image"), ("a.arw", "ARW camera raw"), ("a.mov", "QuickTime video"),
        ("a.jxl", "JPEG XL image"), ("a.pdf", "PDF document"), ("a.rar", "rar archive"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"\x93\x12\xff\x80" * 99)
        file_type = identify(tmp_path / name)
        assert file_type is not None
        assert file_type.name == expected
        assert file_type.remedy
    (tmp_path / "a.heic").write_bytes(encode("JPEG"))
    file_type = identify(tmp_path / "a.heic")
    assert file_type is not None
    assert file_type.name == "JPEG image"


def test_heic_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "find_spec", lambda name: None)
    assert not signature.HEIC.is_readable
    assert "label2box[heif]" in signature.HEIC.remedy
    monkeypatch.setattr(signature, "find_spec", lambda name: object())
    assert signature.HEIC.is_readable
