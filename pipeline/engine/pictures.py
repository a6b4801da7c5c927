"""Small pictures of images for contact sheets, kept by the content of the images' files.

An image that a sheet of an earlier run shows is not read again. A picture is a JPEG whether it is
kept or new, so that sheets do not depend on what an earlier run kept.

    pictures.safetensors    `content` (hash) of each image, `data`: the JPEGs, `end` of each
    pictures_made_for.json  hash of all that can change a picture besides the image
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.engine import store
from pipeline.engine.reuse import UNKNOWN
from pipeline.errors import SkippedImage
from pipeline.formats.arrays import map_arrays, write_arrays
from pipeline.formats.files import read_json, write_json
from pipeline.ops.hashing import hash_of
from pipeline.types import Example, Size

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8

PICTURES_FILE, MADE_FOR = "pictures.safetensors", "pictures_made_for.json"
MAX_BYTES = 1 << 26  # of the pictures that a result keeps
QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 95)


class Pictures:
    """Reads images as small pictures, and takes those over that an earlier result kept.

    Args:
        read: reads an image at a (height, width), or says why it cannot be read.
        content: hash of the file of each image; None where images are no files.
        folder: of the result that is made.
        made_for: all that can change a picture besides the image.
    """

    def __init__(
        self,
        read: Callable[[int, Size], Example | SkippedImage],
        content: Int64[np.ndarray, n] | None,
        folder: Path,
        made_for: Mapping[str, Any],
    ) -> None:
        self._read, self._content, self._folder = read, content, folder
        self._made_for = hash_of(made_for)
        self._earlier: dict[int, UInt8[np.ndarray, n]] = {}
        if content is not None:
            with store.Store(folder.parents[1]).lock():  # none is removed meanwhile
                self._earlier = _find_earlier(folder, self._made_for)
        self._bytes = 0  # a few more where threads meet
        self._kept: dict[int, UInt8[np.ndarray, n]] = {}

    def read(self, position: int, frame: Size) -> UInt8[np.ndarray, "h w 3"] | None:
        """Return an image as RGB; None where it cannot be read.

        Args:
            position: of the image.
            frame: height and width of the picture.
        """
        content = UNKNOWN if self._content is None else int(self._content[position])
        data = self._earlier.get(content)
        if data is None:
            example = self._read(position, frame)
            if isinstance(example, SkippedImage):
                return None
            encoded, data = cv2.imencode(".jpg", example.image[..., ::-1], QUALITY)
            assert encoded
            data = data.ravel()
        if content > UNKNOWN and self._bytes + len(data) <= MAX_BYTES:
            self._kept[content] = data
            self._bytes += len(data)
        picture = cv2.imdecode(np.asarray(data), cv2.IMREAD_COLOR)
        assert picture is not None, "it was encoded here"
        return np.ascontiguousarray(picture[..., ::-1])

    def write(self) -> None:
        """Keep the pictures that were read, for later runs."""
        if self._content is None:
            return
        kept = self._kept
        write_arrays(
            self._folder / PICTURES_FILE,
            {
                "content": np.array(list(kept), np.int64),
                "end": np.cumsum([len(data) for data in kept.values()], dtype=np.int64),
                "data": np.concatenate([np.zeros(0, np.uint8), *kept.values()]),
            },
        )
        write_json(self._folder / MADE_FOR, {"made_for": self._made_for})


def _find_earlier(folder: Path, made_for: str) -> dict[int, UInt8[np.ndarray, n]]:
    """Return the JPEGs of the newest result beside a folder that were made in the same way."""
    having = [path.parent for path in folder.parent.glob(f"*/{MADE_FOR}")]
    for other in sorted(having, key=lambda path: -path.stat().st_mtime_ns):
        if (
            other == folder
            or read_json(other / MADE_FOR)["made_for"] != made_for
            or not store.use(other)
        ):
            continue
        arrays = map_arrays(other / PICTURES_FILE)
        ends = arrays["end"].tolist()
        return {
            content: arrays["data"][start:end]
            for content, start, end in zip(
                arrays["content"].tolist(), [0, *ends], ends, strict=False
            )
        }
    return {}
