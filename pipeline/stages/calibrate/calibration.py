"""Thresholds chosen on the IoU that maps reach on annotated images.

Which boxes, the first that there are:

    user       calibrate.boxes=FILE: a few that somebody drew; those images are then not scored
    split      of a split that is there for this, where the data set has one (data.calibration=)
    held_back  of the part of train that is held back, where the data set has boxes there (CUB)
    two_fold   the scored images in two halves by hash: each half is cut at the other's threshold
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine import runtime
from pipeline.engine.images import SplitImages, read_for_segmenter
from pipeline.errors import SkippedImage, UserError
from pipeline.metric.components import THRESHOLDS
from pipeline.metric.max_box_acc import (
    Protocol,
    map_curves,
    two_fold_thresholds,
    validation_threshold,
)
from pipeline.metric.measurement import refine_map, scale_map
from pipeline.protocols import AnnotatedDataSet, DataSet, ReadsDrawnBoxes, RefiningSegmenter
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.results.thresholds import MIN_BOXED_IMAGES, fold_of_image
from pipeline.types import GroundTruth, SaliencyMap, Split

# Splits that are not scored, and what metrics.json calls them; the first with boxes enough.
APART: dict[Split, str] = {"calibration": "split", "held_back": "held_back"}


@dataclass(frozen=True)
class BoxedSplit:
    """Boxes that a threshold can be chosen on, the split that they are of, and what they are."""

    truth: Mapping[str, GroundTruth]
    split: Split
    source: str


def read_drawn_boxes(data: DataSet, file: Path) -> BoxedSplit:
    """Read the boxes that somebody drew on a few images.

    Raises:
        UserError: where the data set takes none, or the file is not there or cannot be read.
    """
    if not isinstance(data, ReadsDrawnBoxes):
        raise UserError("calibrate.boxes: boxes that you draw are for data=folder")
    if not file.is_file():
        raise UserError(f"calibrate.boxes={file}: no such file; expected COCO JSON")
    return BoxedSplit(data.drawn(file), "all", "user")


def find_boxed_images(data: AnnotatedDataSet) -> BoxedSplit:
    """Return the first split apart with boxes enough; the scored images where there is none."""
    for split, source in APART.items():
        truth = data.truth(split)
        if count_boxed(truth) >= MIN_BOXED_IMAGES:
            return BoxedSplit(truth, split, source)
    return BoxedSplit(data.truth("val"), "val", "two_fold")


def count_boxed(truth: Mapping[str, GroundTruth]) -> int:
    """Return how many images have a box of their own class."""
    return sum(len(known.of_label()) > 0 for known in truth.values())


def measure_maps(
    images: SplitImages,
    maps: Path,
    truth: Mapping[str, GroundTruth],
    protocol: Protocol,
    workers: int,
    refining: RefiningSegmenter | None = None,
) -> dict[str, np.ndarray]:
    """Return the IoU of the largest component at each of `THRESHOLDS`, float64 [1000], by image id.

    Args:
        images: of the split that the maps are of.
        maps: the result of stage explain.
        truth: annotated boxes by image id; images without any are left out.
        protocol: how maps are measured.
        workers: threads.
        refining: measure the maps as this segmenter refines them; None: the maps themselves.
    """
    ids, labels = images.ids, images.labels

    def measure(item: tuple[int, SaliencyMap]) -> tuple[str, np.ndarray | None]:
        position, saliency = item
        known = truth.get(saliency.id)
        if known is None or saliency.explained != labels[position] or not len(known.of_label()):
            return saliency.id, None
        if refining is None:
            scaled: np.ndarray = scale_map(saliency.raw(), saliency.size, protocol)
        else:
            example = read_for_segmenter(images, refining.needs_image, position, saliency)
            if isinstance(example, SkippedImage):
                return saliency.id, None
            scaled = refine_map(refining, saliency, example, protocol)
        return saliency.id, map_curves(scaled, known.of_label(), saliency.size, protocol).largest

    items: Iterator[tuple[int, SaliencyMap]] = (
        item for shard in list_shards(maps) for item in iterate_maps(shard, ids)
    )
    measured = runtime.map_in_threads(measure, items, workers)
    return {id: iou for id, iou in measured if iou is not None}


def choose_thresholds(
    measured: Mapping[str, np.ndarray], ious: Sequence[float], source: str
) -> dict[str, Any]:
    """Return thresholds.json: for each IoU the value, or one for each half; and the images."""
    ids = list(measured)
    if len(ids) < MIN_BOXED_IMAGES:
        return {"source": None, "n": len(ids), "images": [], "thresholds": {},
                "elsewhere": {}}  # fmt: skip
    rows = np.stack([measured[id] for id in ids])
    half = np.array([fold_of_image(id) for id in ids])
    elsewhere = {f"{iou:g}": validation_threshold((rows >= iou).mean(0)) for iou in ious}
    # Each half is cut at what is best for the other; all others at what is best for these.
    thresholds = {iou: [value] for iou, value in elsewhere.items()}
    if source == "two_fold":
        thresholds = {
            f"{iou:g}": two_fold_thresholds([(rows[half == n] >= iou).mean(0) for n in (0, 1)])
            for iou in ious
        }
    return {
        "source": source,
        "n": len(ids),
        # Images that chose the threshold for all are not to be scored with it.
        "images": ids if source == "user" else [],
        "thresholds": thresholds,
        # For an image that is in neither half.
        "elsewhere": elsewhere,
        "expected": expected_accuracy(rows, half, ious) if source == "user" else None,
    }


def expected_accuracy(rows: np.ndarray, half: np.ndarray, ious: Iterable[float]) -> dict[str, Any]:
    """Return the accuracy to expect on the rest: of these images, each half at the other's
    threshold."""
    from pipeline.ops.bootstrap import interval

    expected = {}
    for iou in ious:
        correct = np.zeros(len(rows))
        for fold in (0, 1):
            other = (rows[half != fold] >= iou).mean(0)
            at = int(np.searchsorted(THRESHOLDS, validation_threshold(other) - 1e-9))
            correct[half == fold] = rows[half == fold, at] >= iou
        expected[f"{iou:g}"] = {"value": float(correct.mean()), "interval": list(interval(correct))}
    return expected
