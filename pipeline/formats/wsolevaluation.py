"""Score maps and metadata in the layout of clovaai/wsolevaluation.

Most code of the field can write it. (Choe et al., "Evaluating Weakly Supervised Object Localization
Methods Right", CVPR 2020.)

    image_ids.txt     path/to/image1.jpg                          which images are scored
    class_labels.txt  path/to/image1.jpg,0                        optional
    image_sizes.txt   path/to/image1.jpg,500,333                  width, height
    localization.txt  path/to/image1.jpg,156,163,318,230          x0, y0, x1, y1, several lines an
                                                                  image; the last pixels included
                or    path/to/image1.jpg,masks/1a.png,masks/1_ignore.png   or, for further objects,
                      path/to/image1.jpg,masks/1b.png,            (below the metadata's folder)
    maps              <maps>/path/to/image1.jpg.npy, or without .jpg: [h, w], of the whole image

A line of another format is refused, with the file, the line and the field. Boxes that cannot be
right (reversed, outside their image, not finite) and maps that cannot be scored are left out,
counted and named. Paths are compared in NFC, and files are opened by their own spelling.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.errors import SkippedImage, UserError
from pipeline.formats.files import content_hash, find_spelling, read_lines
from pipeline.ops.text import list_some, to_nfc
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, UInt8

FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")
IGNORE = 255  # in a mask: pixels that count neither as object nor as background
SHOWN = 5  # lines that a note names


@dataclass(frozen=True)
class Masks:
    """The mask files of an image.

    Attributes:
        objects: A mask for each object.
        ignore: A mask of what is not counted; None: all is counted.
    """

    objects: Sequence[Path]
    ignore: Path | None


@dataclass(frozen=True)
class Metadata:
    """The content of a metadata folder.

    Attributes:
        folder: Where it was read from.
        ids: Paths of the images that are scored, in the order of image_ids.txt.
        labels: Class by image id; images without one are not there.
        sizes: (height, width) by image id.
        boxes: By image id, as in the file: xyxy in pixels, the last pixels included.
        masks: Mask files by image id.
        notes: What was left out or unusual, a line each.
    """

    folder: Path
    ids: Sequence[str]
    labels: dict[str, int]
    sizes: dict[str, Size]
    boxes: dict[str, Float64[np.ndarray, "M 4"]]
    masks: dict[str, Masks]
    notes: Sequence[str]

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """The classes of the scored images, sorted."""
        return tuple(sorted({self.labels[id] for id in self.ids if id in self.labels}))

    def get_half_open_boxes(self, id: str) -> Float32[np.ndarray, "m 4"]:
        """Return the boxes of an image as half-open xyxy in pixels, clipped to the image.

        Args:
            id: The id of an image with boxes.
        """
        height, width = self.sizes[id]
        boxes = self.boxes[id] + (0, 0, 1, 1)
        high = np.array([width, height, width, height])
        return np.clip(boxes, 0, high).astype(np.float32)


def check(folder: Path) -> None:
    """Raise UserError unless all files of the metadata are there that must be.

    Args:
        folder: The folder of the metadata.
    """
    for name in (name for name in FILES if name != "class_labels.txt"):
        if not (folder / name).is_file():
            raise UserError(
                f"metadata={folder}: {name} is not there; the metadata of wsolevaluation is "
                f"{', '.join(FILES)}; metadata=FOLDER names the folder that has them"
            )


def read(folder: Path, max_images: int | None = None) -> Metadata:
    """Read a metadata folder.

    Args:
        folder: With the files that this module's docstring lists.
        max_images: Read only the first images of image_ids.txt, at most so many; None: all.

    Raises:
        UserError: A file is missing or a line cannot be read.
    """
    check(folder)
    ids = _read_ids(folder / "image_ids.txt")[:max_images]
    known = set(ids)
    notes: list[str] = []
    sizes = _read_sizes(folder / "image_sizes.txt", known)
    labels: dict[str, int] = {}
    if (folder / "class_labels.txt").is_file():
        labels = _read_labels(folder / "class_labels.txt", known)
        if without := [id for id in ids if id not in labels]:
            notes.append(f"class_labels.txt: {list_some(without, 'image')} have no class")
    else:
        notes.append("class_labels.txt is not there: no number is given for each class")
    localization = _read_localization(folder / "localization.txt", known, sizes)
    boxes, masks = localization.boxes, localization.masks
    if without := [id for id in ids if id not in boxes and id not in masks]:
        notes.append(
            f"localization.txt: {list_some(without, 'image')} have no annotation: not scored"
        )
    notes += localization.notes(max_images is None)
    arrays = {id: np.array(values, np.float64) for id, values in boxes.items()}
    return Metadata(folder, ids, labels, sizes, arrays, masks, notes)


def fingerprint(folder: Path) -> str:
    """Hash the metadata's text files, and the names, sizes and times of its mask files.

    Args:
        folder: The folder of the metadata.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(content_hash(folder / name).encode())
    metadata = read(folder)
    masks = metadata.masks.values()
    paths = {path for files in masks for path in (*files.objects, files.ignore) if path}
    for path in sorted(paths):
        digest.update(f"\0{os.path.relpath(path, folder)}\0{_stamp(path)}".encode())
    return digest.hexdigest()[:16]


def fingerprint_maps(folder: Path) -> str:
    """Hash the names, sizes and times of the map files below a folder.

    Args:
        folder: The folder of the maps.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.npy")):
        digest.update(f"\0{path.relative_to(folder).as_posix()}\0{_stamp(path)}".encode())
    return digest.hexdigest()[:16]


def _stamp(path: Path) -> str:
    """Return size and time of change of a file as text."""
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}-{stat.st_mtime_ns}"


# -- the text files


def _read_ids(path: Path) -> list[str]:
    line_of: dict[str, int] = {}
    for number, line in read_lines(path):
        text = to_nfc(line)
        if text in line_of:
            raise UserError(
                f"{path}, line {number}: {text!r} is there twice, first in line {line_of[text]}; "
                "drop one"
            )
        line_of[text] = number
    if not line_of:
        raise UserError(f"{path}: it names no image; expected a path a line")
    return list(line_of)


def _split_fields(path: Path, number: int, text: str, fields: Sequence[str]) -> list[str]:
    """Split a line at its last commas: a path may hold commas. Raise UserError for too few.

    The first field, the id, is returned in NFC.
    """
    parts = text.rsplit(",", len(fields) - 1)
    if len(parts) != len(fields):
        raise UserError(f"{path}, line {number}: {text!r}, expected {','.join(fields)}")
    return [to_nfc(parts[0]), *parts[1:]]


def _parse_whole_number(path: Path, number: int, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"{path}, line {number}: {name} is {text!r}, expected a whole number"
        ) from None


def _read_labels(path: Path, known: set[str]) -> dict[str, int]:
    labels = {}
    for number, text in read_lines(path):
        id, label = _split_fields(path, number, text, ("image", "class"))
        if id in known:
            labels[id] = _parse_whole_number(path, number, "class", label)
    return labels


def _read_sizes(path: Path, known: set[str]) -> dict[str, Size]:
    sizes = {}
    for number, text in read_lines(path):
        id, width, height = _split_fields(path, number, text, ("image", "width", "height"))
        if id in known:
            size = (
                _parse_whole_number(path, number, "height", height),
                _parse_whole_number(path, number, "width", width),
            )
            if min(size) < 1:
                raise UserError(
                    f"{path}, line {number}: width {width}, height {height} is no size; correct it"
                )
            sizes[id] = size
    return sizes


@dataclass
class _Localization:
    """Annotations of localization.txt, and the lines that were left out or unusual.

    Attributes:
        boxes: By image id, as in the file.
        masks: By image id.
        left_out: Lines by the reason that their boxes were left out for.
        clipped: Lines whose boxes stick out of their image.
        unknown: Lines of images that are not scored.
    """

    boxes: dict[str, list[list[float]]] = field(default_factory=dict)
    masks: dict[str, Masks] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    clipped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def add_box(self, id: str, box: list[float], size: Size | None, where: str) -> None:
        """Add a box of an image, unless it cannot be right."""
        if (reason := _find_fault(box, size)) is not None:
            self.left_out.setdefault(reason, []).append(where)
            return
        assert size is not None
        height, width = size
        # wsolevaluation's own files have boxes that end one pixel after the last.
        if min(box[:2]) < 0 or box[2] > width or box[3] > height:
            self.clipped.append(where)
        self.boxes.setdefault(id, []).append(box)

    def add_mask(self, id: str, mask: Path, ignore: Path | None) -> None:
        """Add the mask of an object; `ignore` replaces that of the image's lines before."""
        before = self.masks.get(id, Masks((), None))
        self.masks[id] = Masks([*before.objects, mask], ignore or before.ignore)

    def notes(self, reports_unknown: bool) -> list[str]:
        """Return what was left out or unusual, a line each."""
        notes = [
            f"localization.txt: {_describe_lines(lines, 'box', 'boxes')} {reason}: left out"
            for reason, lines in self.left_out.items()
        ]
        if self.clipped:
            notes.append(
                f"localization.txt: {_describe_lines(self.clipped, 'box', 'boxes')} stick out of "
                "their image; protocol=default clips them"
            )
        if self.unknown and reports_unknown:
            notes.append(
                f"localization.txt: {_describe_lines(self.unknown, 'line')} of images that "
                "image_ids.txt does not have: left out"
            )
        return notes


def _read_localization(path: Path, known: set[str], sizes: dict[str, Size]) -> _Localization:
    localization = _Localization()
    for number, text in read_lines(path):
        where = f"line {number}"
        if (fields := _split_mask_line(text)) is not None:
            id, mask, ignore = fields
            if id in known:
                ignore_path = find_spelling(path.parent / ignore) if ignore else None
                localization.add_mask(id, find_spelling(path.parent / mask), ignore_path)
            else:
                localization.unknown.append(where)
            continue
        id, *texts = _split_fields(path, number, text, ("image", "x0", "y0", "x1", "y1"))
        box = [
            _parse_number(path, number, *pair)
            for pair in zip(("x0", "y0", "x1", "y1"), texts, strict=True)
        ]
        if id in known:
            localization.add_box(id, box, sizes.get(id), where)
        else:
            localization.unknown.append(where)
    return localization


def _describe_lines(lines: Sequence[str], singular: str, plural: str = "") -> str:
    """Return how many lines there are, and the first of them; `plural`: if not with an s."""
    shown = ", ".join(lines[:SHOWN]) + (", ..." if len(lines) > SHOWN else "")
    return f"{len(lines)} {singular if len(lines) == 1 else plural or singular + 's'} ({shown})"


def _split_mask_line(text: str) -> tuple[str, str, str] | None:
    """Return image, mask and ignore mask of a line that names masks; None for another."""
    parts = text.rsplit(",", 2)
    if len(parts) != 3 or not parts[1].lower().endswith((".png", ".jpg", ".jpeg", ".bmp")):
        return None
    return to_nfc(parts[0]), parts[1], parts[2]


def _parse_number(path: Path, number: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path}, line {number}: {name} is {text!r}, expected a number") from None


def _find_fault(box: Sequence[float], size: Size | None) -> str | None:
    """Return why a box cannot be right; None where it can."""
    if size is None:
        return "of images that image_sizes.txt does not have"
    if not np.isfinite(box).all():
        return "that are not finite"
    x0, y0, x1, y1 = box
    if x1 < x0 or y1 < y0:
        return "that are reversed"
    if x1 < 0 or y1 < 0 or x0 >= size[1] or y0 >= size[0]:
        return "outside their image"
    return None


# -- maps and masks


def map_path(folder: Path, id: str) -> Path:
    """Return where the map of an image is: with the image's suffix before .npy, or without.

    The evaluator's code writes the suffix, its description has none.

    Args:
        folder: The folder of the maps.
        id: The id of the image, as image_ids.txt has it.
    """
    path = find_spelling(folder / f"{id}.npy")
    return path if path.is_file() else find_spelling(folder / f"{os.path.splitext(id)[0]}.npy")


def read_map(folder: Path, id: str) -> Float[np.ndarray, "h w"]:
    """Read the map of an image, of any size, not normalised.

    Args:
        folder: The folder of the maps.
        id: The id of the image, as image_ids.txt has it.

    Raises:
        SkippedImage: There is no map, or it cannot be scored. The message has no subject, so that
            it can follow the number of such maps.
    """
    path = map_path(folder, id)
    if not path.is_file():
        raise SkippedImage("have no map")
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise SkippedImage("have a map that is no .npy file of numbers") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise SkippedImage("have a map that is no array of numbers")
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or 0 in values.shape or max(values.shape) > 32_767:
        raise SkippedImage("have a map that is not [h, w]")
    if not np.isfinite(values).all() or (
        values.dtype.kind == "f" and np.abs(values).max() > np.finfo(np.float32).max
    ):
        raise SkippedImage("have a map with values that are not finite")
    return np.asarray(values)


def find_unknown_maps(folder: Path, ids: Iterable[str]) -> list[str]:
    """Return the paths, below the folder, of maps of images that are not among `ids`.

    Args:
        folder: The folder of the maps.
        ids: The ids of the images that are scored.
    """
    forms = map(to_nfc, ids)
    known = {name for id in forms for name in (f"{id}.npy", f"{os.path.splitext(id)[0]}.npy")}
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    return sorted(name for name in names if to_nfc(name) not in known)


def read_masks(masks: Masks, size: Size | None = None) -> UInt8[np.ndarray, "h w"]:
    """Read the masks of an image into one.

    Args:
        masks: Its files.
        size: (height, width) to scale to, by the nearest pixel; None: not scaled.

    Returns:
        1 for objects, 0 for background, 255 (IGNORE) for what is ignored and is no object.

    Raises:
        SkippedImage: A file cannot be read, or the sizes differ.
    """
    objects = [_read_mask(path, size) for path in masks.objects]
    if any(mask.shape != objects[0].shape for mask in objects):
        raise SkippedImage("have masks of several sizes")
    covered = np.asarray(np.any(objects, 0), bool)
    combined: UInt8[np.ndarray, "h w"] = covered.astype(np.uint8)
    if masks.ignore is not None:
        ignored = _read_mask(masks.ignore, size)
        if ignored.shape != covered.shape:
            raise SkippedImage("have masks of several sizes")
        combined[ignored & ~covered] = IGNORE
    return combined


def _read_mask(path: Path, size: Size | None) -> np.ndarray:
    """Return a boolean mask: True where the image file is not black."""
    try:
        data = np.fromfile(path, np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    except (OSError, cv2.error):
        mask = None
    if mask is None:
        raise SkippedImage("have a mask that cannot be read")
    if size is not None:
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(mask > 0)
