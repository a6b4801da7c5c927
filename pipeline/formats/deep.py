"""Images of more than 8 bits in a channel, with the values that their files hold.

Pillow keeps the upper 8 of 16 bits of a colour image, and does not identify many TIFFs of floats:
these are decoded by OpenCV.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from pipeline.errors import SkippedImage
from pipeline.formats import stored
from pipeline.ops.intensity import (
    IntensityRanges,
    find_isolated,
    find_no_data,
    measured,
    number_kind,
    robust_range,
    scale_to_bytes,
)

if TYPE_CHECKING:
    from jaxtyping import Shaped, UInt8

cv2.utils.logging.setLogLevel(0)  # SkippedImage has the reason; nothing goes to the terminal

# Pillow's modes of images of a single channel that it decodes with all their bits.
GREY_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_START = b"\x89PNG\r\n\x1a\n"
PFM_STARTS = (b"PF\n", b"Pf\n", b"PF\r", b"Pf\r")
WIDTH, HEIGHT, BITS, PHOTOMETRIC, CHANNELS = 256, 257, 258, 262, 277
PLANES, EXTRA_CHANNELS, SAMPLES = 284, 338, 339
NO_DATA_TAG = 42113  # of GDAL: the value as text
WHITE_IS_ZERO, SEPARATE_PLANES, UNSIGNED, SIGNED = 0, 2, 1, 2
ALPHA = (1, 2)  # the extra channel is the opacity
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "LA")
JPEG2000_HEADER = b"\xff\x4f\xff\x51"
OWN_RANGE_VALUES = 1 << 20  # values of an image that its range is computed from, if it has no other


@dataclass(frozen=True)
class DeepImage:
    """An image of more than 8 bits.

    Attributes:
        values: [H, W] grey, [H, W, 3] RGB or [H, W, 4] RGBA, integers or floats of its file.
        no_data: The value that stands for no measurement, where the file names one.
        is_negative: Whether the least value is white.
    """

    values: Shaped[np.ndarray, "H W *channels"]
    no_data: tuple[float, ...] = ()
    is_negative: bool = False

    @property
    def colours(self) -> Shaped[np.ndarray, "H W *channels"]:
        """The values without the alpha channel."""
        return self.values[..., :3] if self.values.ndim == 3 else self.values

    @property
    def extremes(self) -> tuple[float, ...]:
        """The numbers at the ends of the type that may be no part of the range.

        Of colours these are only numbers that no pixel has in a single channel: a saturated red
        is a colour.
        """
        kind, colours = self.values.dtype, self.colours
        info = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
        ends = [float(info.min), float(info.max)]
        if colours.ndim == 3:
            at_end = [colours == end for end in (info.min, info.max)]
            same = [bool((part.any(2) == part.all(2)).all()) for part in at_end]
            ends = [end for end, is_same in zip(ends, same, strict=True) if is_same]
        return tuple(ends)

    def is_in(self, ranges: IntensityRanges) -> bool:
        """Return whether there is a range for its kind of number.

        Args:
            ranges: Of the data set.
        """
        return number_kind(self.values) in ranges.ranges

    def to_bytes(self, ranges: IntensityRanges) -> Image.Image:
        """Return the image with 8 bits: L, RGB, or RGBA.

        Args:
            ranges: The ranges that it is scaled from; where they have none for its kind of number,
                it is scaled from the range of its own values.
        """
        kind, no_data = number_kind(self.values), (*self.no_data, *ranges.no_data)
        between = ranges.ranges.get(kind)
        if between is None:
            colours = self.colours.ravel()
            colours = colours[:: max(1, colours.size // OWN_RANGE_VALUES)]
            colours = colours[measured(colours, no_data)]
            isolated = find_isolated(colours, self.extremes)
            between = robust_range(colours[measured(colours, isolated)], kind)
            no_data = (*no_data, *find_no_data(isolated))
        pixels = scale_to_bytes(self.colours, between, no_data)
        if self.is_negative:
            pixels = np.where(measured(self.colours, no_data), 255 - pixels, 0).astype(np.uint8)
        return Image.fromarray(self._add_alpha(pixels))

    def _add_alpha(self, pixels: UInt8[np.ndarray, "H W *c"]) -> UInt8[np.ndarray, "H W *c"]:
        if self.values.ndim < 3 or self.values.shape[2] < 4:
            return pixels
        kind = self.values.dtype
        opaque = 1.0 if kind.kind == "f" else float(np.iinfo(kind).max)
        alpha = scale_to_bytes(self.values[..., 3:], (0.0, opaque))
        return np.concatenate([pixels, alpha], 2)


def is_deep(image: Image.Image, path: Path | str) -> bool:
    """Return whether an image that Pillow has opened, and not decoded, has more than 8 bits.

    Args:
        image: As `Image.open` returns it.
        path: Its file.
    """
    if image.mode in GREY_MODES:
        return True
    if image.mode not in COLOUR_MODES:
        return False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return bool(max(_tag(image.tag_v2, BITS, (8,))) > 8)
    if isinstance(image, ImageFile.ImageFile) and image.tile and image.format in ("PNG", "PPM"):
        arguments = image.tile[0].args
        if isinstance(arguments, tuple):  # PPM: the greatest value that the header claims
            return isinstance(arguments[-1], int) and arguments[-1] > 255
        return str(arguments).endswith(";16B")
    return image.format == "JPEG2000" and _read_jpeg2000_bits(path) > 8


def _read_jpeg2000_bits(path: Path | str) -> int:
    """Return the bits of the first channel, as the header of the codestream has them."""
    with stored.open_file(path) as file:
        head = file.read(1 << 16)
    start = head.find(JPEG2000_HEADER)
    place = start + 42  # behind the sizes of the image and its tiles
    return (head[place] & 0x7F) + 1 if start >= 0 and place < len(head) else 8


def from_pillow(image: Image.Image, path: Path | str, name: str) -> DeepImage:
    """Return the values of an image that Pillow has decoded and `is_deep` is true of.

    Args:
        image: Decoded, so that a damaged file has been refused.
        path: Its file, which OpenCV decodes if the image has colours.
        name: What messages call it.

    Raises:
        SkippedImage: Neither Pillow nor OpenCV decodes all bits of this form.
    """
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if image.mode not in GREY_MODES:
        return _describe(_decode(path, name, tags), tags)
    values = np.asarray(image)
    bits, form = max(_tag(tags, BITS, (0,))), _tag(tags, SAMPLES, (UNSIGNED,))[0]
    if image.format == "PPM" and image.mode == "I":
        values = values.astype(np.uint16)
    elif bits == 32 and form == UNSIGNED and values.dtype == np.int32:
        values = values.view(np.uint32)  # Pillow's integers of 32 bits are signed
    elif bits in range(9, 17) and form == SIGNED:
        values = values.astype(np.int16)
    return _describe(values.astype(values.dtype.newbyteorder("="), copy=False), tags)


def read_unidentified(path: Path | str, name: str, max_pixels: int) -> DeepImage | None:
    """Return a TIFF or PFM of a form that Pillow does not identify; None for another file.

    The image is upright.

    Args:
        path: The file.
        name: What messages call it.
        max_pixels: The most pixels that it may claim.

    Raises:
        SkippedImage: OpenCV does not decode this form either, or the image is too large.
    """
    tags = _read_header(path)
    if tags is None:
        return None
    width, height = (int(_tag(tags, tag, (1,))[0]) for tag in (WIDTH, HEIGHT))
    if width * height > max_pixels:
        raise SkippedImage(
            f"{name}: claims {width} x {height} pixels, more than {max_pixels:,}: refused"
        )
    return _describe(_decode(path, name, tags), tags)


def is_unidentified_deep(path: Path | str) -> bool:
    """Return whether a file that Pillow does not identify begins as a TIFF or PFM does.

    Args:
        path: The file.
    """
    try:
        return _read_header(path) is not None
    except Exception:  # a damaged header: the file will be skipped when it is read
        return False


def _read_header(path: Path | str) -> Any:
    """Return the tags of a TIFF, only a size for a PFM, or None for another file."""
    if not stored.is_file(path):
        return None
    with stored.open_file(path) as file:
        start = file.read(8)
        if start.startswith(TIFF_STARTS):
            if b"+" in start[2:4]:  # BigTIFF
                start += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(start)
            file.seek(tags.next)
            tags.load(file)
            return tags
        if start.startswith(PFM_STARTS):
            file.seek(3)
            width, height = file.readline(64).split()[:2]
            return {WIDTH: int(width), HEIGHT: int(height)}
    return None


def _decode(path: Path | str, name: str, tags: Any) -> Shaped[np.ndarray, "H W *channels"]:
    """Decode a file with OpenCV. Raise SkippedImage unless it gives more than 8 bits."""
    values: np.ndarray | None = None
    channels, planes = _tag(tags, CHANNELS, (1,))[0], _tag(tags, PLANES, (1,))[0]
    if planes != SEPARATE_PLANES and channels in (1, 3, 4):
        data = np.frombuffer(stored.read_bytes(path), np.uint8)
        with suppress(cv2.error):
            values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if _is_whole(data) else None
    if values is None or values.dtype.itemsize == 1:
        form = f"{channels} x {max(_tag(tags, BITS, (16,)))} bits" if tags else "more than 8 bits"
        planar = " in separate planes" if planes == SEPARATE_PLANES else ""
        raise SkippedImage(
            f"{name}: {form}{planar}: neither Pillow nor OpenCV decodes it, or it is damaged; save "
            "it as a TIFF of 1 or 3 interleaved channels of 16 bits"
        )
    if values.ndim < 3:
        return values
    has_alpha = values.shape[2] == 4 and _tag(tags, EXTRA_CHANNELS, ALPHA)[0] in ALPHA
    order = [2, 1, 0, 3] if has_alpha else [2, 1, 0]  # OpenCV's is BGR
    return np.asarray(values[..., order])


def _is_whole(data: UInt8[np.ndarray, n]) -> bool:
    """Return whether the chunks of a PNG are as they were written; true for another format.

    libpng, which OpenCV uses, would write to the terminal that they are not.
    """
    content = data.tobytes() if data[:8].tobytes() == PNG_START else b""
    place = len(PNG_START)
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        checksum = int.from_bytes(content[end : end + 4], "big")
        if zlib.crc32(content[place + 4 : end]) != checksum:
            return False
        place = end + 4
    return True


def _describe(values: Shaped[np.ndarray, "H W *channels"], tags: Any) -> DeepImage:
    """Return the image with what its tags say about its values."""
    try:
        no_data = float(str(_tag(tags, NO_DATA_TAG, ("",))[0]).strip("\0 "))
    except ValueError:
        no_data = np.nan
    negative = values.ndim == 2 and _tag(tags, PHOTOMETRIC, (1,))[0] == WHITE_IS_ZERO
    return DeepImage(values, (no_data,) if np.isfinite(no_data) else (), negative)


def _tag(tags: Any, number: int, default: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of a tag."""
    value: Any = tags.get(number, default)
    return value if isinstance(value, tuple) else (value,)
