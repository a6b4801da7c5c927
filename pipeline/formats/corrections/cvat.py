"""Corrections that CVAT exports as "CVAT for images 1.1": annotations.xml.

An image is reviewed if it has the tag `reviewed`, or if the state, stage or status of its job or
task is `completed` or `acceptance`; CVAT's own export does not say the state. `source` of a shape
is `auto` where a program found it, `file` where it was uploaded, `manual` or `semi-auto` where a
person drew or changed it. Boxes, ellipses, polygons and masks become boxes; what a group joins is
one object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipeline.errors import UserError
from pipeline.formats.corrections.shapes import (
    NO_AREA,
    Box,
    Shape,
    box_around,
    build_image,
    ellipse_box,
    keep_latest,
    mask_box,
    parse_finite,
    parse_size,
    polygon_mask,
    rotate_box,
    was_doubtful,
)
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.rle import encode_rle
from pipeline.ops.text import count_note
from pipeline.types import CorrectedImage, CorrectionFile, Note, Rle, Size

FILE = "annotations.xml"
STATES = ("state", "stage", "status")
FINISHED = ("completed", "acceptance")
FOUND_BY_PROGRAM = ("auto", "file")
REVIEWED = "reviewed"
OTHER_KINDS = ("polyline", "points", "cuboid", "skeleton")
NO_NUMBERS = "whose coordinates are not numbers"
HEAD_BYTES = 4096


def matches(path: Path) -> bool:
    """Return whether a path is an XML file of CVAT, or a folder with annotations.xml.

    Args:
        path: a file or folder.
    """
    file = _locate(path)
    if not file.is_file() or file.suffix.lower() != ".xml":
        return False
    head = file.read_bytes()[:HEAD_BYTES]
    return re.search(rb"<annotations[\s>]", head) is not None


def _locate(path: Path) -> Path:
    return path / FILE if path.is_dir() else path


def read(path: Path) -> CorrectionFile:
    """Read annotations of images, one after the other. Odd shapes are left out, and counted.

    Args:
        path: the XML file, or the folder that it lies in as annotations.xml.

    Raises:
        UserError: the file is no XML, or of a video, or none of its images can be used.
    """
    file = _locate(path)
    odd_images, odd_shapes = OddRecords(file.name, "image"), OddRecords(file.name, "shape")
    images: list[CorrectedImage] = []
    about = _About()
    count = 0
    for element in _iterate(file):
        if element.tag == "meta":
            about = _read_meta(element)
        elif element.tag == "track":
            raise UserError(
                f'{file}: annotations of a video; export the task as "CVAT for images 1.1"'
            )
        elif element.tag == "image":
            count += 1
            try:
                images.append(_read_image(element, about, odd_shapes))
            except BadRecord as error:
                odd_images.leave_out(f"image {element.get('id', count)}", str(error))
    odd_images.check_usable(file, count, len(images))
    kept = keep_latest(images, odd_images)
    notes = [*odd_images.notes(), *odd_shapes.notes(), *_note_states(file, kept)]
    return CorrectionFile("cvat", kept, notes)


def _iterate(file: Path) -> Iterator[ElementTree.Element]:
    """Yield the children of the root, each freed afterwards."""
    try:
        depth = 0
        for event, element in ElementTree.iterparse(file, events=("start", "end")):
            depth += 1 if event == "start" else -1
            if event == "end" and depth == 1:
                yield element
                element.clear()
    except ElementTree.ParseError as error:
        line, column = error.position
        raise UserError(
            f"{file}, line {line}, column {column}: not XML ({error.msg}); export it again"
        ) from None
    except (LookupError, ValueError) as error:  # an encoding that is unknown or not supported
        raise UserError(f"{file}: not XML that can be read ({error}); export it again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class _About:
    """What the file says of all its images.

    Attributes:
        is_finished: whether the job or task is finished.
        date: when it was changed.
        author: whom it is assigned to.
    """

    is_finished: bool = False
    date: str | None = None
    author: str | None = None


def _read_meta(meta: ElementTree.Element) -> _About:
    """Return state, date and assignee of the job or task.

    A task is finished only if all of its jobs are, where it lists them.
    """
    states = [
        element.text.strip().lower()
        for name in STATES
        for element in meta.iter(name)
        if element.text and element.text.strip()
    ]
    by_job = [state in FINISHED for state in states]
    date = meta.findtext(".//updated") or meta.findtext(".//dumped")
    author = meta.findtext(".//assignee/username") or meta.findtext(".//assignee")
    author = (author or "").strip() or None
    return _About(bool(by_job) and all(by_job), date, author)


def _note_states(file: Path, images: Sequence[CorrectedImage]) -> list[Note]:
    """Return a note where nothing says which images a person has finished."""
    if not images or any(image.is_reviewed for image in images):
        return []
    why = (
        "have neither the tag `reviewed` nor the state of a finished job: nothing says that a "
        "person looked at them"
    )
    remedy = "tag them in CVAT, or name them when the file is read"
    names = [image.name for image in images]
    return [count_note(names, "image", why, where=file.name, remedy=remedy)]


# -- images and shapes


def _read_image(element: ElementTree.Element, about: _About, odd: OddRecords) -> CorrectedImage:
    """Return an image with its boxes."""
    name = element.get("name")
    if not name:
        raise BadRecord("without a name")
    is_tagged = any(tag.get("label") == REVIEWED for tag in element.iter("tag"))
    is_reviewed = about.is_finished or is_tagged
    size = parse_size(element.get("height"), element.get("width"))
    shapes = _read_shapes(element, size, name, odd, is_reviewed)
    return build_image(
        name, size, shapes, odd,
        is_reviewed=is_reviewed, chosen_by_doubt=was_doubtful(_read_rank(element)),
        date=about.date, author=about.author, where=f"image {element.get('id', name)}",
    )  # fmt: skip


def _read_rank(element: ElementTree.Element) -> Mapping[str, Any]:
    """Return the review rank that our exporter writes as an attribute of each box."""
    for attribute in element.iter("attribute"):
        if attribute.get("name") == "review_rank" and attribute.text:
            return {"review_rank": attribute.text}
    return {}


def _read_shapes(
    image: ElementTree.Element, size: Size | None, image_name: str, odd: OddRecords,
    is_reviewed: bool,
) -> Iterator[Shape]:  # fmt: skip
    for number, element in enumerate(image):
        name = f"{image_name} shape {number}"
        try:
            if element.tag in OTHER_KINDS:
                raise BadRecord("which are no box, ellipse, polygon or mask")
            if element.tag in PARSERS:
                yield _read_shape(element, size, name, is_reviewed)
        except BadRecord as error:
            odd.leave_out(name, str(error))


def _read_shape(
    element: ElementTree.Element, size: Size | None, name: str, is_reviewed: bool
) -> Shape:
    label = element.get("label")
    if not label:
        raise BadRecord("without a class")
    box, mask = PARSERS[element.tag](element, size)
    group = element.get("group_id")
    return Shape(
        label=label,
        box=box,
        name=name,
        is_outline=element.tag in ("polygon", "mask"),
        mask=mask,
        group=None if group in (None, "", "0") else group,
        is_prediction=element.get("source") in FOUND_BY_PROGRAM and not is_reviewed,
    )


def _numbers(element: ElementTree.Element, *names: str) -> list[float]:
    values = [parse_finite(element.get(name)) for name in names]
    known = [value for value in values if value is not None]
    if len(known) < len(names):
        raise BadRecord(NO_NUMBERS)
    return known


def _parse_box(element: ElementTree.Element, size: Size | None) -> tuple[Box, Rle | None]:
    x0, y0, x1, y1 = _numbers(element, "xtl", "ytl", "xbr", "ybr")
    degrees = parse_finite(element.get("rotation")) or 0.0
    return rotate_box((x0, y0, x1, y1), degrees, ((x0 + x1) / 2, (y0 + y1) / 2)), None


def _parse_ellipse(element: ElementTree.Element, size: Size | None) -> tuple[Box, Rle | None]:
    cx, cy, rx, ry = _numbers(element, "cx", "cy", "rx", "ry")
    return ellipse_box(cx, cy, rx, ry, parse_finite(element.get("rotation")) or 0.0), None


def _parse_polygon(element: ElementTree.Element, size: Size | None) -> tuple[Box, Rle | None]:
    pairs = [pair.split(",") for pair in element.get("points", "").split(";")]
    points = [
        (x, y)
        for pair in pairs
        if len(pair) == 2
        for x, y in [(parse_finite(pair[0]), parse_finite(pair[1]))]
        if x is not None and y is not None
    ]
    if len(points) < len(pairs):
        raise BadRecord(NO_NUMBERS)
    if len(points) < 3:
        raise BadRecord(NO_AREA)
    return box_around(points), polygon_mask(points, size)


def _parse_mask(element: ElementTree.Element, size: Size | None) -> tuple[Box, Rle | None]:
    """Return box and mask of run lengths, row by row, inside the box; the first is outside."""
    left, top, width, height = map(int, _numbers(element, "left", "top", "width", "height"))
    try:
        runs = np.array([int(run) for run in element.get("rle", "").split(",")], np.int64)
    except (ValueError, OverflowError):
        raise BadRecord(NO_NUMBERS) from None
    if size is None or left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise BadRecord("whose mask does not lie in its image")
    if (runs < 0).any() or runs.sum() != width * height:
        raise BadRecord("whose mask has run lengths that do not fit its box")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    pixels = np.zeros(size, bool)
    pixels[top : top + height, left : left + width] = inside
    mask = encode_rle(pixels, size)
    return mask_box(mask), mask


Parser = Callable[[ElementTree.Element, "Size | None"], tuple[Box, "Rle | None"]]
PARSERS: Mapping[str, Parser] = {
    "box": _parse_box,
    "ellipse": _parse_ellipse,
    "polygon": _parse_polygon,
    "mask": _parse_mask,
}
