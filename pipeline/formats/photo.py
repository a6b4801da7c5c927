"""Image files read into upright RGB arrays, at full size or scaled down while they are decoded.

Any fault of a file is raised as SkippedImage with the reason. Nothing else is raised, and Pillow
writes nothing to stderr.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError, _imaging

from pipeline.errors import SkippedImage
from pipeline.ops.text import printable
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import UInt8

# A 12,000 x 9,000 photograph is 108 million pixels. An image that claims more than this is refused
# before it is decoded: a file of a few kilobytes can claim any size.
MAX_PIXELS = 200_000_000
# Images with more pixels to decode are decoded one at a time, which bounds the memory.
LARGE_IMAGE_PIXELS = 25_000_000
_large_image_slot = threading.BoundedSemaphore(1)
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # for the formats that hold images within images
# SkippedImage reports what matters. `catch_warnings` would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
with suppress(OSError, AttributeError):  # libtiff prints its errors unless its handler is removed
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

COMMON = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
# Pillow runs Ghostscript, a program, on EPS files; it identifies the others but cannot decode them.
NOT_READ = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC")

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # the orientations that swap height and width


def read(
    path: Path | str,
    *,
    at: Size | None = None,
    at_least: Size | None = None,
    name: str | None = None,
) -> tuple[UInt8[np.ndarray, "H W 3"], Size]:
    """Read an image file, turned upright by its EXIF orientation.

    Of an animation the first frame is read. Transparent parts are painted over white.

    Args:
        path: The file, in any format that Pillow decodes.
        at: The (height, width) to scale to, upright; the aspect is not kept. None: not scaled.
        at_least: Without `at`: the smallest (height, width) that is needed. The aspect is kept.
            A JPEG is decoded at 1/2, 1/4 or 1/8 where neither side becomes smaller than this;
            other formats are read at full size.
        name: What messages call the file; None: its path.

    Returns:
        The image, uint8 [H, W, 3] RGB from 0 to 255, and the (height, width) of the original.

    Raises:
        SkippedImage: The file is missing, unreadable, truncated, not an image, or too large.
    """
    with _open_image(path, name) as image:
        jpeg, decoded = _is_jpeg(image), _count_pixels(image)
        # Other formats have their orientation once they are loaded.
        turn, size = _read_orientation(image) if jpeg else (1, image.size)
        wanted = at or at_least
        if jpeg and wanted is not None:
            image.draft(None, _to_stored_size(wanted, turn))
            # The decoder holds a progressive JPEG at full size, however small the result is.
            decoded = decoded if image.info.get("progressive") else _count_pixels(image)
        with _large_image_slot if decoded > LARGE_IMAGE_PIXELS else nullcontext():
            image.load()
            if not jpeg:
                turn, size = _read_orientation(image)
            rgb = _to_rgb(image) if at is None else _scale(image, _to_stored_size(at, turn))
            return _to_array(rgb if turn == 1 else rgb.transpose(TURNS[turn])), size


def convert(image: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Convert an image of Pillow as `read` converts a file: upright, transparent parts over white.

    Args:
        image: in any mode; it is not changed.
        name: what messages call it.

    Raises:
        SkippedImage: It cannot be decoded.
    """
    try:
        image.load()
        turn, _ = _read_orientation(image)
        rgb = _to_rgb(image)
        return _to_array(rgb if turn == 1 else rgb.transpose(TURNS[turn]))
    except Exception as error:  # decoders raise anything
        raise SkippedImage(f"{name}: cannot be read ({type(error).__name__}: {error})") from error


def read_size(path: Path | str, *, name: str | None = None) -> Size:
    """Read the (height, width) of an image once it is upright.

    Of a JPEG only the header is read; other formats are decoded.

    Args:
        path: The file.
        name: What messages call the file; None: its path.

    Raises:
        SkippedImage: As `read` does.
    """
    with _open_image(path, name) as image:
        if not _is_jpeg(image):
            with _large_image_slot if _count_pixels(image) > LARGE_IMAGE_PIXELS else nullcontext():
                image.load()
        return _read_orientation(image)[1]


@contextmanager
def _open_image(path: Path | str, name: str | None) -> Iterator[Image.Image]:
    """Yield the image, not decoded yet. Raise SkippedImage for any error in the block."""
    name = name if name is not None else printable(os.fspath(path))
    try:
        with _open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise SkippedImage(
                    f"{name}: claims {width} x {height} pixels, more than {MAX_PIXELS:,}: refused"
                )
            yield image
    except SkippedImage:
        raise
    except FileNotFoundError:
        raise SkippedImage(f"{name}: no such file (any more)") from None
    except Image.DecompressionBombError:
        raise SkippedImage(f"{name}: claims more than {2 * MAX_PIXELS:,} pixels: refused") from None
    except UnidentifiedImageError:
        empty = os.path.isfile(path) and os.path.getsize(path) == 0
        what = "an empty file" if empty else "not an image in any format that Pillow reads"
        raise SkippedImage(f"{name}: {what}") from None
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error ...
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise SkippedImage(f"{name}: cannot be read ({type(error).__name__}: {reason})") from error


def _open(path: Path | str) -> Image.Image:
    """Open an image in a common format, or else in any: importing all of Pillow's is slow."""
    try:
        return Image.open(path, formats=COMMON)
    except UnidentifiedImageError:
        Image.init()
        return Image.open(path, formats=[name for name in Image.OPEN if name not in NOT_READ])


def _is_jpeg(image: Image.Image) -> bool:
    """Return whether size and orientation are known before the pixels are decoded.

    A PNG may have its EXIF block behind the pixels, an icon has its size among them, and Pillow
    turns a TIFF while it loads it.
    """
    return image.format in ("JPEG", "MPO")


def _count_pixels(image: Image.Image) -> int:
    return image.size[0] * image.size[1]


def _read_orientation(image: Image.Image) -> tuple[int, Size]:
    """Return the EXIF orientation, 1 to 8, and the (height, width) of the upright image."""
    try:
        turn = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to lose the image
        turn = 1
    width, height = image.size
    return turn if turn in TURNS else 1, (width, height) if turn in SIDEWAYS else (height, width)


def _to_stored_size(size: Size, turn: int) -> tuple[int, int]:
    """Return Pillow's (width, height) of the stored image for an upright (height, width)."""
    return size if turn in SIDEWAYS else (size[1], size[0])


def _scale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale to a (width, height) and convert to RGB."""
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        # First: averages of palette indices or of transparent pixels would be wrong colours.
        image = _to_rgb(image)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, transparent parts over white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa"):
        alpha = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(alpha, mask=alpha)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Convert 16-bit greys by their high byte; stretch other integers and floats to 0 to 255."""
    if values.dtype.kind in "ui" and values.min() >= 0 and values.max() < 1 << 16:
        deep = values.dtype.itemsize == 2 or values.max() > 255
        return np.asarray(values >> 8 if deep else values, np.uint8)
    finite = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    return np.asarray((finite - low) * (255.0 / (high - low or 1.0)), np.uint8)


def _to_array(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Copy the pixels into a writable array.

    A large image is copied in strips: at once, Pillow would hold it three times in memory.
    """
    if _count_pixels(image) <= LARGE_IMAGE_PIXELS:
        return np.array(image)
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 256):
        strip = (0, top, width, min(top + 256, height))
        pixels[strip[1] : strip[3]] = np.asarray(image.crop(strip))
    return pixels
