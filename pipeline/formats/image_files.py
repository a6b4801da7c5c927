"""Image files placed in the folders of an export: hard links, copies, images turned upright."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from pipeline.formats.files import atomic_write, truncate_name
from pipeline.formats.photo import ORIENTATION, TURNS
from pipeline.types import Size

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

PlacingMode = Literal["link", "copy"]
JPEG_QUALITY = 95
HEADER_BYTES = 4096
START_OF_SCAN, METADATA = 0xDA, 0xE1  # markers of a JPEG
MAX_STEM_BYTES = 180
JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")


def place_image(path: Path, target: Path, mode: PlacingMode) -> None:
    """Place an image file under another name: as a hard link, or copied where linking fails.

    A file that is there is replaced, and never written through: a link to it keeps its content.

    Args:
        path: The image file; a symbolic link is followed.
        target: The new name. Missing parent folders are made.
        mode: `link`, or `copy` to copy in any case.

    Raises:
        OSError: The file cannot be read, or the new one cannot be written.
    """
    if mode == "link" and link_at_once(path, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{truncate_name(target.name, 100)}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        _link_or_copy(Path(os.path.realpath(path)), temporary, mode)
        os.replace(temporary, target)
    finally:
        # Renaming a link to a file over another link to it does nothing, and leaves both.
        temporary.unlink(missing_ok=True)


def link_at_once(path: Path, target: Path | str) -> bool:
    """Return whether a file could be linked at once: the usual case, in as few calls as it takes.

    It cannot where there is a file already or no folder, where the file is a link itself, and on
    another disk.

    Args:
        path: the file.
        target: its new name.
    """
    if os.path.islink(path):
        return False
    try:
        os.link(path, target)
    except OSError:
        return False
    return True


def _link_or_copy(path: Path, target: Path, mode: PlacingMode) -> None:
    if mode == "link":
        try:
            os.link(path, target)
        except OSError:  # another file system, or one without hard links
            pass
        else:
            return
    shutil.copyfile(path, target)


def is_turned(path: Path, size: Size) -> bool:
    """Return whether a file shows its image turned or mirrored to readers that ignore EXIF.

    Only the header is read.

    Args:
        path: The image file.
        size: The (height, width) of the upright image.
    """
    try:
        if has_no_metadata(path):
            return False
        with Image.open(path) as image:
            # The method of a PNG would decode the pixels to find an entry behind them.
            turn = Image.Image.getexif(image).get(ORIENTATION, 1)
            return turn in TURNS or (image.size == size and size[0] != size[1])
    except Exception:  # what Pillow does not open; decoders raise anything
        return False


def has_no_metadata(path: Path) -> bool:
    """Return whether the start of a file shows that it is a JPEG without EXIF and XMP.

    Args:
        path: the file. It is read as far as a usual header reaches.
    """
    with open(path, "rb", buffering=0) as file:
        head = file.read(HEADER_BYTES)
    place = 2
    if not head.startswith(b"\xff\xd8"):
        return False
    while head[place : place + 1] == b"\xff" and place + 4 <= len(head):
        kind = head[place + 1]
        if kind == START_OF_SCAN:
            return True
        if kind == METADATA:
            return False
        place += 2 + int.from_bytes(head[place + 2 : place + 4])
    return False


def write_image(pixels: UInt8[np.ndarray, "H W 3"], target: Path) -> None:
    """Write pixels as a JPEG where the name says so, as a PNG else, atomically.

    Args:
        pixels: RGB.
        target: The file. Missing parent folders are made.
    """
    image = Image.fromarray(pixels)
    with atomic_write(target) as temporary:
        if target.suffix.lower() in JPEG_ENDINGS:
            image.save(temporary, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        else:
            image.save(temporary, "PNG")


def unique_paths(ids: Sequence[str]) -> list[str]:
    """Return a relative path for each image id, that differ also without ending and in case.

    Tools name the annotation of `a.jpg` and of `a.png` both `a`. The second of two such paths gets
    the position of its image.

    Args:
        ids: Image ids, paths with `/`.

    Examples:
        >>> unique_paths(["val/a b.jpg", "val/A b.png", "../x"])
        ['val/a b.jpg', 'val/A b-2.png', 'x']
    """
    paths: list[str] = []
    taken: set[str] = set()
    for number, id in enumerate(ids, 1):
        folder, name = posixpath.split(_to_relative(id))
        stem, ending = posixpath.splitext(name)
        stem = truncate_name(stem, MAX_STEM_BYTES) or "image"
        start, suffix = posixpath.join(folder, stem), ""
        while (path := f"{start}{suffix}").casefold() in taken:
            suffix = f"{suffix}-{number}"
        taken.add(path.casefold())
        paths.append(f"{path}{ending}")
    return paths


def _to_relative(id: str) -> str:
    """Return a path that does not leave its folder."""
    parts = [part for part in id.replace("\0", "").split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "image"
