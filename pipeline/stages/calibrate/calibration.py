"""Choose thresholds by the IoU that maps reach on annotated images.

The boxes are the first of these that exist:

    user       calibrate.boxes=FILE: a few boxes drawn by the user; their images are not scored
    split      those of a split for this purpose, if the data set has it (data.calibration=)
    held_back  those of the held-back part of train, if the data set has boxes there (CUB)
    two_fold   the scored images in two halves by hash: each half has the other half's threshold
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

# Splits that are not scored, in order of preference, and their names in metrics.json.
APART: dict[Split, str] = {"calibration": "split", "held_back": "held_back"}


@dataclass(frozen=True)
class BoxedSplit:
    """Boxes that a threshold can be chosen on, their split, and their source in metrics.json.

    `notes` says what was odd about boxes that the user drew.
    """

    truth: Mapping[str, GroundTruth]
    split: Split
    source: str
    notes: Sequence[str] = ()


def read_drawn_boxes(data: DataSet, file: Path) -> BoxedSplit:
    """Read the boxes that the user drew on a few images.

    Args:
        data: The data set.
        file: COCO JSON.

    Raises:
        UserError: The data set takes no drawn boxes, or the file does not exist or is not valid.
    """
    if not isinstance(data, ReadsDrawnBoxes):
        raise UserError("calibrate.boxes: boxes that you draw are for data=folder")
    if not file.is_file():
        raise UserError(f"calibrate.boxes={file}: no such file; expected COCO JSON")
    return BoxedSplit(data.drawn(file), "all", "user", data.drawn_notes(file))


def find_boxed_images(data: AnnotatedDataSet) -> BoxedSplit:
    """Find the first split of APART with enough boxes; else use the scored images."""
    for split, source in APART.items():
        truth = data.truth(split)
        if count_boxed(truth) >= MIN_BOXED_IMAGES:
            return BoxedSplit(truth, split, source)
    return BoxedSplit(data.truth("val"), "val", "two_fold")


def count_boxed(truth: Mapping[str, GroundTruth]) -> int:
    """Count the images that have a box of their class."""
    return sum(len(known.of_label()) > 0 for known in truth.values())


def measure_maps(
    images: SplitImages,
    maps: Path,
    truth: Mapping[str, GroundTruth],
    protocol: Protocol,
    workers: int,
    refining: RefiningSegmenter | None = None,
) -> dict[str, np.ndarray]:
    """Measure the IoU of the largest component at each of `THRESHOLDS`.

    Args:
        images: of the split that the maps are of.
        maps: the result of stage explain.
        truth: annotated boxes by image id; images without any are left out.
        protocol: how maps are measured.
        workers: threads.
        refining: measure the maps as this segmenter refines them; None: the maps themselves.

    Returns:
        IoU by image id, float64 [1000].
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
    """Choose the thresholds with the highest localization accuracy.

    Args:
        measured: IoU at each of `THRESHOLDS` [1000], by image id.
        ious: From which IoU on a box counts as right; a threshold is chosen for each.
        source: Of the boxes: user, split, held_back or two_fold.

    Returns:
        The contents of thresholds.json: for each IoU a list of a single threshold, or of one for
        each half; `source` is None where there are too few images.
    """
    ids = list(measured)
    if len(ids) < MIN_BOXED_IMAGES:
        return {"source": None, "n": len(ids), "images": [], "thresholds": {},
                "elsewhere": {}}  # fmt: skip
    rows = np.stack([measured[id] for id in ids])
    half = np.array([fold_of_image(id) for id in ids])
    elsewhere = {f"{iou:g}": validation_threshold((rows >= iou).mean(0)) for iou in ious}
    # Each half has the threshold that is best for the other; other images, that for both halves.
    thresholds = {iou: [value] for iou, value in elsewhere.items()}
    if source == "two_fold":
        thresholds = {
            f"{iou:g}": two_fold_thresholds([(rows[half == n] >= iou).mean(0) for n in (0, 1)])
            for iou in ious
        }
    return {
        "source": source,
        "n": len(ids),
        # Images on which the threshold was chosen are not scored with it.
        "images": ids if source == "user" else [],
        "thresholds": thresholds,
        # For an image that is in neither half.
        "elsewhere": elsewhere,
        "expected": expected_accuracy(rows, half, ious) if source == "user" else None,
    }


def expected_accuracy(rows: np.ndarray, half: np.ndarray, ious: Iterable[float]) -> dict[str, Any]:
    """Estimate the accuracy on other images: each half is measured at the other half's threshold.

    Args:
        rows: IoU at each of `THRESHOLDS` [n, 1000].
        half: 0 or 1 for each image [n].
        ious: From which IoU on a box counts as right.
    """
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
