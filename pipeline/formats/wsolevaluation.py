"""Score maps and metadata as clovaai/wsolevaluation keeps them: what most of this field's code can
write. (Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020.)

    image_ids.txt     path/to/image1.jpg                          which images are scored
    class_labels.txt  path/to/image1.jpg,0                        optional
    image_sizes.txt   path/to/image1.jpg,500,333                  width, height
    localization.txt  path/to/image1.jpg,156,163,318,230          x0, y0, x1, y1, several lines an
                                                                  image; the last pixels included
                or    path/to/image1.jpg,masks/1a.png,masks/1_ignore.png   or, for further objects,
                      path/to/image1.jpg,masks/1b.png,            (below the metadata's folder)
    maps              <maps>/path/to/image1.jpg.npy, or without .jpg: [h, w], of the whole image

What is not of this shape is refused, with the file, the line and the field; boxes that cannot be
right (reversed, outside their image, not finite) and maps that cannot are left out, counted, named.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.errors import SkippedImage, UserError
from pipeline.formats.files import content_hash, read_lines
from pipeline.ops.text import list_some
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, UInt8

FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")
IGNORE = 255


@dataclass(frozen=True)
class Masks:
    objects: Sequence[Path]
    ignore: Path | None


@dataclass(frozen=True)
class Metadata:
    folder: Path
    ids: Sequence[str]
    labels: dict[str, int]
    sizes: dict[str, Size]
    boxes: dict[str, Float64[np.ndarray, "M 4"]]  # as in the file: xyxy, the last pixels included
    masks: dict[str, Masks]
    notes: Sequence[str]

    @cached_property
    def classes(self) -> tuple[int, ...]:
        return tuple(sorted({self.labels[one] for one in self.ids if one in self.labels}))

    def half_open(self, one: str) -> Float32[np.ndarray, "m 4"]:
        """The boxes as the rest of this project has them, inside the image."""
        height, width = self.sizes[one]
        boxes = self.boxes[one] + (0, 0, 1, 1)
        high = np.array([width, height, width, height])
        return np.clip(boxes, 0, high).astype(np.float32)


def check(folder: Path) -> None:
    """Raises UserError where a file that is needed is not there."""
    for name in (one for one in FILES if one != "class_labels.txt"):
        if not (folder / name).is_file():
            raise UserError(
                f"metadata={folder}: {name} is not there; the metadata of wsolevaluation is "
                f"{', '.join(FILES)}; metadata=FOLDER names the folder that has them"
            )


def read(folder: Path, most: int | None = None) -> Metadata:
    """`most`: only so many images, the first."""
    check(folder)
    ids = _ids(folder / "image_ids.txt")[:most]
    known = set(ids)
    notes: list[str] = []
    sizes = _sizes(folder / "image_sizes.txt", known)
    labels: dict[str, int] = {}
    if (folder / "class_labels.txt").is_file():
        labels = _labels(folder / "class_labels.txt", known)
        if without := [one for one in ids if one not in labels]:
            notes.append(f"class_labels.txt: {list_some(without, 'image')} have no class")
    else:
        notes.append("class_labels.txt is not there: no number is given for each class")
    boxes, masks, odd = _localization(folder / "localization.txt", known, sizes, most is None)
    if without := [one for one in ids if one not in boxes and one not in masks]:
        notes.append(
            f"localization.txt: {list_some(without, 'image')} have no annotation: not scored"
        )
    return Metadata(folder, ids, labels, sizes, boxes, masks, [*notes, *odd])


def fingerprint(folder: Path) -> str:
    """Of the metadata's content, and of its masks' names, sizes and times."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(content_hash(folder / name).encode())
    metadata = read(folder)
    masks = {path for one in metadata.masks.values() for path in (*one.objects, one.ignore) if path}
    for path in sorted(masks):
        digest.update(f"\0{os.path.relpath(path, folder)}\0{_stamp(path)}".encode())
    return digest.hexdigest()[:16]


def maps_fingerprint(folder: Path) -> str:
    """Of the maps' names, sizes and times."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.npy")):
        digest.update(f"\0{path.relative_to(folder).as_posix()}\0{_stamp(path)}".encode())
    return digest.hexdigest()[:16]


def _stamp(path: Path) -> str:
    try:
        known = path.stat()
    except OSError:
        return "missing"
    return f"{known.st_size}-{known.st_mtime_ns}"


# -- the text files


def _ids(path: Path) -> list[str]:
    found: dict[str, int] = {}
    for number, text in read_lines(path):
        if text in found:
            raise UserError(
                f"{path}, line {number}: {text!r} is there twice, first in line {found[text]}; "
                "drop one"
            )
        found[text] = number
    if not found:
        raise UserError(f"{path}: it names no image; expected a path a line")
    return list(found)


def _split(path: Path, number: int, text: str, fields: Sequence[str]) -> list[str]:
    """From the right: a path may hold commas."""
    parts = text.rsplit(",", len(fields) - 1)
    if len(parts) != len(fields):
        raise UserError(f"{path}, line {number}: {text!r}, expected {','.join(fields)}")
    return parts


def _whole(path: Path, number: int, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"{path}, line {number}: {name} is {text!r}, expected a whole number"
        ) from None


def _labels(path: Path, known: set[str]) -> dict[str, int]:
    found = {}
    for number, text in read_lines(path):
        one, label = _split(path, number, text, ("image", "class"))
        if one in known:
            found[one] = _whole(path, number, "class", label)
    return found


def _sizes(path: Path, known: set[str]) -> dict[str, Size]:
    found = {}
    for number, text in read_lines(path):
        one, width, height = _split(path, number, text, ("image", "width", "height"))
        if one in known:
            size = _whole(path, number, "height", height), _whole(path, number, "width", width)
            if min(size) < 1:
                raise UserError(
                    f"{path}, line {number}: width {width}, height {height} is no size; correct it"
                )
            found[one] = size
    return found


def _localization(
    path: Path, known: set[str], sizes: dict[str, Size], whole: bool
) -> tuple[dict[str, np.ndarray], dict[str, Masks], list[str]]:
    boxes: dict[str, list[list[float]]] = {}
    masks: dict[str, Masks] = {}
    left_out: dict[str, list[str]] = {}
    clipped: list[str] = []
    strangers: list[str] = []
    for number, text in read_lines(path):
        where = f"line {number}"
        if (masked := _mask_line(path, number, text)) is not None:
            one, own, ignore = masked
            if one not in known:
                strangers.append(where)
                continue
            before = masks.get(one)
            ignored = path.parent / ignore if ignore else before.ignore if before else None
            objects = [*(before.objects if before else ()), path.parent / own]
            masks[one] = Masks(objects, ignored)
            continue
        one, *texts = _split(path, number, text, ("image", "x0", "y0", "x1", "y1"))
        box = [
            _number(path, number, *pair)
            for pair in zip(("x0", "y0", "x1", "y1"), texts, strict=True)
        ]
        if one not in known:
            strangers.append(where)
        elif (reason := _reason(box, sizes.get(one))) is not None:
            left_out.setdefault(reason, []).append(where)
        else:
            height, width = sizes[one]
            # wsolevaluation's own files have boxes that end one pixel after the last.
            if min(box[:2]) < 0 or box[2] > width or box[3] > height:
                clipped.append(where)
            boxes.setdefault(one, []).append(box)
    notes = [
        f"localization.txt: {_some(found, 'box', 'boxes')} {reason}: left out"
        for reason, found in left_out.items()
    ]
    if clipped:
        notes.append(
            f"localization.txt: {_some(clipped, 'box', 'boxes')} stick out of their image; "
            "protocol=default clips them"
        )
    if strangers and whole:
        notes.append(
            f"localization.txt: {_some(strangers, 'line')} of images that image_ids.txt does not "
            "have: left out"
        )
    return {one: np.array(found, np.float64) for one, found in boxes.items()}, masks, notes


def _some(where: Sequence[str], one: str, several: str = "") -> str:
    shown = ", ".join(where[:5]) + (", ..." if len(where) > 5 else "")
    return f"{len(where)} {one if len(where) == 1 else several or one + 's'} ({shown})"


def _mask_line(path: Path, number: int, text: str) -> tuple[str, str, str] | None:
    parts = text.rsplit(",", 2)
    if len(parts) != 3 or not parts[1].lower().endswith((".png", ".jpg", ".jpeg", ".bmp")):
        return None
    return parts[0], parts[1], parts[2]


def _number(path: Path, number: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path}, line {number}: {name} is {text!r}, expected a number") from None


def _reason(box: Sequence[float], size: Size | None) -> str | None:
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


def map_path(folder: Path, one: str) -> Path:
    """The evaluator's code has the image's suffix before .npy, its description does not."""
    path = folder / f"{one}.npy"
    return path if path.is_file() else folder / f"{os.path.splitext(one)[0]}.npy"


def read_map(folder: Path, one: str) -> Float[np.ndarray, "h w"]:
    """Raises SkippedImage with what is wrong, in words that fit several maps."""
    path = map_path(folder, one)
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


def strangers(folder: Path, ids: Iterable[str]) -> list[str]:
    """Maps of images that are not among `ids`."""
    known = {path for one in ids for path in (f"{one}.npy", f"{os.path.splitext(one)[0]}.npy")}
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    return sorted(name for name in found if name not in known)


def read_masks(masks: Masks, size: Size | None = None) -> UInt8[np.ndarray, "h w"]:
    """1 object, 0 background, 255 ignore (where no object is); brought to `size` by the nearest
    pixel. Raises SkippedImage."""
    objects = [_read_mask(path, size) for path in masks.objects]
    if any(one.shape != objects[0].shape for one in objects):
        raise SkippedImage("have masks of several sizes")
    covered = np.asarray(np.any(objects, 0), bool)
    answer: UInt8[np.ndarray, "h w"] = covered.astype(np.uint8)
    if masks.ignore is not None:
        ignored = _read_mask(masks.ignore, size)
        if ignored.shape != covered.shape:
            raise SkippedImage("have masks of several sizes")
        answer[ignored & ~covered] = IGNORE
    return answer


def _read_mask(path: Path, size: Size | None) -> np.ndarray:
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
