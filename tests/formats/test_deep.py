"""deep: images of more than 8 bits keep their contrast, whatever their numbers and channels."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import SkippedImage
from pipeline.formats import photo
from pipeline.ops.intensity import IntensityRanges

GROUND, OBJECT = (40, 60), (20, 30)
TWELVE_BITS = IntensityRanges({"integer": (400, 3500), "float": (400 / 4095, 3500 / 4095)})


# pytest resets the warning filters that keep Pillow quiet.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Any:
    """Check that no library writes to the terminal."""
    yield
    assert capfd.readouterr().err == ""


def frame(dtype: Any = np.uint16, channels: int = 0) -> np.ndarray:
    """A frame of a 12-bit sensor: the object is 7 times as bright as the ground."""
    pixels = 400 + np.random.default_rng(0).integers(0, 200, (48, 64))
    pixels[10:34, 20:44] = 3500
    pixels = np.stack([pixels] * channels, 2) if channels else pixels
    return pixels.astype(dtype)


def write(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """Write with OpenCV, in RGB order, or with Pillow where there are tags."""
    if tags:
        Image.fromarray(pixels).save(path, **tags)
        return path
    bgr = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    assert cv2.imwrite(str(path), bgr)
    return path


def read(path: Path, **options: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the pixels of an image, and the size of the original."""
    image = photo.read(path, **options)
    return image.pixels, image.size


@pytest.mark.parametrize("channels", [0, 3])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("png", np.uint16), ("tif", np.uint16), ("tif", np.int16), ("tif", np.int32),
     ("tif", np.float32), ("tif", np.float64), ("pfm", np.float32), ("pgm", np.uint16),
     ("jp2", np.uint16)],
)  # fmt: skip
def test_contrast_is_the_same_in_each_format(
    tmp_path: Path, suffix: str, dtype: Any, channels: int
) -> None:
    suffix = "ppm" if suffix == "pgm" and channels else suffix
    pixels = frame(dtype, channels)
    if suffix == "jp2":
        pixels = np.repeat(np.repeat(pixels, 4, 0), 4, 1)
    path = write(tmp_path / f"a.{suffix}", pixels)
    assert photo.has_deep_pixels(path)
    image, size = read(path)
    step = 4 if suffix == "jp2" else 1
    assert size == image.shape[:2] == photo.read_size(path) == (48 * step, 64 * step)
    image = image[::step, ::step]
    assert (image[..., 0] == image[..., 1]).all()
    assert len(np.unique(image)) > 15
    assert image[OBJECT][0] == 255
    assert image[GROUND][0] < 20
    scaled, _ = read(path, at=(24, 32))
    assert scaled.shape == (24, 32, 3)
    assert abs(int(scaled[10, 15, 0]) - 255) <= 1


def test_colours_stay_in_order_and_alpha_lies_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint16)
    pixels[..., 0], pixels[..., 2] = 65535, 257 * 100
    pixels[4:, :, 3] = 65535
    for suffix in ("png", "tif"):
        image, _ = read(write(tmp_path / f"a.{suffix}", pixels))
        assert (image[4:] == (255, 0, 100)).all()
        if suffix == "png":  # OpenCV writes no TIFF tag that says what the fourth channel is
            assert (image[:4] == 255).all()


def test_a_given_range_is_the_same_for_dark_and_bright_images(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", frame())
    dark = write(tmp_path / "dark.png", frame() // 2)
    bright, _ = read(path, ranges=TWELVE_BITS)
    dim, _ = read(dark, ranges=TWELVE_BITS)
    assert bright[OBJECT][0] == 255
    assert abs(int(dim[OBJECT][0]) - 255 * (1750 - 400) / 3100) <= 2
    assert not photo.read(path, ranges=TWELVE_BITS).has_own_range
    as_float, _ = read(
        write(tmp_path / "a.tif", (frame() / 4095).astype(np.float32)), ranges=TWELVE_BITS
    )
    assert np.abs(as_float.astype(int) - bright).max() <= 1


def test_a_kind_without_a_range_has_that_of_the_image_and_is_said(tmp_path: Path) -> None:
    ranges = IntensityRanges({"integer": (0, 4095)})
    path = write(tmp_path / "a.tif", (frame() / 4095).astype(np.float32))
    image = photo.read(path, ranges=ranges)
    assert (image.pixels[OBJECT][0], image.has_own_range) == (255, True)


@pytest.mark.parametrize("absent", [-9999, -32768, 32767])
def test_thermal_frames_without_measurements(tmp_path: Path, absent: int) -> None:
    pixels = frame(np.int16) - 1000  # -600 to 2500
    pixels[:4] = absent
    image, _ = read(write(tmp_path / "a.tif", pixels))
    assert (image[:4] == 0).all()
    assert image[OBJECT][0] == 255
    assert len(np.unique(image[34:])) > 10


def test_saturated_pixels_are_white_and_no_part_of_the_range(tmp_path: Path) -> None:
    pixels = frame(np.uint16)
    pixels[:4] = 65535
    image, _ = read(write(tmp_path / "a.png", pixels))
    assert (image[:4] == 255).all()
    assert image[OBJECT][0] == 255
    assert len(np.unique(image[34:])) > 10


def test_floats_with_nan_and_a_value_that_the_file_names(tmp_path: Path) -> None:
    for most in (1.0, 4095.0):
        pixels = (frame() / 4095 * most).astype(np.float32)
        pixels[:4], pixels[4:6] = np.nan, np.inf
        pixels[6:8] = -1234.5
        path = write(tmp_path / "a.tif", pixels, tiffinfo={42113: "-1234.5"})
        image, _ = read(path)
        assert (image[:8] == 0).all()
        assert image[OBJECT][0] == 255
        assert image[34:].max() < 30
        assert len(np.unique(image[34:])) > 10


def test_the_least_value_can_be_white(tmp_path: Path) -> None:
    plain, _ = read(write(tmp_path / "a.tif", frame()))
    negative, _ = read(write(tmp_path / "b.tif", frame(), tiffinfo={262: 0}))
    np.testing.assert_array_equal(negative, 255 - plain)


@pytest.mark.parametrize("as_byte", [lambda g: g * 257, lambda g: g << 8, lambda g: (g << 8) | 99])
@pytest.mark.parametrize("channels", [0, 3])
def test_sixteen_bits_that_are_all_in_use_look_as_eight(
    tmp_path: Path, as_byte: Any, channels: int
) -> None:
    grey = np.tile(np.arange(8, 248, dtype=np.uint16), (20, 1))
    pixels = as_byte(np.stack([grey] * channels, 2) if channels else grey)
    image, _ = read(write(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(image, np.stack([grey] * 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [0, 3])
def test_orientation(tmp_path: Path, orientation: int, suffix: str, channels: int) -> None:
    """An image of 16 bits is turned as one of 8 bits is."""
    eight = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    exif = Image.Exif()
    exif[photo.ORIENTATION] = orientation
    path, expected_path = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    Image.fromarray(np.stack([eight] * 3, 2)).save(expected_path, exif=exif)
    deep = np.stack([eight] * 3, 2) if channels else eight
    if channels:
        save_deep_colours(path, deep.astype(np.uint16) * 257, orientation)
    else:
        Image.fromarray(deep.astype(np.uint16) * 257).save(path, exif=exif)
    assert photo.has_deep_pixels(path)
    ranges = IntensityRanges({"integer": (0, 65535)})
    image, size = read(path, ranges=ranges)
    expected, expected_size = read(expected_path)
    assert size == expected_size == photo.read_size(path)
    np.testing.assert_array_equal(image, expected)
    Image.fromarray(eight).save(path, exif=exif)  # grey of 8 bits, too
    np.testing.assert_array_equal(read(path)[0], expected)


def save_deep_colours(path: Path, pixels: np.ndarray, orientation: int) -> None:
    """Write RGB of 16 bits with an orientation; Pillow cannot, and OpenCV not in each format."""
    if path.suffix == ".tif":
        tifffile = pytest.importorskip("tifffile")
        tag = (photo.ORIENTATION, "H", 1, orientation, True)
        tifffile.imwrite(path, pixels, photometric="rgb", extratags=[tag])
        return
    write(path, pixels)
    exif = Image.Exif()
    exif[photo.ORIENTATION] = orientation
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    data, head = path.read_bytes(), 33  # the signature and IHDR
    chunk = b"eXIf" + block
    piece = len(block).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(data[:head] + piece + data[head:])


def test_unsigned_integers_of_32_bits(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for order in "<>":
        tifffile.imwrite(tmp_path / "a.tif", frame(np.uint32) + 2**31, byteorder=order)
        image, _ = read(tmp_path / "a.tif")
        assert (image[OBJECT][0], image[GROUND][0] < 20) == (255, True)


@pytest.mark.parametrize("pixels", [frame(channels=5), frame(channels=2), frame(np.float16)])
def test_forms_that_nobody_decodes_are_skipped_with_a_remedy(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(SkippedImage, match=r"its/name: . x 16 bits.*save it as a TIFF"):
        read(tmp_path / "a.tif", name="its/name")
    with pytest.raises(SkippedImage):
        photo.read_size(tmp_path / "a.tif")


def test_separate_planes_are_refused_and_never_read_wrongly(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.moveaxis(frame(channels=3), 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="separate")
    with pytest.raises(SkippedImage, match="separate planes"):
        read(tmp_path / "a.tif")


def test_images_of_8_bits_are_not_deep(tmp_path: Path, paint: Any) -> None:
    for suffix in ("png", "jpg", "tif", "bmp", "gif", "webp", "ppm", "jp2", "tga"):
        assert not photo.has_deep_pixels(paint(tmp_path / f"a.{suffix}"))
    (tmp_path / "text.png").write_text("no image")
    assert not photo.has_deep_pixels(tmp_path / "text.png")
    assert not photo.has_deep_pixels(tmp_path / "gone.png")


def test_corrupt_bytes_never_escape(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    forms = {"a.tif": frame(np.float32, 3), "b.tif": frame(np.uint16, 3),
             "c.tif": frame(np.float64), "d.pfm": frame(np.float32, 3),
             "e.png": frame(channels=3)}  # fmt: skip
    for name, pixels in forms.items():
        whole = np.frombuffer(write(tmp_path / name, pixels).read_bytes(), np.uint8)
        for share in (0.0, 0.05, 0.5, 0.9):
            (tmp_path / name).write_bytes(whole[: int(len(whole) * share)].tobytes())
            with pytest.raises(SkippedImage):
                read(tmp_path / name)
        for n in range(60):
            data = whole.copy()
            place = random.integers(0, len(data) if n % 2 else 400, 4)
            data[place] = random.integers(0, 255, 4)
            (tmp_path / name).write_bytes(data.tobytes())
            with contextlib.suppress(SkippedImage):
                assert read(tmp_path / name, at=(16, 16))[0].shape == (16, 16, 3)
