"""Label Studio's brush masks: the RGBA pixels of an image, row by row, in packed run lengths.

    32 bits number of values, 5 bits word size - 1, four times 4 bits: size of a length - 1;
    then blocks: 1 bit is a run?, 2 bits which size, length - 1, and one value or `length` values

The format is that of the JavaScript package rle-pack. The fourth channel tells what is inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.formats.odd_records import BadRecord
from pipeline.ops.rle import encode_rle
from pipeline.types import Rle, Size

if TYPE_CHECKING:
    from jaxtyping import UInt8

CHANNELS = 4
WORD_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
LONGEST_RUN = 1 << LENGTH_BITS[-1]
HEADER_BITS = 32 + 5 + 4 * len(LENGTH_BITS)
UNREADABLE = "whose brush mask cannot be read"


def encode_brush(mask: Rle) -> list[int]:
    """Return a mask as Label Studio stores it in the field `rle` of a brush region.

    Args:
        mask: COCO's run lengths over the whole image.

    Returns:
        Bytes from 0 to 255.
    """
    from pycocotools import mask as coco_mask

    flat = coco_mask.decode(mask).ravel()  # row by row
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([starts, [len(flat)]])) * CHANNELS
    bits = [f"{len(flat) * CHANNELS:032b}{WORD_BITS - 1:05b}"]
    bits += [f"{size - 1:04b}" for size in LENGTH_BITS]
    for length, is_inside in zip(lengths.tolist(), flat[starts].tolist(), strict=True):
        bits += _encode_run(length, "11111111" if is_inside else "00000000")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _encode_run(length: int, value: str) -> list[str]:
    """Return the bits of a run, in several blocks where it is long."""
    bits = []
    while length > 0:
        part = min(length, LONGEST_RUN)
        which = next(n for n, size in enumerate(LENGTH_BITS) if part <= 1 << size)
        bits.append(f"1{which:02b}{part - 1:0{LENGTH_BITS[which]}b}{value}")
        length -= part
    return bits


def decode_brush(values: Sequence[int], size: Size) -> Rle:
    """Return the mask of a brush region.

    Args:
        values: the field `rle` of the region.
        size: (height, width) of the image.

    Raises:
        BadRecord: it is damaged, or of another size.
    """
    height, width = size
    try:
        bits = np.unpackbits(np.array(values, np.uint8))
    except (TypeError, ValueError, OverflowError):
        raise BadRecord(UNREADABLE) from None
    pixels = _decode_blocks(bits, height * width * CHANNELS)
    alpha = pixels.reshape(height, width, CHANNELS)[:, :, CHANNELS - 1]
    return encode_rle(alpha > 0, size)


def _decode_blocks(bits: UInt8[np.ndarray, n], count: int) -> UInt8[np.ndarray, m]:
    """Return the `count` values that packed bits hold."""
    text = bits.tobytes().translate(bytes.maketrans(b"\0\1", b"01")).decode("ascii")
    if (
        len(text) < HEADER_BITS
        or int(text[:32], 2) != count
        or int(text[32:37], 2) + 1 != WORD_BITS
    ):
        raise BadRecord(UNREADABLE)
    sizes = [int(text[37 + 4 * n : 41 + 4 * n], 2) + 1 for n in range(len(LENGTH_BITS))]
    values = np.zeros(count, np.uint8)
    at, done = HEADER_BITS, 0
    while done < count:
        if at + 3 > len(text):
            raise BadRecord(UNREADABLE)
        is_run, length_bits = text[at] == "1", sizes[int(text[at + 1 : at + 3], 2)]
        at += 3
        words_at = at + length_bits
        length = int(text[at:words_at] or "0", 2) + 1
        at = words_at + WORD_BITS * (1 if is_run else length)
        if at > len(text) or done + length > count:
            raise BadRecord(UNREADABLE)
        words = np.packbits(bits[words_at:at])
        values[done : done + length] = words
        done += length
    return values
