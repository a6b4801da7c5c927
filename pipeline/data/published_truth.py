"""Ground truth of images from the annotations of published data sets.

Boxes are clipped to their images. Images of another size than their annotation says, and
annotations that cannot be used, are left out and counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.annotations import SIZE_REMEDY
from pipeline.data.listing import File, Listing
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo
from pipeline.formats.coco_boxes import Box, clip, describe_clipped_boxes
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.formats.pascal_voc import read_voc
from pipeline.ops.rle import encode_rle
from pipeline.ops.text import count_note
from pipeline.types import Crowds, GroundTruth, Rle, Size

if TYPE_CHECKING:
    from jaxtyping import Bool

ROUNDING = 1.0  # pixels that a box may stick out without being counted: conventions differ by one


class BadAnnotation(BadRecord):
    """An annotation that cannot be used.

    Args:
        where: The file, and the line where it has several images.
        reason: Why, as the message of BadRecord.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(reason)
        self.where = where


@dataclass(frozen=True)
class Region:
    """A region in which boxes of a class are neither right nor wrong.

    Attributes:
        box: Half-open xyxy in pixels, not clipped.
        label: The class.
        mask: What it covers; None: all of the box.
    """

    box: Box
    label: int
    mask: Rle | None = None


@dataclass(frozen=True)
class Annotation:
    """What a data set's files say of the objects of an image.

    Attributes:
        where: The file, and the line where it has several images; messages name it.
        boxes: Half-open xyxy in pixels, not clipped.
        size: The size of the image as the file has it; None: it does not say.
        masks: The mask of each object, of any size and scaled to the image; then boxes are theirs.
        ignored: What counts neither as object nor as background; None: all counts.
        faults: What is wrong with further objects, which are left out.
        classes: The class of each box; None: all are of the image's class.
        rles: The run-length mask of each box, at the size of the image; None: there are none.
        regions: Where boxes are not counted.
        void: Pixels that count neither as object nor as background, at the size of the image.
    """

    where: str
    boxes: Sequence[Box] = ()
    size: Size | None = None
    masks: Sequence[Bool[np.ndarray, "h w"]] = ()
    ignored: Bool[np.ndarray, "h w"] | None = None
    faults: Sequence[str] = ()
    classes: Sequence[int] | None = None
    rles: Sequence[Rle] | None = None
    regions: Sequence[Region] = ()
    void: Rle | None = None


def box_of_corners(where: str, corners: Sequence[float], first_pixel: int) -> Annotation:
    """Return the annotation of a box whose last pixel belongs to it.

    Args:
        where: The file, and the line where it has several images.
        corners: x0, y0, x1, y1: the first and the last pixel.
        first_pixel: What the file calls the first column and the first row, 0 or 1.

    Raises:
        BadAnnotation: The box is reversed or not finite.
    """
    x0, y0, x1, y1 = corners
    if not (x1 >= x0 and y1 >= y0):
        raise BadAnnotation(where, "whose box is reversed or not finite")
    end = 1 - first_pixel
    return Annotation(where, [(x0 - first_pixel, y0 - first_pixel, x1 + end, y1 + end)])


def read_truth(
    part: Listing, annotate: Callable[[File, int], Annotation | None], root: Path
) -> tuple[dict[str, GroundTruth], list[str]]:
    """Read the annotations of a split.

    Args:
        part: The images.
        annotate: Returns the annotation of an image and its class, or raises BadRecord.
        root: The folder of the data set, which messages name.

    Returns:
        Ground truth by image id, and notes on what was left out or clipped.

    Raises:
        UserError: There are annotations, and none can be used.
    """
    truth: dict[str, GroundTruth] = {}
    odd = OddRecords("annotations", "image")
    boxes = OddRecords("annotations", "box")
    clipped, contradictions, annotated = list[str](), list[str](), 0
    for file, label in zip(part.files, part.labels, strict=True):
        try:
            annotation = annotate(file, label)
            if annotation is None:
                continue  # counted and named by evaluate, as images without annotation
            annotated += 1
            size = photo.read_size(file.path, name=file.id)
        except SkippedImage:
            continue  # counted and named by the stages that read the image
        except BadRecord as error:
            annotated += 1
            where = error.where if isinstance(error, BadAnnotation) else file.id
            odd.leave_out(where, str(error))
            continue
        if annotation.size not in (None, size):
            contradictions.append(_describe_contradiction(file.id, annotation, size))
            continue
        known = _to_truth(annotation, file.id, label, size, boxes, clipped)
        if known is not None:
            truth[file.id] = known
    notes: list[str] = [*odd.notes(), *boxes.notes()]
    if contradictions:
        why = "of another size than their annotation says: left out, so no number has them"
        notes.append(count_note(contradictions, "image", why, remedy=SIZE_REMEDY))
    if annotated and not truth:
        reasons = "".join(f"\n  {note}" for note in notes[:10])
        raise UserError(f"{root}: none of its {annotated} annotations can be used:{reasons}")
    if clipped:
        count = sum(len(known.boxes) for known in truth.values())
        notes.append(describe_clipped_boxes(root, clipped, count))
    return truth, notes


def _describe_contradiction(id: str, annotation: Annotation, size: Size) -> str:
    """Return the size of an image in its annotation, and that of the image itself."""
    assert annotation.size is not None
    (height, width), (true_height, true_width) = annotation.size, size
    return (
        f"{id}: {width} x {height} in {annotation.where}, {true_width} x {true_height} on disk "
        "when upright"
    )


def _to_truth(
    annotation: Annotation,
    id: str,
    label: int,
    size: Size,
    odd: OddRecords,
    clipped: list[str],
) -> GroundTruth | None:
    """Return the ground truth of an image; None where it has no object that can be used."""
    if annotation.masks:
        return _masks_to_truth(annotation, id, label, size, odd)
    boxes, kept = list[Box](), list[int]()
    for fault in annotation.faults:
        odd.leave_out(annotation.where, fault)
    for number, box in enumerate(annotation.boxes):
        try:
            inside, was_clipped = clip(box, size)
        except BadRecord as error:
            odd.leave_out(f"{annotation.where}, box {number + 1}", str(error))
            continue
        boxes.append(inside)
        kept.append(number)
        moved = max(abs(a - b) for a, b in zip(inside, box, strict=True))
        if was_clipped and moved > ROUNDING:
            clipped.append(annotation.where)
    if not boxes:
        return None
    classes, rles = annotation.classes, annotation.rles
    return GroundTruth(
        id, label, size, np.asarray(boxes, np.float32).reshape(-1, 4),
        None if classes is None else np.array([classes[n] for n in kept], np.int64),
        None if rles is None else [rles[n] for n in kept],
        _to_crowds(annotation.regions, size), void=annotation.void,
    )  # fmt: skip


def _to_crowds(regions: Sequence[Region], size: Size) -> Crowds | None:
    """Return the regions that lie in the image; None where there is none."""
    inside = list[tuple[Box, Region]]()
    for region in regions:
        with suppress(BadRecord):  # outside of the image no box is found
            inside.append((clip(region.box, size)[0], region))
    if not inside:
        return None
    return Crowds(
        np.array([box for box, _ in inside], np.float32),
        np.array([region.label for _, region in inside], np.int64),
        [region.mask for _, region in inside],
    )


def _masks_to_truth(
    annotation: Annotation, id: str, label: int, size: Size, odd: OddRecords
) -> GroundTruth | None:
    """Return the ground truth of an image with masks: a box around each, and what is ignored."""
    boxes, masks = list[Box](), list[Rle]()
    for number, mask in enumerate(annotation.masks):
        scaled = _scale_mask(mask, size)
        box = box_around(scaled)
        if box is None:
            odd.leave_out(f"{annotation.where}, mask {number + 1}", "whose mask is empty")
            continue
        boxes.append(box)
        masks.append(encode_rle(scaled, size))
    if not boxes:
        return None
    crowds = None
    if annotation.ignored is not None:
        ignored = _scale_mask(annotation.ignored, size)
        if (around := box_around(ignored)) is not None:
            crowds = Crowds(np.array([around], np.float32), None, [encode_rle(ignored, size)])
    return GroundTruth(
        id, label, size, np.asarray(boxes, np.float32).reshape(-1, 4), masks=masks, crowds=crowds
    )


def _scale_mask(mask: Bool[np.ndarray, "h w"], size: Size) -> Bool[np.ndarray, "H W"]:
    """Return a mask at the size of its image, by the nearest pixel."""
    if mask.shape == size:
        return mask
    (height, width), (h, w) = size, mask.shape
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    return np.asarray(mask[np.ix_(rows, columns)])


def box_around(mask: Bool[np.ndarray, "h w"]) -> Box | None:
    """Return the half-open box around the pixels of a mask; None where it is empty.

    Args:
        mask: True where the object is.

    Examples:
        >>> box_around(np.array([[False, False], [False, True]]))
        (1.0, 1.0, 2.0, 2.0)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def voc_annotation(path: Path, root: Path, name: str | None, first_pixel: int) -> Annotation | None:
    """Return the annotation of an image in an XML file of PASCAL VOC's form.

    Args:
        path: The file.
        root: The folder of the data set, below which messages name it.
        name: The class of the objects that count; None: all do.
        first_pixel: The number of the first pixel: 1 as in VOC, 0 as in ILSVRC.

    Returns:
        The annotation; None where there is no such file.

    Raises:
        BadAnnotation: The file cannot be used.
    """
    where = os.path.relpath(path, root)
    try:
        image = read_voc(path, first_pixel)
    except FileNotFoundError:
        return None
    except BadRecord as error:
        raise BadAnnotation(where, str(error)) from None
    boxes = [found.box for found in image.objects if name is None or found.name == name]
    if not boxes:
        if image.faults:
            raise BadAnnotation(where, image.faults[0])
        if image.objects:
            raise BadAnnotation(where, "whose objects are of another class than the image")
        raise BadAnnotation(where, "without an object")
    return Annotation(where, boxes, image.size, faults=image.faults)
