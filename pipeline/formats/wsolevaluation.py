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

Lines of another format, boxes that cannot be right (reversed, outside their image, not finite) and
maps that cannot be scored are left out, counted and named. A file of which no line can be used is
refused, with the reasons. Paths are compared in NFC, and files are opened by their own spelling.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import SkippedImage, UserError
from pipeline.formats.coco_boxes import SizeCheck, describe_swapped_sizes
from pipeline.formats.coco_values import parse_key, parse_number
from pipeline.formats.files import content_hash, find_spelling, read_lines
from pipeline.formats.mask_files import Masks
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.hashing import are_unique
from pipeline.ops.text import count_note, to_nfc
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int64

NO_CLASS = np.iinfo(np.int64).min  # of an image without a line
MAX_NUMBER = 1 << 62  # larger numbers are no class, and no int64
FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")


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
    needed = [name for name in FILES if name != "class_labels.txt"]
    if has_masks(folder, 1):
        needed.remove("image_sizes.txt")
    for name in needed:
        if not (folder / name).is_file():
            raise UserError(
                f"metadata={folder}: {name} is not there; the metadata of wsolevaluation is "
                f"{', '.join(FILES)}; metadata=FOLDER names the folder that has them"
            )


def has_masks(folder: Path, lines: int | None = None) -> bool:
    """Return whether a line of localization.txt names masks, which need no sizes.

    Args:
        folder: The folder of the metadata.
        lines: How many lines are looked at; None: all.
    """
    path = folder / "localization.txt"
    read = islice(read_lines(path), lines) if path.is_file() else ()
    return any(_split_mask_line(line) for _, line in read)


def read_labels(folder: Path) -> tuple[list[str], Int64[np.ndarray, n], list[str]]:
    """Read the images and classes of a metadata folder, without sizes and annotations.

    Args:
        folder: With image_ids.txt and class_labels.txt.

    Returns:
        The images in their order, the class of each, NO_CLASS where it has none, and notes.

    Raises:
        UserError: A file is missing, or no line of it can be used.
    """
    ids, notes = _read_ids(folder / "image_ids.txt")
    labels, label_notes = _read_labels_in_order(folder / "class_labels.txt", ids)
    return ids, labels, [*notes, *label_notes]


def read(
    folder: Path,
    max_images: int | None = None,
    mask_folder: Path | None = None,
    has_images: bool = False,
) -> Metadata:
    """Read a metadata folder.

    Args:
        folder: With the files that this module's docstring lists.
        max_images: Read only the first images of image_ids.txt, at most so many; None: all.
        mask_folder: What paths of masks are below; None: the folder of the metadata.
        has_images: Whether the images are read, too: then the reader of the images clips boxes and
            counts what is scored, and notes do not.

    Raises:
        UserError: A file is missing, or no line of it can be used.
    """
    check(folder)
    ids, notes = _read_ids(folder / "image_ids.txt")
    ids = ids[:max_images]
    known = set(ids)
    sizes: dict[str, Size] = {}
    labels: dict[str, int] = {}
    if (folder / "image_sizes.txt").is_file():
        sizes, size_notes = _read_sizes(folder / "image_sizes.txt", known)
        notes += size_notes
    if (folder / "class_labels.txt").is_file():
        numbers, label_notes = _read_labels_in_order(folder / "class_labels.txt", ids)
        labels = {id: n for id, n in zip(ids, numbers.tolist(), strict=True) if n != NO_CLASS}
        notes += label_notes
        if without := [id for id in ids if id not in labels]:
            remedy = "give each a line with its class, as path,0"
            note = count_note(
                without, "image", "have no class", where="class_labels.txt", remedy=remedy
            )
            notes.append(note)
    else:
        notes.append("class_labels.txt is not there: no number is given for each class")
    localization = _read_localization(
        folder / "localization.txt", known, sizes, folder if mask_folder is None else mask_folder
    )
    boxes, masks = localization.boxes, localization.masks
    if without := [id for id in ids if id not in boxes and id not in masks]:
        scored = "" if has_images else f", {len(ids) - len(without)} of {len(ids)} are"
        why = f"have no annotation that can be used: not scored{scored}"
        notes.append(count_note(without, "image", why, where="localization.txt"))
    notes += localization.notes(max_images is None, reports_clipped=not has_images)
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


def _read_ids(path: Path) -> tuple[list[str], list[str]]:
    """Return the images that are named, each once, and notes on lines that are there twice."""
    odd = OddRecords(path.name, "line")
    ids = [to_nfc(line) for _, line in read_lines(path)]
    if not ids:
        raise UserError(f"{path}: it names no image; expected a path a line")
    if are_unique(ids):
        return ids, []
    unique: dict[str, None] = {}
    for number, line in read_lines(path):
        text = to_nfc(line)
        if text in unique:
            odd.leave_out(f"line {number}", "of an image that is there twice")
        unique[text] = None
    return list(unique), [*odd.notes()]


def _split_fields(text: str, fields: Sequence[str]) -> list[str]:
    """Split a line at its last commas: a path may hold commas. Raise BadRecord for too few.

    The first field, the id, is returned in NFC.
    """
    parts = text.rsplit(",", len(fields) - 1)
    if len(parts) != len(fields):
        raise BadRecord(f"of another form than {','.join(fields)}")
    return [to_nfc(parts[0]), *parts[1:]]


def _parse_whole_number(name: str, text: str) -> int:
    key = parse_key(text)
    if not isinstance(key, int):
        raise BadRecord(f"whose {name} is no whole number")
    return key


def _read_values(
    path: Path, known: set[str], fields: Sequence[str], low: int | None = None
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return the whole numbers that a file gives each image, and notes on odd lines.

    Args:
        path: The file.
        known: The images whose lines are read.
        fields: What a line holds, the image first.
        low: The least number; None: any.
    """
    values: dict[str, tuple[int, ...]] = {}
    odd, total, usable = OddRecords(path.name, "line"), 0, 0
    for number, text in read_lines(path):
        total += 1
        try:
            id, *texts = _split_fields(text, fields)
            numbers = tuple(map(_parse_whole_number, fields[1:], texts))
            if low is not None and min(numbers) < low:
                raise BadRecord(f"whose {' or '.join(fields[1:])} is below {low}")
            if values.get(id, numbers) != numbers:
                raise BadRecord("that contradict an earlier line of the same image")
        except BadRecord as error:
            odd.leave_out(f"line {number}", str(error))
            continue
        usable += 1
        if id in known:
            values[id] = numbers
    odd.check_usable(path, total, usable)
    return values, [*odd.notes()]


def _read_labels_in_order(path: Path, ids: Sequence[str]) -> tuple[Int64[np.ndarray, n], list[str]]:
    """Return the class of each image, and notes on odd lines.

    The lines are mostly in the order of the images: no table of a million names is made then.
    """
    labels = np.full(len(ids), NO_CLASS)
    positions: dict[str, int] | None = None
    odd, total, expected = OddRecords(path.name, "line"), 0, 0
    for total, (number, text) in enumerate(read_lines(path), 1):  # noqa: B007
        try:
            id, label_text = _split_fields(text, ("image", "class"))
            label = _parse_whole_number("class", label_text)
            if positions is None and (expected >= len(ids) or ids[expected] != id):
                positions = {id: n for n, id in enumerate(ids)}
            place = expected if positions is None else positions.get(id, -1)
            expected += 1
            label = max(-MAX_NUMBER, min(label, MAX_NUMBER))
            if place >= 0 and labels[place] not in (NO_CLASS, label):
                raise BadRecord("that contradict an earlier line of the same image")
            if place >= 0:
                labels[place] = label
        except BadRecord as error:
            odd.leave_out(f"line {number}", str(error))
    odd.check_usable(path, total, total - odd.left_out_count)
    return labels, [*odd.notes()]


def _read_sizes(path: Path, known: set[str]) -> tuple[dict[str, Size], list[str]]:
    values, notes = _read_values(path, known, ("image", "width", "height"), low=1)
    return {id: (height, width) for id, (width, height) in values.items()}, notes


@dataclass
class _Localization:
    """Annotations of localization.txt, and the lines that were left out or unusual.

    Attributes:
        boxes: By image id, as in the file.
        masks: By image id.
        odd: Lines that were left out, by the reason.
        clipped: Lines whose boxes stick out of their image.
        unknown: Lines of images that are not scored.
    """

    boxes: dict[str, list[list[float]]] = field(default_factory=dict)
    masks: dict[str, Masks] = field(default_factory=dict)
    odd: OddRecords = field(default_factory=lambda: OddRecords("localization.txt", "line"))
    clipped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    _sizes: SizeCheck[str] = field(default_factory=SizeCheck)

    def add_box(self, id: str, box: list[float], size: Size | None, where: str) -> None:
        """Add a box of an image. Raise BadRecord where it cannot be right."""
        if size is not None and np.isfinite(box).all():
            x0, y0, x1, y1 = box
            self._sizes.add(id, (x0, y0, x1, y1), size)
        if (reason := _find_fault(box, size)) is not None:
            raise BadRecord(reason)
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

    def notes(self, reports_unknown: bool, reports_clipped: bool) -> list[str]:
        """Return what was left out or unusual, a line each."""
        notes: list[str] = [*self.odd.notes()]
        where = "localization.txt"
        if self.clipped and reports_clipped:
            why = "whose box sticks out of its image; protocol=default clips it"
            notes.append(count_note(self.clipped, "line", why, where=where))
        if swapped := self._sizes.swapped:
            count = len(swapped | set(self.boxes))
            notes.append(describe_swapped_sizes("image_sizes.txt", sorted(swapped), count))
        if self.unknown and reports_unknown:
            why = "of images that image_ids.txt does not have: left out"
            notes.append(count_note(self.unknown, "line", why, where=where))
        return notes


def _read_localization(
    path: Path, known: set[str], sizes: dict[str, Size], masks: Path
) -> _Localization:
    """Read boxes and masks. Raise UserError where no line can be used."""
    localization, total = _Localization(), 0
    for total, (number, text) in enumerate(read_lines(path), 1):  # noqa: B007
        try:
            _add_line(localization, masks, text, f"line {number}", known, sizes)
        except BadRecord as error:
            localization.odd.leave_out(f"line {number}", str(error))
    usable = total - sum(map(len, localization.odd.left_out.values()))
    localization.odd.check_usable(path, total, usable)
    return localization


def _add_line(
    localization: _Localization,
    folder: Path,
    text: str,
    where: str,
    known: set[str],
    sizes: dict[str, Size],
) -> None:
    """Add the box or the masks of a line. Raise BadRecord where it cannot be used."""
    if (fields := _split_mask_line(text)) is not None:
        id, mask, ignore = fields
        if id in known:
            ignored = find_spelling(folder / ignore) if ignore else None
            localization.add_mask(id, find_spelling(folder / mask), ignored)
        else:
            localization.unknown.append(where)
        return
    id, *texts = _split_fields(text, ("image", "x0", "y0", "x1", "y1"))
    box = [number for number in map(parse_number, texts) if number is not None]
    if len(box) != 4:
        raise BadRecord("whose x0, y0, x1, y1 are not four numbers")
    if id in known:
        localization.add_box(id, box, sizes.get(id), where)
    else:
        localization.unknown.append(where)


def _split_mask_line(text: str) -> tuple[str, str, str] | None:
    """Return image, mask and ignore mask of a line that names masks; None for another."""
    parts = text.rsplit(",", 2)
    if len(parts) != 3 or not parts[1].lower().endswith((".png", ".jpg", ".jpeg", ".bmp")):
        return None
    return to_nfc(parts[0]), parts[1], parts[2]


def _find_fault(box: Sequence[float], size: Size | None) -> str | None:
    """Return why a box cannot be right; None where it can."""
    if size is None:
        return "of images without a size in image_sizes.txt"
    if not np.isfinite(box).all():
        return "whose box is not finite"
    x0, y0, x1, y1 = box
    if x1 < x0 or y1 < y0:
        return "whose box is reversed"
    if x1 < 0 or y1 < 0 or x0 >= size[1] or y0 >= size[0]:
        return "whose box lies outside its image"
    return None


# -- maps


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
    """Read the map of an image, of any size, not normalised; axes of length 1 around it go away.

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
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    while values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2 or 0 in values.shape or max(values.shape) > 32_767:
        raise SkippedImage("have a map that is not [h, w]")
    if not np.isfinite(values).all() or (
        values.dtype.kind == "f" and np.abs(values).max() > np.finfo(np.float32).max
    ):
        raise SkippedImage("have a map with values that are not finite")
    return np.asarray(values)
