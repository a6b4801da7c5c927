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
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, _imaging

from pipeline.errors import SkippedImage, UserError
from pipeline.formats import deep, signature, stored
from pipeline.ops.intensity import IntensityRanges
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

# Of these Pillow knows whether there is a second page or frame without decoding it. The further
# pictures of an MPO, which cameras and phones write, are previews and depth maps.
WITH_FRAMES = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")

NOT_IDENTIFIED = "not an image in any format that Pillow reads"

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


@dataclass(frozen=True)
class Photo:
    """An image that was read from a file.

    Attributes:
        pixels: RGB from 0 to 255, upright.
        size: The (height, width) of the original, upright, of which `pixels` may be a scaled copy.
        is_first_of_several: Whether the file has further pages or frames, which are not used.
        has_own_range: Whether it has more than 8 bits and was scaled from the range of its own
            values, as no other was given for its kind of number.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    size: Size
    is_first_of_several: bool = False
    has_own_range: bool = False


def read(
    path: Path | str,
    *,
    at: Size | None = None,
    at_least: Size | None = None,
    name: str | None = None,
    ranges: IntensityRanges | None = None,
) -> Photo:
    """Read an image file, turned upright by its EXIF orientation.

    Of an animation the first frame is read, of several pages the first. Transparent parts are
    painted over white. Images of more than 8 bits in a channel are scaled from a range of values
    to 0 to 255.

    Args:
        path: The file, in any format that Pillow decodes.
        at: The (height, width) to scale to, upright; the aspect is not kept. None: not scaled.
        at_least: Without `at`: the smallest (height, width) that is needed. The aspect is kept.
            A JPEG is decoded at 1/2, 1/4 or 1/8 where neither side becomes smaller than this;
            other formats are read at full size.
        name: What messages call the file; None: its path.
        ranges: The ranges that images of more than 8 bits are scaled from; without one, such an
            image is scaled from the range of its own values.

    Raises:
        SkippedImage: The file is missing, unreadable, truncated, not an image, or too large.
    """
    ranges = IntensityRanges() if ranges is None else ranges
    shown = name if name is not None else printable(os.fspath(path))
    try:
        return _read(path, shown, at, at_least, ranges)
    except _UnidentifiedImage as problem:
        values = _read_unidentified(path, shown, problem)
        image = values.to_bytes(ranges)
        rgb = _to_rgb(image) if at is None else _scale(image, (at[1], at[0]))
        size = (image.size[1], image.size[0])
        return Photo(_to_array(rgb), size, has_own_range=not values.is_in(ranges))


def _read(
    path: Path | str,
    name: str,
    at: Size | None,
    at_least: Size | None,
    ranges: IntensityRanges,
) -> Photo:
    """Read an image file that Pillow identifies, as `read` does."""
    with _open_image(path, name, is_whole=True) as image:
        jpeg, decoded = _is_jpeg(image), _count_pixels(image)
        is_deep = deep.is_deep(image, path)
        is_first_of_several, has_own_range = _is_first_of_several(image), False
        # Other formats have their orientation once they are loaded.
        turn, size = _read_orientation(image) if jpeg else (1, image.size)
        wanted = at or at_least
        if jpeg and wanted is not None:
            image.draft(None, _to_stored_size(wanted, turn))
            # The decoder holds a progressive JPEG at full size, however small the result is.
            decoded = decoded if image.info.get("progressive") else _count_pixels(image)
        with _slot_for(decoded):
            _load(image)
            if not jpeg:
                turn, size = _read_orientation(image)
            if is_deep:
                values = deep.from_pillow(image, path, name)
                image, has_own_range = values.to_bytes(ranges), not values.is_in(ranges)
            rgb = _to_rgb(image) if at is None else _scale(image, _to_stored_size(at, turn))
            pixels = _to_array(rgb if turn == 1 else rgb.transpose(TURNS[turn]))
            return Photo(pixels, size, is_first_of_several, has_own_range)


def convert(
    image: Image.Image, name: str, ranges: IntensityRanges | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Convert an image of Pillow as `read` converts a file: upright, transparent parts over white.

    Args:
        image: in any mode; it is not changed.
        name: what messages call it.
        ranges: as `read` has them.

    Raises:
        SkippedImage: It cannot be decoded.
    """
    try:
        path = _deep_path(image)
        _load(image)
        turn, _ = _read_orientation(image)
        if path is not None:
            values = deep.from_pillow(image, path, name)
            image = values.to_bytes(IntensityRanges() if ranges is None else ranges)
        rgb = _to_rgb(image)
        return _to_array(rgb if turn == 1 else rgb.transpose(TURNS[turn]))
    except UserError:  # SkippedImage is one, and so is a server that cannot be reached
        raise
    except Exception as error:  # decoders raise anything
        raise SkippedImage(f"{name}: cannot be read ({type(error).__name__}: {error})") from error


def scale(pixels: UInt8[np.ndarray, "H W 3"], at: Size) -> UInt8[np.ndarray, "h w 3"]:
    """Scale pixels as `read` scales those of a lossless file.

    Args:
        pixels: RGB.
        at: the (height, width) to scale to.
    """
    return _to_array(_scale(Image.fromarray(pixels), (at[1], at[0])))


def _deep_path(image: Image.Image) -> str | None:
    """Return the file of an image with more than 8 bits, "" if it needs none; None for 8 bits.

    Of an RGB image Pillow decodes 8 bits: the others are in its file, as long as it is not decoded.
    """
    if image.mode in deep.GREY_MODES:
        return ""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return None
    path = os.fsdecode(image.filename)
    return path if os.path.isfile(path) and deep.is_deep(image, path) else None


def read_size(path: Path | str, *, name: str | None = None) -> Size:
    """Read the (height, width) of an image once it is upright.

    Of a JPEG only the header is read; other formats are decoded.

    Args:
        path: The file.
        name: What messages call the file; None: its path.

    Raises:
        SkippedImage: As `read` does.
    """
    shown = name if name is not None else printable(os.fspath(path))
    try:
        with _open_image(path, shown) as image:
            if not _is_jpeg(image):
                with _slot_for(_count_pixels(image)):
                    _load(image)
            return _read_orientation(image)[1]
    except _UnidentifiedImage as problem:
        height, width = _read_unidentified(path, shown, problem).values.shape[:2]
        return height, width


def read_deep(path: Path | str, *, name: str | None = None) -> deep.DeepImage:
    """Read the values of an image of more than 8 bits, not turned upright.

    Args:
        path: The file, of which `has_deep_pixels` is true.
        name: What messages call the file; None: its path.

    Raises:
        SkippedImage: As `read` does.
    """
    shown = name if name is not None else printable(os.fspath(path))
    try:
        with _open_image(path, shown, is_whole=True) as image, _slot_for(_count_pixels(image)):
            _load(image)
            return deep.from_pillow(image, path, shown)
    except _UnidentifiedImage as problem:
        return _read_unidentified(path, shown, problem)


def has_deep_pixels(path: Path | str) -> bool:
    """Return whether an image has more than 8 bits in a channel; no pixel is decoded.

    Args:
        path: The file; false if it is no image.
    """
    try:
        with _open_image(path, None) as image:
            return deep.is_deep(image, path)
    except _UnidentifiedImage:
        return deep.is_unidentified_deep(path)
    except SkippedImage:
        return False


def read_mode(path: Path | str, *, name: str | None = None) -> tuple[str, bool]:
    """Return Pillow's mode of an image, and whether it has more than 8 bits in a channel.

    No pixel is decoded. An image that OpenCV decodes has the mode `other`.

    Args:
        path: The file.
        name: What messages call the file; None: its path.

    Raises:
        SkippedImage: Its header cannot be read.
    """
    shown = name if name is not None else printable(os.fspath(path))
    try:
        with _open_image(path, shown) as image:
            return image.mode, deep.is_deep(image, path)
    except _UnidentifiedImage:
        if not deep.is_unidentified_deep(path):
            raise
        return "other", True


class _UnidentifiedImage(SkippedImage):
    """A file that Pillow does not identify; it may still be a TIFF that OpenCV decodes."""


def _read_unidentified(path: Path | str, name: str, problem: _UnidentifiedImage) -> deep.DeepImage:
    """Read a TIFF or PFM that Pillow does not identify; raise the problem for another file."""
    try:
        with _large_image_slot:  # its size is not known here
            image = deep.read_unidentified(path, name, MAX_PIXELS)
    except UserError:  # SkippedImage is one, and so is a server that cannot be reached
        raise
    except Exception:  # a damaged header
        raise problem from None
    if image is None:
        raise problem
    return image


def _slot_for(pixels: int) -> AbstractContextManager[object]:
    """Return a context in which an image of so many pixels may be decoded."""
    return _large_image_slot if pixels > LARGE_IMAGE_PIXELS else nullcontext()


@contextmanager
def _open_image(
    path: Path | str, name: str | None, *, is_whole: bool = False
) -> Iterator[Image.Image]:
    """Yield the image, not decoded yet. Raise SkippedImage for any error in the block."""
    name = name if name is not None else printable(os.fspath(path))
    try:
        with _open(path, is_whole) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise SkippedImage(
                    f"{name}: claims {width} x {height} pixels, more than {MAX_PIXELS:,}: refused"
                )
            yield image
    except UserError:  # SkippedImage is one, and so is a server that cannot be reached
        raise
    except FileNotFoundError:
        raise SkippedImage(f"{name}: no such file (any more)") from None
    except Image.DecompressionBombError:
        raise SkippedImage(f"{name}: claims more than {2 * MAX_PIXELS:,} pixels: refused") from None
    except UnidentifiedImageError as error:
        empty = stored.is_file(path) and stored.size_of(path) == 0
        what = "an empty file" if empty else str(error)
        kind = _UnidentifiedImage if str(error) == NOT_IDENTIFIED else SkippedImage
        raise kind(f"{name}: {what}") from None
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error ...
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise SkippedImage(f"{name}: cannot be read ({type(error).__name__}: {reason})") from error


def _open(path: Path | str, is_whole: bool) -> Image.Image:
    """Open an image in a common format, or else in any: importing all of Pillow's is slow.

    Args:
        path: The file, or the location of one that is not local.
        is_whole: Whether all of it will be read.

    Raises:
        UnidentifiedImageError: It is no image that is read. The first argument says what it is, if
            that is known.
    """
    source = path if stored.is_local(path) else stored.open_file(path, is_whole=is_whole)
    try:
        image = Image.open(source, formats=COMMON)
    except UnidentifiedImageError:
        file_type = signature.identify(path)
        if file_type == signature.HEIC and file_type.is_readable:
            return _open_heic(path)
        Image.init()
        formats = [name for name in Image.OPEN if name not in NOT_READ]
        try:
            return Image.open(source, formats=formats)
        except UnidentifiedImageError:
            if file_type is None or file_type.is_image:
                raise UnidentifiedImageError(NOT_IDENTIFIED) from None
            if file_type.is_readable:
                why = f"a damaged {file_type.name}: the format is read, but not this file"
                raise UnidentifiedImageError(why) from None
            raise UnidentifiedImageError(_describe_type(file_type)) from None
    if image.format == "TIFF":
        file_type = signature.identify(path)
        if file_type is not None and file_type.remedy:
            # Pillow would read the small preview of a camera raw.
            image.close()
            raise UnidentifiedImageError(_describe_type(file_type))
    return image


def _describe_type(file_type: signature.FileType) -> str:
    remedy = f"; {file_type.remedy}" if file_type.remedy else ""
    return f"not an image that is read: {file_type.name}{remedy}"


def _open_heic(path: Path | str) -> Image.Image:
    """Open a HEIC image with pillow-heif. Registered with Pillow it would slow all others down."""
    from pillow_heif import HeifImageFile

    try:
        source = os.fspath(path) if stored.is_local(path) else stored.open_file(path, is_whole=True)
        return cast(Image.Image, HeifImageFile(source))
    except SyntaxError as error:
        raise UnidentifiedImageError(f"a damaged HEIC image ({error})") from None


def _load(image: Image.Image) -> None:
    """Decode the pixels."""
    filename = image.filename if isinstance(image, ImageFile.ImageFile) else ""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Without a name Pillow does not map the file into memory. It would take the sides of the
        # upright image for those of the file, which shears grey images that lie on their side.
        image.filename = ""
    image.load()
    if isinstance(image, ImageFile.ImageFile):
        image.filename = filename


def _is_first_of_several(image: Image.Image) -> bool:
    """Return whether the file of an image has further pages or frames."""
    with suppress(Exception):  # a damaged second frame is no reason to lose the first
        return image.format in WITH_FRAMES and bool(cast(Any, image).is_animated)
    return False


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
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa"):
        alpha = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(alpha, mask=alpha)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


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
