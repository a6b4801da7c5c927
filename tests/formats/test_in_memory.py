"""Images in memory: of Pillow, numpy and torch, in every mode and shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo
from pipeline.formats.in_memory import read
from pipeline.ops.intensity import IntensityRanges


@pytest.fixture
def rgb(painted: Callable[..., np.ndarray]) -> np.ndarray:
    return painted(20, 30)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr", "HSV"])
def test_pillow_images_of_any_mode(rgb: np.ndarray, mode: str) -> None:
    image = Image.fromarray(rgb).convert(mode)
    pixels = read(image, "image")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("turn", range(1, 9))
def test_pillow_images_are_turned_as_files_are(rgb: np.ndarray, tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[photo.ORIENTATION] = turn
    for name in ("a.png", "a.jpg"):
        Image.fromarray(rgb).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as image:
            np.testing.assert_array_equal(read(image, ""), photo.read(tmp_path / name).pixels)
            assert image.size == (30, 20)


def test_transparent_parts_lie_over_white(rgb: np.ndarray) -> None:
    alpha = np.full((20, 30), 255, np.uint8)
    alpha[:10] = 0
    expected = rgb.copy()
    expected[:10] = 255
    rgba = np.dstack([rgb, alpha])
    for image in (
        rgba,
        rgba / 255.0,
        Image.fromarray(rgba),
        torch.from_numpy(rgba).permute(2, 0, 1),
    ):
        np.testing.assert_array_equal(read(image, ""), expected)


def test_arrays_and_tensors(rgb: np.ndarray) -> None:
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    for form in (rgb, rgb[:, ::-1][:, ::-1], rgb / 255, (rgb / 255).astype(np.float16), tensor,
                 tensor / 255, (tensor / 255).double().requires_grad_()):  # fmt: skip
        np.testing.assert_allclose(read(form, "").astype(int), rgb, atol=0)
    grey = np.repeat(rgb[:, :, :1], 3, axis=2)
    for form in (rgb[:, :, 0], rgb[:, :, :1], tensor[0], tensor[:1], tensor[0] / 255):
        np.testing.assert_array_equal(read(form, ""), grey)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"an array \[3, 20, 30\]; .transpose\(1, 2, 0\)"),
        (torch.zeros(20, 30, 3), r"a tensor \[20, 30, 3\]; .permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 20, 30), r"of a batch give list\(batch\)"),
        (np.zeros((2, 20, 30, 3), np.uint8), r"of a batch give list\(batch\)"),
        (np.zeros((20, 30, 2), np.uint8), r"got an array \[20, 30, 2\]$"),
        (np.zeros((0, 30, 3), np.uint8), r"got an array \[0, 30, 3\]"),
        (np.uint8(3) + np.zeros((), np.uint8), "expected a path"),
        (np.zeros((0, 0, 3), np.uint8), r"got an array \[0, 0, 3\], which is empty$"),
        (np.zeros((4, 4), np.uint16), r"got uint16 from 0 to 0: .astype\('uint8'\) keeps"),
        (
            np.full((4, 4), 300, np.uint16),
            r"uint16 from 300 to 300: \(image.astype\('float32'\) - ",
        ),
        (torch.full((4, 4), -3), r"from -3 to -3: \(image.to\(torch.float32\) - low\)"),
        (np.zeros((4, 4), bool), r"got bool: .astype\('uint8'\) \* 255 is black and white"),
        (torch.zeros((4, 4), dtype=torch.bool), r"got bool: .to\(torch.uint8\) \* 255 is black"),
        (np.zeros((4, 4), complex), "got complex128$"),
        (np.full((4, 4), 200.0), "floats from 0 to 1 are expected, got 200 to 200: divide"),
        (torch.full((3, 4, 4), -2.0), "got -2 to -2: .* undo the mean and deviation"),
        (np.full((4, 4), np.nan), "got nan to nan"),
    ],
)
def test_others_are_refused_with_what_is_expected(image: Any, message: str) -> None:
    with pytest.raises((UserError, TypeError), match=message):
        read(image, "image")


def deep_pixels(dtype: Any, channels: int = 0) -> np.ndarray:
    """Values from 400 to 3500, of a kind of frame that turns into no other."""
    pixels = np.linspace(400, 3500, 20 * 30).reshape(20, 30)
    return (np.stack([pixels, pixels / 2, pixels], 2) if channels else pixels).astype(dtype)


def write_deep(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels if pixels.ndim == 2 else pixels[..., ::-1])
    return path


RANGES = IntensityRanges({"integer": (400, 3500), "float": (400, 3500)}, (401.0,))


@pytest.mark.parametrize("ranges", [RANGES, None])
@pytest.mark.parametrize(
    ("suffix", "dtype", "channels"),
    [("png", np.uint16, 0), ("tif", np.float32, 0), ("tif", np.int32, 0), ("tif", np.int16, 0),
     ("png", np.uint16, 3), ("tif", np.uint16, 3)],
)  # fmt: skip
def test_deep_images_of_pillow_are_read_as_their_files_are(
    tmp_path: Path, ranges: IntensityRanges | None, suffix: str, dtype: Any, channels: int
) -> None:
    path = write_deep(tmp_path / f"a.{suffix}", deep_pixels(dtype, channels))
    expected = photo.read(path, ranges=ranges).pixels
    assert len(np.unique(expected)) > 100
    with Image.open(path) as image:
        np.testing.assert_array_equal(read(image, "image", ranges), expected)
        assert image.filename == str(path)
    if not channels:
        with Image.open(path) as image:
            image.load()
            np.testing.assert_array_equal(read(image.copy(), "image", ranges), expected)


def test_a_deep_image_on_its_side_is_turned_as_its_file_is(tmp_path: Path) -> None:
    pixels = deep_pixels(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo={photo.ORIENTATION: 6})
    with Image.open(tmp_path / "a.tif") as image:
        expected = photo.read(tmp_path / "a.tif", ranges=RANGES).pixels
        np.testing.assert_array_equal(read(image, "image", RANGES), expected)


@pytest.mark.parametrize("channels", [0, 3])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.float32, np.float64, ">u2"])
def test_deep_arrays_and_tensors_are_scaled_by_the_range(dtype: Any, channels: int) -> None:
    pixels = deep_pixels(dtype, channels)
    expected = read(pixels.astype(np.float64), "", RANGES).astype(int)
    result = read(pixels, "", RANGES)
    assert np.abs(result - expected).max() <= (0 if pixels.dtype.kind == "f" else 1)
    assert (result.min(), result.max()) == (0, 255)
    if pixels.dtype.isnative:
        tensor = torch.from_numpy(pixels)
        tensor = tensor.permute(2, 0, 1) if channels else tensor
        np.testing.assert_array_equal(read(tensor, "", RANGES), result)


def test_a_range_of_the_other_kind_of_number_is_named(rgb: np.ndarray) -> None:
    integers = IntensityRanges({"integer": (400, 3500)})
    pixels = deep_pixels(np.float32)
    message = r"trained on integers scaled from \[400, 3500\].* give image.astype\('int32'\); else"
    with pytest.raises(UserError, match=message):
        read(pixels, "image", integers)
    assert read(pixels.astype("int32"), "image", integers).max() == 255
    np.testing.assert_array_equal(read(rgb, "", integers), rgb)
    np.testing.assert_array_equal(read(rgb / 255, "", integers), rgb)


def test_the_remedy_for_deep_arrays_works() -> None:
    pixels = deep_pixels(np.uint16)
    with pytest.raises(UserError, match=r"here 400 and 3500"):
        read(pixels, "image")
    scaled = read((pixels.astype("float32") - 400) / (3500 - 400), "image")
    assert (scaled.min(), scaled.max()) == (0, 255)


def test_what_pillow_cannot_decode(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:60])
    with pytest.raises(SkippedImage, match="image: cannot be read"):
        read(Image.open(tmp_path / "a.png"), "image")
