"""Images in memory: of Pillow, numpy and torch, in every mode and shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo
from pipeline.formats.in_memory import read


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
            np.testing.assert_array_equal(read(image, ""), photo.read(tmp_path / name)[0])
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
        (np.zeros((4, 4), np.uint16), r"got uint16: .astype\('uint8'\)"),
        (np.zeros((4, 4), bool), "got bool"),
        (np.full((4, 4), 200.0), "floats from 0 to 1 are expected, got 200 to 200: divide"),
        (torch.full((3, 4, 4), -2.0), "got -2 to -2: .* undo the mean and deviation"),
        (np.full((4, 4), np.nan), "got nan to nan"),
    ],
)
def test_others_are_refused_with_what_is_expected(image: Any, message: str) -> None:
    with pytest.raises((UserError, TypeError), match=message):
        read(image, "image")


def test_what_pillow_cannot_decode(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:60])
    with pytest.raises(SkippedImage, match="image: cannot be read"):
        read(Image.open(tmp_path / "a.png"), "image")
