"""One image file into an upright RGB array, at full size or as small as it may be, cheaply.

Whatever is wrong with the file becomes SkippedImage with the reason; nothing else escapes, and
Pillow writes nothing to stderr.
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

# A 12,000 x 9,000 photograph is 108 million pixels. What is larger than this is refused unread:
# a few kilobytes of file can claim any size.
LARGEST = 200_000_000
# Images with more pixels to decode are taken one at a time, so one of them bounds the memory.
LARGE = 25_000_000
_one_large = threading.BoundedSemaphore(1)
Image.MAX_IMAGE_PIXELS = LARGEST  # for the formats that hold images within images
# What is worth saying is said by SkippedImage; `catch_warnings` would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
with suppress(OSError, AttributeError):  # libtiff prints its errors itself, unless told not to
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

COMMON = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
# EPS runs Ghostscript, a program, on the file; the others are named by Pillow but not read.
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
    """The image and the (height, width) of the original, both upright by its EXIF orientation.

    `at` scales to exactly that size, aspect not kept; `at_least` keeps the aspect and returns the
    cheapest size that is no smaller on either side (a JPEG is decoded at 1/2, 1/4 or 1/8), or the
    original. Of an animation it is the first frame; transparent parts lie on white.

    Raises SkippedImage, saying what is wrong: missing, unreadable, truncated, no image, too large.
    """
    with _opened(path, name) as image:
        jpeg, held = _is_jpeg(image), _pixels(image)
        turn, size = _upright(image) if jpeg else (1, image.size)  # known once it is loaded
        wanted = at or at_least
        if jpeg and wanted is not None:
            image.draft(None, _as_stored(wanted, turn))
            # A progressive JPEG is held whole to the end, however small it comes out.
            held = held if image.info.get("progressive") else _pixels(image)
        with _one_large if held > LARGE else nullcontext():
            image.load()
            if not jpeg:
                turn, size = _upright(image)
            rgb = _rgb(image) if at is None else _scaled(image, _as_stored(at, turn))
            return _array(rgb if turn == 1 else rgb.transpose(TURNS[turn])), size


def size_of(path: Path | str, *, name: str | None = None) -> Size:
    """The upright (height, width), for a JPEG from its header alone. Raises SkippedImage."""
    with _opened(path, name) as image:
        if not _is_jpeg(image):
            with _one_large if _pixels(image) > LARGE else nullcontext():
                image.load()
        return _upright(image)[1]


@contextmanager
def _opened(path: Path | str, name: str | None) -> Iterator[Image.Image]:
    """The file, not decoded yet; whatever goes wrong inside becomes SkippedImage."""
    name = name if name is not None else printable(os.fspath(path))
    try:
        with _open(path) as image:
            width, height = image.size
            if width * height > LARGEST:
                raise SkippedImage(
                    f"{name}: claims {width} x {height} pixels, more than {LARGEST:,}: refused"
                )
            yield image
    except SkippedImage:
        raise
    except FileNotFoundError:
        raise SkippedImage(f"{name}: no such file (any more)") from None
    except Image.DecompressionBombError:
        raise SkippedImage(f"{name}: claims more than {2 * LARGEST:,} pixels: refused") from None
    except UnidentifiedImageError:
        empty = os.path.isfile(path) and os.path.getsize(path) == 0
        what = "an empty file" if empty else "not an image in any format that Pillow reads"
        raise SkippedImage(f"{name}: {what}") from None
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error ...
        said = (isinstance(error, OSError) and error.strerror) or error
        raise SkippedImage(f"{name}: cannot be read ({type(error).__name__}: {said})") from error


def _open(path: Path | str) -> Image.Image:
    try:
        return Image.open(path, formats=COMMON)
    except UnidentifiedImageError:
        Image.init()
        return Image.open(path, formats=[name for name in Image.OPEN if name not in NOT_READ])


def _is_jpeg(image: Image.Image) -> bool:
    """JPEGs say all before their pixels. A PNG may have its EXIF behind them, an icon its size
    in them, and a TIFF turns itself while it is loaded."""
    return image.format in ("JPEG", "MPO")


def _pixels(image: Image.Image) -> int:
    return image.size[0] * image.size[1]


def _upright(image: Image.Image) -> tuple[int, Size]:
    """The EXIF orientation, and (height, width) once the image is turned so."""
    try:
        turn = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to lose the image
        turn = 1
    width, height = image.size
    return turn if turn in TURNS else 1, (width, height) if turn in SIDEWAYS else (height, width)


def _as_stored(size: Size, turn: int) -> tuple[int, int]:
    """An upright (height, width) as Pillow's (width, height) of the file before it is turned."""
    return size if turn in SIDEWAYS else (size[1], size[0])


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        image = _rgb(image)  # palette indices mean nothing when averaged, and white must not bleed
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa"):
        alpha = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(alpha, mask=alpha)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """16-bit greys by their high byte; other integers and floats stretched to their range."""
    if values.dtype.kind in "ui" and values.min() >= 0 and values.max() < 1 << 16:
        deep = values.dtype.itemsize == 2 or values.max() > 255
        return np.asarray(values >> 8 if deep else values, np.uint8)
    finite = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    return np.asarray((finite - low) * (255.0 / (high - low or 1.0)), np.uint8)


def _array(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels, writable. A large image goes over in strips: Pillow would hold it thrice."""
    if _pixels(image) <= LARGE:
        return np.array(image)
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 256):
        strip = (0, top, width, min(top + 256, height))
        pixels[strip[1] : strip[3]] = np.asarray(image.crop(strip))
    return pixels
