"""Annotated boxes with problems: what the reader repaired, and boxes that cannot be meant.

Boxes are looked at to say what is wrong with their file. Nothing of this reaches training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.errors import UserError
from pipeline.ops.iou import pairwise_iou
from pipeline.protocols import AnnotatedDataSet, DataSet
from pipeline.stages.check.findings import Finding
from pipeline.stages.check.images import CheckedImages, Measured
from pipeline.stages.check.losses import describe_loss
from pipeline.types import GroundTruth, Note, Split

MIN_SIDE = 2.0  # pixels; less is a click, not a box
WHOLE_IMAGE = 0.98  # share of the image; more is the whole image
MAX_SAME = 0.95  # IoU of two boxes of an object that was annotated twice
ANNOTATED: tuple[Split, ...] = ("calibration", "val")


def check_annotations(images: CheckedImages, measured: Measured) -> list[Finding]:
    """Return what is wrong with the annotated boxes; nothing where the data set has none.

    Args:
        images: of all splits.
        measured: of each image.
    """
    data = images.data
    if not isinstance(data, AnnotatedDataSet):
        return []
    try:
        truth = {split: data.truth(split) for split in ANNOTATED}
        notes = data.truth_notes()
    except UserError as error:
        return [Finding(
            "annotations_unreadable", "error", f"the annotated boxes cannot be read: {error}",
            "correct the file, or move it away: nothing is measured then")]  # fmt: skip
    findings = [_describe_note(note) for note in notes]
    for split, by_id in truth.items():
        if by_id:
            findings += _check_split(images, measured, split, by_id)
    return findings


def count_boxes(data: DataSet) -> dict[str, dict[str, int]]:
    """Return how many boxes are annotated, and on how many images, by split.

    Args:
        data: the data set; one without annotated boxes, or whose boxes cannot be read, has none.
    """
    if not isinstance(data, AnnotatedDataSet):
        return {}
    try:
        truth = {split: data.truth(split) for split in ANNOTATED}
    except UserError:  # a finding says so
        return {}
    boxes = {split: [len(known.boxes) for known in of.values()] for split, of in truth.items()}
    return {
        split: {"boxes": sum(counts), "images": len(counts)}
        for split, counts in boxes.items() if counts
    }  # fmt: skip


def hash_annotations(data: DataSet) -> list[str]:
    """Return hashes of the annotations of a data set; none where it has none."""
    if not isinstance(data, AnnotatedDataSet):
        return []
    return [data.truth_fingerprint(split) for split in ANNOTATED]


def _describe_note(note: str) -> Finding:
    """Return a finding about what the reader of the annotations repaired or left out."""
    counted = note if isinstance(note, Note) else Note(note)
    if (loss := describe_loss(counted)) is not None:
        # A part of a set is often measured with the boxes of all of it.
        return replace(loss, severity="warning")
    text, _, remedy = str(counted).partition("\n")[0].rpartition("; ")
    if not text:
        text, remedy = remedy, "correct the file of boxes"
    return Finding("annotations", "warning", text, remedy, counted.names, counted.total)


def _check_split(
    images: CheckedImages, measured: Measured, split: Split, truth: Mapping[str, GroundTruth]
) -> list[Finding]:
    """Return boxes of a split that cannot be meant, and images that have no box."""
    number_of = {images.ids[n]: n for n in np.flatnonzero(images.is_in(split)).tolist()}
    names: dict[str, list[str]] = {
        kind: [] for kind in ("size", "none", "small", "whole", "twice", "other")
    }
    for id, number in number_of.items():
        if id not in truth:
            names["none"].append(id)
            continue
        image = truth[id]
        if measured.is_read[number] and image.size != (
            measured.height[number], measured.width[number]
        ):  # fmt: skip
            names["size"].append(id)
        if image.label >= 0 and len(image.boxes) and not len(image.of_label()):
            names["other"].append(id)
        for kind in _find_odd_boxes(image):
            names[kind].append(id)
    return _describe_odd_images(split, names)


def _find_odd_boxes(image: GroundTruth) -> list[str]:
    """Return the kinds of odd boxes that an image has."""
    boxes = image.boxes
    if not len(boxes):
        return []
    sides = boxes[:, 2:] - boxes[:, :2]
    kinds = []
    if (sides.min(1) < MIN_SIDE).any():
        kinds.append("small")
    if (sides.prod(1) > WHOLE_IMAGE * image.size[0] * image.size[1]).any():
        kinds.append("whole")
    if (np.triu(pairwise_iou(boxes, boxes), 1) > MAX_SAME).any():
        kinds.append("twice")
    return kinds


def _describe_odd_images(split: Split, names: Mapping[str, list[str]]) -> list[Finding]:
    """Return findings about images with odd boxes, by their kind."""
    kinds = (
        ("size", "warning", "box_size",
         "are annotated at another size than that of the file: boxes are not where they are seen",
         "annotate the image as it is now, or give the file that the boxes were drawn on"),
        ("small", "warning", "box_small",
         f"have a box with a side below {MIN_SIDE:g} pixels", "delete them: they are clicks"),
        ("twice", "warning", "box_double",
         f"have two boxes that are nearly the same (IoU above {MAX_SAME:g})",
         "keep one of them, else an object counts twice"),
        ("other", "warning", "box_class",
         "have boxes, but none of their own class: nothing there can be found",
         "look at the label, and at the class of the boxes"),
        ("whole", "note", "box_whole",
         f"have a box of more than {WHOLE_IMAGE:.0%} of the image",
         "nothing, where objects fill the image; else draw them"),
        ("none", "note", "box_missing", "have no annotated box: not measured",
         "annotate them, if they are to be measured"),
    )  # fmt: skip
    return [
        Finding.of(kind, "warning" if severity == "warning" else "note", names[key], "image",
                   why, remedy, split)
        for key, severity, kind, why, remedy in kinds if names[key]
    ]  # fmt: skip
