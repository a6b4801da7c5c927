"""The boxes of a table as annotations: read by evaluate and calibrate alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.data.listing import Listing
from pipeline.data.table_images import TableBox
from pipeline.errors import SkippedImage
from pipeline.formats import photo
from pipeline.formats.coco_boxes import Box, clip
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.text import count_note
from pipeline.types import GroundTruth, Size


@dataclass
class TableTruth:
    """The annotations of images.

    Attributes:
        truth: By image id.
        notes: What was unusual about the boxes, a line each.
    """

    truth: dict[str, GroundTruth] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build_truth(
    images: Listing,
    boxes: Mapping[str, Sequence[TableBox]],
    class_of: Mapping[str, int],
    where: str,
) -> TableTruth:
    """Clip boxes to their images, whose sizes are read from the files.

    Args:
        images: The images.
        boxes: Boxes by image id.
        class_of: The class of each label.
        where: The table, for messages.
    """
    result, odd = TableTruth(), OddRecords(where, "box")
    clipped, strange, total = list[str](), list[str](), 0
    unclear, others = list[str](), images.list_others()
    for file, label, more in zip(images.files, images.labels, others, strict=True):
        if file.id not in boxes:
            continue  # counted and named by evaluate, as images without annotation
        try:
            size = photo.read_size(file.path, name=file.id)
        except SkippedImage:
            continue  # counted and named by the stages that read the image
        kept, classes = [], list[int]()
        for box in boxes[file.id]:
            total += 1
            try:
                inside, was_clipped = clip(_to_pixels(box, size), size)
            except BadRecord as error:
                odd.leave_out(box.row, str(error))
                continue
            clipped += [box.row] if was_clipped else []
            strange += [f"{box.row}: {box.label}"] if box.label not in (None, *class_of) else []
            kept.append(inside)
            own = box.own_label if more else box.label
            unclear += [box.row] if more and own is None else []
            no_label = -1 if more else label
            classes.append(no_label if own is None else class_of.get(own, -1))
        if kept:
            result.truth[file.id] = GroundTruth(
                file.id, label, size, np.asarray(kept, np.float32), np.asarray(classes, np.int64)
            )
    result.notes += odd.notes()
    if unclear:
        why = "without a label of its own in an image of several classes: found for no class"
        remedy = "give each box a row with its label, or a list of objects with bbox and category"
        result.notes.append(count_note(unclear, "box", why, where=where, remedy=remedy))
    if strange:
        why = "of a category that is no class of the data set: found for no class"
        result.notes.append(count_note(strange, "box", why, where=where))
    if clipped:
        is_relative = any(box.is_relative for of_image in boxes.values() for box in of_image)
        result.notes.append(_describe_clipped(where, clipped, total, is_relative))
    return result


def _to_pixels(box: TableBox, size: Size) -> Box:
    """Return a box in pixels of its image of a (height, width)."""
    if not box.is_relative:
        return box.box
    (height, width), (x0, y0, x1, y1) = size, box.box
    return x0 * width, y0 * height, x1 * width, y1 * height


def _describe_clipped(where: str, rows: Sequence[str], total: int, is_relative: bool) -> str:
    """Return a note on clipped boxes, which asks for their format where most stick out."""
    form = "x and y of the centre, width and height, in fractions of the image"
    if not is_relative:
        form = "what data.box_format says, xywh or xyxy"
    is_usual = total > 3 and len(rows) * 2 > total
    remedy = f"are the four numbers {form}?" if is_usual else ""
    ending = "its image and was clipped" if len(rows) == 1 else "their images and were clipped"
    return count_note(rows, "box", f"of {total} stuck out of {ending}", where=where, remedy=remedy)
