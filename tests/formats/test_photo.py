"""photo: unusual and broken images are read correctly, or skipped with the reason."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from pipeline.errors import SkippedImage
from pipeline.formats import photo, signature
from pipeline.ops.text import printable

# pytest resets Python's warning filters: test_silence looks at them from outside.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def silent(capfd):
    """Check that neither Pillow nor the C libraries below it write to the terminal."""
    yield
    assert capfd.readouterr().err == ""


def grey(height=30, width=40):
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def read(path: Path, **options: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the pixels of an image, and the size of the original."""
    image = photo.read(path, **options)
    return image.pixels, image.size


# -- images that are read


@pytest.mark.parametrize(
    "suffix", ["png", "bmp", "tif", "ppm", "tga", "webp", "gif", "jp2", "avif"]
)
def test_formats(painted, tmp_path, paint, suffix):
    if suffix in ("webp", "avif") and not features.check(suffix):
        pytest.skip(f"this Pillow has no {suffix}")
    how = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "avif" else {}
    image, size = read(paint(tmp_path / f"a.{suffix}", **how))
    assert size == (30, 40)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    lossy = {"gif": 12, "avif": 12}.get(suffix, 0)
    assert np.abs(image.astype(int) - painted()).mean() <= lossy


def test_one_pixel(tmp_path, paint):
    path = paint(tmp_path / "a.png", size=(1, 1))
    assert read(path)[0].shape == (1, 1, 3)
    image, size = read(path, at=(224, 160))
    assert (image.shape, size) == ((224, 160, 3), (1, 1))
    assert (image == image[0, 0]).all()


@pytest.mark.parametrize("at", [None, (20, 50)])
@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "L"), ("a.jpg", "L"), ("a.png", "P"), ("a.png", "1"), ("a.tif", "CMYK"),
     ("a.jpg", "CMYK"), ("a.png", "RGBA"), ("a.png", "LA"), ("a.jpg", "RGB"), ("a.tif", "F"),
     ("a.tif", "I"), ("a.tif", "YCbCr")],
)  # fmt: skip
def test_modes(painted, tmp_path, paint, name, mode, at):
    source = Image.fromarray(painted())
    if mode in ("LA", "F", "I"):
        source = source.convert("L")
    image, size = read(paint(tmp_path / name, source.convert(mode)), at=at)
    assert size == (30, 40)
    assert image.shape == (*(at or size), 3)
    expected = source.convert(mode).convert("RGB").resize(image.shape[1::-1], 2)
    if mode == "P":  # a palette picture is scaled by its colours, not by its indices
        assert np.abs(image.astype(int) - expected).mean() < 12
    elif mode in ("F", "I"):
        assert (image[..., 0] == image[..., 1]).all()
    else:
        assert np.abs(image.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("at", [None, (30, 40)])
def test_sixteen_bits_keep_their_high_byte(tmp_path, paint, suffix, at):
    deep = (grey().astype(np.uint16) << 8) | 0x7F
    image, _ = read(paint(tmp_path / f"a.{suffix}", Image.fromarray(deep)), at=at)
    assert (image == grey()[..., None]).all()


def test_big_endian_sixteen_bits(tmp_path, paint):
    deep = grey().astype(">u2") << 8
    image = Image.frombytes("I;16B", (40, 30), deep.astype(">u2").tobytes())
    assert (read(paint(tmp_path / "a.tif", image))[0] == grey()[..., None]).all()


@pytest.mark.parametrize("at", [None, (15, 20)])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "colour key", "grey key"])
def test_transparent_parts_lie_on_white(tmp_path, paint, kind, at):
    rgba = np.zeros((30, 40, 4), np.uint8)
    rgba[:, 20:, 3] = 255  # black, the left half invisible
    how: dict[str, Any] = {}
    image = Image.fromarray(rgba)
    if kind == "P":
        indices = np.zeros((30, 40), np.uint8)
        indices[:, 20:] = 1
        image = Image.fromarray(indices).convert("P")
        image.putpalette([255, 0, 0, 0, 0, 0])
        how = {"transparency": 0}
    elif kind == "colour key":
        rgba[:, :20, 0] = 255
        image, how = Image.fromarray(rgba[..., :3]), {"transparency": (255, 0, 0)}
    elif kind == "grey key":
        image, how = (
            Image.fromarray(255 - rgba[..., 3]).point(lambda v: v // 2),
            {"transparency": 127},
        )
    else:
        image = image.convert(kind)
    pixels, _ = read(paint(tmp_path / "a.png", image, **how), at=at)
    width = pixels.shape[1]
    assert (pixels[:, : width // 2 - 1] == 255).all()
    assert (pixels[:, width // 2 + 1 :] == 0).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_first_frame(tmp_path, paint, suffix):
    if suffix == "webp" and not features.check("webp"):
        pytest.skip("this Pillow has no webp")
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    how = {"lossless": True} if suffix == "webp" else {}
    path = paint(tmp_path / f"a.{suffix}", first, save_all=True, append_images=[second], **how)
    assert (read(path)[0] == (255, 0, 0)).all()
    assert (read(path, at=(8, 12))[0] == (255, 0, 0)).all()
    assert photo.read(path).is_first_of_several
    assert not photo.read(paint(tmp_path / f"single.{suffix}", first)).is_first_of_several


def test_a_damaged_second_frame_leaves_the_first(tmp_path, paint):
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    for suffix in ("gif", "tif"):
        path = paint(tmp_path / f"a.{suffix}", first, save_all=True, append_images=[second])
        single = paint(tmp_path / f"single.{suffix}", first).stat().st_size
        path.write_bytes(path.read_bytes()[: single + 6])
        assert (read(path)[0] == (255, 0, 0)).all()


# -- orientation

UPRIGHT_TO_STORED = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(painted, tmp_path, paint, orientation, suffix):
    upright = Image.fromarray(painted(32, 48))
    turn = UPRIGHT_TO_STORED[orientation]
    stored = upright if turn is None else upright.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[photo.ORIENTATION] = orientation
    lossless: dict[str, dict[str, Any]] = {
        "webp": {"lossless": True},
        "jpg": {"quality": 100, "subsampling": 0},
    }
    how = lossless.get(suffix, {})
    path = paint(tmp_path / f"a.{suffix}", stored, exif=exif, **how)
    assert photo.read_size(path) == (32, 48)
    image, size = read(path)
    assert size == image.shape[:2] == (32, 48)
    assert np.abs(image.astype(int) - np.asarray(upright)).max() <= 12 * (suffix == "jpg")
    image, size = read(path, at=(20, 60))
    assert (size, image.shape) == ((32, 48), (20, 60, 3))
    expected = np.asarray(upright.resize((60, 20), Image.Resampling.BILINEAR), int)
    assert np.abs(image - expected).mean() <= 3
    image, size = read(path, at_least=(16, 8))
    assert size == (32, 48)
    assert image.shape[:2] == ((16, 24) if suffix == "jpg" else (32, 48))


def test_draft_fits_the_upright_frame(tmp_path, paint):
    """A JPEG that is stored turned is decoded at the scale that fits its stored sides."""
    exif = Image.Exif()
    exif[photo.ORIENTATION] = 6
    path = paint(tmp_path / "a.jpg", size=(400, 800), exif=exif)
    image, size = read(path, at_least=(200, 50))
    assert (size, image.shape[:2]) == ((800, 400), (200, 100))


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\x7f",
              b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03" + b"\xff" * 20,
              b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
              b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0"]
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_broken_exif_is_no_orientation(tmp_path, paint, block, suffix):
    path = paint(tmp_path / f"a.{suffix}", exif=block)
    image, size = read(path, at=(15, 20))
    assert (size, image.shape) == ((30, 40), (15, 20, 3))
    assert photo.read_size(path) == (30, 40)


# -- images that are skipped


def refused(path, *words, **how):
    with pytest.raises(SkippedImage) as caught:
        read(path, name="its/name", **how)
    assert str(caught.value).startswith("its/name: ")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("at", [None, (8, 8)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_truncated(tmp_path, suffix, at):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    for share in (0.05, 0.5, 0.9):
        path = tmp_path / f"{share}.{suffix}"
        path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
        refused(path, at=at)


def test_corrupt_bytes_never_escape(painted, tmp_path):
    """Bytes changed at random give an image or SkippedImage, and nothing on stderr."""
    random = np.random.default_rng(0)
    jpeg, lzw = {"compression": "jpeg"}, {"compression": "tiff_lzw"}
    forms = [("jpeg", {}), ("png", {}), ("gif", {}), ("tiff", jpeg), ("tiff", lzw), ("webp", {}),
             ("jpeg2000", {})]  # fmt: skip
    for form, how in forms:
        buffer = io.BytesIO()
        Image.fromarray(painted()).save(buffer, form, **how)
        for n in range(40):
            data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
            where = random.integers(8, len(data), 6)
            data[where] = random.integers(0, 255, 6)
            path = tmp_path / f"{form}{n}"
            path.write_bytes(data.tobytes())
            with contextlib.suppress(SkippedImage):
                assert read(path, at=(16, 16))[0].shape == (16, 16, 3)


def test_not_images(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("This is no photograph, whatever it is called.\n" * 50)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "script.jpg").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    )
    refused(tmp_path / "empty.jpg", "empty file")
    refused(tmp_path / "text.jpg", "not an image")
    refused(tmp_path / "folder.jpg", "cannot be read", "directory")
    refused(tmp_path / "script.jpg", "not an image")  # would run Ghostscript
    refused(tmp_path / "gone.jpg", "no such file")


def test_unreadable(tmp_path, paint, monkeypatch):
    path = paint(tmp_path / "a.jpg")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    refused(path, "Permission denied")


def write_claiming(path: Path, width: int, height: int) -> Path:
    """Write a small PNG file whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )  # fmt: skip
    return path


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (20_000, 15_000)])
def test_bombs_are_refused_unread(tmp_path, width, height):
    path = write_claiming(tmp_path / "a.png", width, height)
    refused(path, "pixels", "refused")
    refused(path, "pixels", "refused", at=(224, 224))
    with pytest.raises(SkippedImage, match="refused"):
        photo.read_size(path)


# -- large photographs, threads, names


PEAK = """
import sys
from pipeline.formats import photo
import numpy, PIL.JpegImagePlugin, PIL.PngImagePlugin
def peak():  # ru_maxrss would start from the peak of the parent process
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
before = peak()
at = None if sys.argv[2] == "None" else (224, 160)
image = photo.read(sys.argv[1], at=at)
print(peak() - before, *image.size, *image.pixels.shape)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("suffix", "limit"), [("jpg", 150), ("png", 600)])
def test_memory_of_a_huge_photograph(tmp_path, suffix, limit):
    """A JPEG is decoded at a smaller scale; a PNG cannot be, but is never in memory twice."""
    path = tmp_path / f"huge.{suffix}"
    image = Image.linear_gradient("L").resize((12_000, 9_000)).convert("RGB")
    how: dict[str, Any] = {"quality": 50} if suffix == "jpg" else {"compress_level": 1}
    image.save(path, **how)
    del image
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path), "224 x 160"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    megabytes, *shape = map(float, done.stdout.split())
    assert shape == [9000, 12000, 224, 160, 3]
    assert megabytes < limit
    assert done.stderr == ""


def test_strips_are_the_same_as_one_piece(painted, monkeypatch):
    image = Image.fromarray(painted(700, 30))
    at_once = photo._to_array(image)
    monkeypatch.setattr(photo, "LARGE_IMAGE_PIXELS", 10)
    assert (photo._to_array(image) == at_once).all()


def test_large_images_one_at_a_time(tmp_path, paint, monkeypatch):
    monkeypatch.setattr(photo, "LARGE_IMAGE_PIXELS", 10)
    path = paint(tmp_path / "a.png")
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: read(path, at=(16, 16))[0], range(20)))
    assert all((image == images[0]).all() for image in images)
    refused(tmp_path / "gone.png")  # the slot is released after an error, too
    assert photo._large_image_slot.acquire(timeout=1)
    photo._large_image_slot.release()


def test_threads_give_the_same_bytes(tmp_path, paint):
    paths = [paint(tmp_path / f"{n}.{s}", size=(90 + n, 70 + n)) for n in range(8)
             for s in ("jpg", "png", "gif", "webp")]  # fmt: skip
    alone = [read(path, at=(32, 48))[0] for path in paths]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: read(path, at=(32, 48))[0], paths * 5))
    assert all((a == b).all() for a, b in zip(alone * 5, together, strict=True))


NAMES = ["with space.jpg", "quo'te\".jpg", "a=b,c.jpg", "[1](2){3}*?.jpg", "new\nline.jpg",
         "tab\tand\x1besc.jpg", "ünïcödé-鳥.jpg", "back\\slash.jpg", os.fsdecode(b"b\xffyte.jpg"),
         "x" * 251 + ".jpg", "-rf.jpg", "%s %d.jpg"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path, paint, name):
    assert read(paint(tmp_path / name))[1] == (30, 40)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SkippedImage) as caught:
        read(tmp_path / name)
    str(caught.value).encode()
    assert "\n" not in str(caught.value)


def test_printable_names_stay_apart():
    odd = [
        "a\nb",
        "a\\nb",
        "a\\\\nb",
        os.fsdecode(b"a\xffb"),
        "a\\xffb",
        "aÿb",
        "a\x7f",
        "a\\x7f",
        "👩‍🚀",
    ]
    shown = [printable(name) for name in odd]
    assert len(set(shown)) == len(odd)
    assert shown[0] == r"a\nb"
    assert shown[3] == r"a\xffb"
    assert shown[5] == "aÿb"
    assert shown[8] == "👩‍🚀"
    for name in shown:
        name.encode()


def test_at_keeps_detail_smooth(tmp_path, paint):
    """Fine stripes become grey, not moiré: scaling down is antialiased."""
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    for suffix in ("png", "jpg"):
        image, _ = read(paint(tmp_path / f"a.{suffix}", Image.fromarray(stripes)), at=(96, 96))
        assert image[8:-8, 8:-8].std() < 8


def test_silence(tmp_path, paint):
    """No warning of Pillow reaches the terminal: of a broken EXIF block, of a bomb."""
    paths = [
        paint(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
        write_claiming(tmp_path / "b.png", 20_000, 15_000),
    ]
    loop = (
        "import sys; from pipeline.formats import photo; from pipeline.errors import SkippedImage\n"
        "for path in sys.argv[1:]:\n  try: photo.read(path)\n  except SkippedImage as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", loop, *map(str, paths)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stderr == ""
    assert "refused" in done.stdout


def test_real_photographs(shared):
    files = sorted((shared / "data/cub30").rglob("*.jpg"))[::100]
    for path in files:
        image, size = read(path, at=(224, 224))
        with Image.open(path) as reference:
            assert size == (reference.height, reference.width) == photo.read_size(path)
            expected = np.asarray(reference.convert("RGB").resize((224, 224), 2), int)
        assert np.abs(image - expected).mean() < 1


# -- files of another type than their name says


def test_what_a_file_is_instead_of_an_image(tmp_path, monkeypatch):
    for content, what in (
        (b"<!DOCTYPE html><html></html>", "HTML page"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp41", "MP4 video"),
        (b"%PDF-1.7\n", "PDF document"), (b"version https://git-lfs.github.com/spec", "Git LFS"),
        (b"404", "text file"),
    ):  # fmt: skip
        (tmp_path / "a.jpg").write_bytes(content)
        refused(tmp_path / "a.jpg", what)
    monkeypatch.setattr(signature, "find_spec", lambda name: None)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500))
    refused(tmp_path / "a.jpg", "HEIC image", "pip install 'label2box[heif]'")


def test_a_camera_raw_is_not_read_as_its_preview(tmp_path):
    Image.new("RGB", (16, 12)).save(tmp_path / "a.dng", "TIFF")
    refused(tmp_path / "a.dng", "DNG camera raw", "raw converter")


def test_an_image_of_any_ending(tmp_path):
    Image.new("RGB", (16, 12), (200, 0, 0)).save(tmp_path / "a.jpg_large", "JPEG")
    assert read(tmp_path / "a.jpg_large")[1] == (12, 16)


def test_heic(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24] = (220, 30, 30)
    exif = Image.Exif()
    exif[photo.ORIENTATION] = 6
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", exif=exif.tobytes())
    image, size = read(tmp_path / "a.heic")
    assert size == image.shape[:2] == (64, 48)  # upright
    assert photo.read_size(tmp_path / "a.heic") == size
    assert image[:, -12:, 0].mean() > 150 > image[:, :12, 0].mean()
    assert read(tmp_path / "a.heic", at=(8, 6))[0].shape == (8, 6, 3)
    (tmp_path / "b.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:200])
    refused(tmp_path / "b.heic", "a damaged HEIC image")


def test_a_damaged_avif_is_said_to_be_damaged(tmp_path, monkeypatch):
    path = tmp_path / "a.avif"
    path.write_bytes(b"\0\0\0\x1cftypavif" + bytes(range(200)))
    monkeypatch.setattr(signature, "_pillow_reads_avif", lambda: True)
    with pytest.raises(
        SkippedImage, match=r"a damaged AVIF image: the format is read, but not this"
    ):
        read(path)
    monkeypatch.setattr(signature, "_pillow_reads_avif", lambda: False)
    with pytest.raises(SkippedImage, match=r"AVIF image; pip install 'pillow>=11.3' reads them"):
        read(path)
