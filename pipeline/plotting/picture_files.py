"""Write a picture in the format that its file's suffix stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.errors import UserError
from pipeline.formats.files import atomic_write

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF",
}  # fmt: skip
# Without subsampling, so that boxes a pixel wide keep their colour.
OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 92, "subsampling": 0},
    "WEBP": {"lossless": True},
}


def find_picture_format(path: Path) -> str:
    """Return the format, as Pillow names it, that the suffix of a file stands for.

    Args:
        path: the file.

    Raises:
        UserError: the suffix is of none that is written.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(
            f"save={path}: the suffix {path.suffix!r} is of no format that is written; expected "
            f"one of {', '.join(FORMATS)}"
        )
    return kind


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture in the format of the suffix, by an atomic write.

    Args:
        path: the file.
        picture: the picture.

    Raises:
        UserError: the suffix is of no format that is written.
    """
    kind = find_picture_format(path)
    with atomic_write(path) as temporary:
        picture.save(temporary, kind, **OPTIONS.get(kind, {}))
