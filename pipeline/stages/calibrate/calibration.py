"""Choose thresholds by the IoU that maps reach on annotated images.

The boxes are the first of these that exist:

    user       calibrate.boxes=FILE, or boxes of a person in images drawn at random (ingest);
               their images are not scored
    split      those of a split for this purpose, if the data set has it (data.calibration=)
    held_back  those of the held-back part of train, if the data set has boxes there (CUB)
    two_fold   the scored images in two halves by hash: each half has the other half's threshold
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.images import SplitImages, is_multi_label, read_for_segmenter
from pipeline.engine.spread_items import map_items
from pipeline.errors import SkippedImage, UserError
from pipeline.metric.components import threshold_index
from pipeline.metric.max_box_acc import Protocol, map_curves
from pipeline.metric.measurement import refine_map, scale_map
from pipeline.ops.hashing import hash_of
from pipeline.ops.wilson import wilson_interval
from pipeline.protocols import AnnotatedDataSet, DataSet, ReadsDrawnBoxes, RefiningSegmenter
from pipeline.results.expectation import PAIRS
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.results.thresholds import MIN_BOXED_IMAGES, fold_of_image
from pipeline.segmenter.auto import auto_threshold
from pipeline.stages.calibrate.shrinkage import (
    STRENGTH,
    Gains,
    count_folds,
    measure_gains_of_each,
)
from pipeline.types import GroundTruth, HumanBoxes, SaliencyMap, Split

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int

# Splits that are not scored, in order of preference, and their names in metrics.json.
APART: dict[Split, str] = {"calibration": "split", "held_back": "held_back"}
FEW: dict[Split, tuple[str, str]] = {  # a split with too few boxes, and who has its place
    "calibration": ("the split that is to choose the threshold", "others choose it"),
    "held_back": ("the held-back part of train, which is to choose the threshold,",
                  "the scored images choose it, each half of them for the other"),
}  # fmt: skip
DIGIT = 0.01  # pixels: the last digit of boxes in the COCO files that stage localize writes


@dataclass(frozen=True)
class BoxedSplit:
    """Boxes that a threshold can be chosen on, their split, and their source in metrics.json.

    `notes` says what was odd about boxes that the user drew, and which were too few.
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


def read_human_boxes(
    human: Mapping[str, HumanBoxes], data: DataSet, classes: Sequence[str]
) -> BoxedSplit:
    """Return boxes that stage ingest took over from an annotation tool.

    Args:
        human: by image id.
        data: the data set.
        classes: the names of the classes; boxes of others are left out.
    """
    number = {name: n for n, name in enumerate(classes)}
    labels = dict(zip(data.ids("all"), data.labels("all").tolist(), strict=True)) if human else {}
    truth = {}
    for id, image in human.items():
        rows = [n for n, name in enumerate(image.classes) if name in number]
        truth[id] = GroundTruth(
            id,
            labels[id],
            image.size,
            image.boxes[rows],
            np.array([number[image.classes[n]] for n in rows], np.int64),
            is_reviewed=True,
        )
    return BoxedSplit(truth, "all", "user")


def find_boxed_images(data: AnnotatedDataSet) -> BoxedSplit:
    """Find the first split of APART with enough boxes; else use the scored images."""
    notes: list[str] = []
    several = is_multi_label(data)
    for split, source in APART.items():
        truth = data.truth(split)
        if (count := count_boxed(truth, several)) >= MIN_BOXED_IMAGES:
            return BoxedSplit(truth, split, source, notes)
        if count:
            who, others = FEW[split]
            notes.append(
                f"calibrate: {who} has {count} of the {MIN_BOXED_IMAGES} images with boxes that "
                f"this takes: not used; {others}"
            )
    return BoxedSplit(data.truth("val"), "val", "two_fold", notes)


def count_boxed(truth: Mapping[str, GroundTruth], is_multi_label: bool = False) -> int:
    """Count the images that have a box of their class; of any, where they may have several.

    Args:
        truth: the annotations by image id.
        is_multi_label: whether an image may have several classes.
    """
    if not is_multi_label:
        return sum(len(known.of_label()) > 0 for known in truth.values())
    boxed = {id: known for id, known in truth.items() if len(known.boxes)}
    return sum(
        known.classes is None or bool((known.classes >= 0).any()) for known in boxed.values()
    )


@dataclass(frozen=True)
class MeasuredImage:
    """The map of an image with boxes, measured.

    Attributes:
        iou: of the largest component at each of `THRESHOLDS`.
        auto: the threshold that the rule without boxes chooses for the map.
        chosen_by_doubt: whether the image was annotated because its box was doubtful.
        is_own_prediction: whether an annotated box is one that this map gives, to the last digit.
        others: where an image may have several classes: the same of the maps of its others.
    """

    iou: Float64[np.ndarray, 1000]
    auto: float
    chosen_by_doubt: bool = False
    is_own_prediction: bool = False
    others: tuple[MeasuredImage, ...] = ()

    def join(self, other: MeasuredImage) -> MeasuredImage:
        """Return this with what was measured of the map of another class of the image."""
        is_own = self.is_own_prediction or other.is_own_prediction
        return replace(self, is_own_prediction=is_own, others=(*self.others, other))


def measure_maps(
    images: SplitImages,
    maps: Path,
    truth: Mapping[str, GroundTruth],
    protocol: Protocol,
    workers: int,
    refining: RefiningSegmenter | None = None,
) -> dict[str, MeasuredImage]:
    """Measure the IoU of the largest component at each of `THRESHOLDS`.

    Args:
        images: of the split that the maps are of.
        maps: the result of stage explain.
        truth: annotated boxes by image id; images without any are left out.
        protocol: how maps are measured.
        workers: threads.
        refining: measure the maps as this segmenter refines them; None: the maps themselves.

    Returns:
        What was measured, by image id.
    """
    ids = images.ids

    def measure(item: tuple[int, SaliencyMap]) -> tuple[str, MeasuredImage | None]:
        position, saliency = item
        known = truth[saliency.id]
        is_labelled = saliency.explained in images.classes_of(position)
        boxes = known.of_class(saliency.explained)
        if not is_labelled or not len(boxes):
            return saliency.id, None
        if refining is None:
            scaled: np.ndarray = scale_map(saliency.raw(), saliency.size, protocol)
        else:
            example = read_for_segmenter(images, refining.needs_image, position, saliency)
            if isinstance(example, SkippedImage):
                return saliency.id, None
            scaled = refine_map(refining, saliency, example, protocol)
        return saliency.id, measure_map(scaled, known, boxes, protocol)

    items: Iterator[tuple[int, SaliencyMap]] = (
        item
        for shard in (list_shards(maps) if truth else ())
        for item in iterate_maps(shard, ids)
        if item[1].id in truth
    )
    measured = map_items(measure, items, workers)
    result: dict[str, MeasuredImage] = {}
    for id, image in measured:
        if image is not None:
            result[id] = result[id].join(image) if id in result else image
    return result


def measure_map(
    scaled: Float[np.ndarray, "h w"],
    known: GroundTruth,
    boxes: Float32[np.ndarray, "m 4"],
    protocol: Protocol,
) -> MeasuredImage:
    """Measure a map against the boxes of its class.

    Args:
        scaled: the map in [0, 1], as it is measured.
        known: the annotations of the image.
        boxes: those of the class.
        protocol: how maps are measured.
    """
    curves = map_curves(scaled, boxes, known.size, protocol)
    return MeasuredImage(
        curves.largest,
        auto_threshold(np.asarray(scaled, np.float32)),
        known.chosen_by_doubt,
        not known.is_reviewed and bool(find_written_boxes(boxes, curves.boxes).any()),
    )


def find_written_boxes(
    boxes: Float32[np.ndarray, "m 4"], written: Float32[np.ndarray, "t 4"]
) -> Bool[np.ndarray, m]:
    """Find the boxes that equal one that was written, to the last digit of the COCO file.

    Boxes in whole pixels are not compared: a person can draw the same one.

    Args:
        boxes: annotated, xyxy in pixels.
        written: what this program would write, xyxy in pixels.
    """
    has_digits = (np.abs(boxes - np.round(boxes)) > DIGIT / 2).any(1)
    same = (np.abs(boxes[:, None] - written) < 1.1 * DIGIT).all(2).any(1)
    return np.asarray(has_digits & same)


def choose_thresholds(
    measured: Mapping[str, MeasuredImage], ious: Sequence[float], source: str
) -> dict[str, Any]:
    """Choose the thresholds with the highest expected localization accuracy (shrinkage.py).

    Args:
        measured: what was measured, by image id.
        ious: From which IoU on a box counts as right; a threshold is chosen for each.
        source: Of the boxes: user, split, held_back or two_fold.

    Returns:
        The contents of thresholds.json: for each IoU a list of a single threshold, or of one for
        each half; `source` is None where there are too few images.
    """
    if len(measured) < MIN_BOXED_IMAGES:
        return {"source": None, "n": len(measured), "images": [], "thresholds": {},
                "elsewhere": {}}  # fmt: skip
    pairs = [(id, each) for id, image in measured.items() for each in (image, *image.others)]
    ids, images = [id for id, _ in pairs], [image for _, image in pairs]
    rows = np.stack([image.iou for image in images])
    prior = round(float(np.median([image.auto for image in images])), 3)
    doubtful = np.array([image.chosen_by_doubt for image in images])
    fold_of = dict(zip(measured, divide_into_folds(list(measured)).tolist(), strict=True))
    halves, folds = (np.array([of[id] for id in ids]) for of in (_list_halves(measured), fold_of))
    thresholds, elsewhere, expected = {}, {}, {}
    foldings = [folds, halves] if source == "two_fold" else [folds]
    for iou in ious:
        gains, *by_half = measure_gains_of_each(rows, iou, prior, foldings)
        name = f"{iou:g}"
        elsewhere[name] = gains.choose()
        thresholds[name] = [elsewhere[name]]
        # Each half has the threshold that is best for the other; other images, that for both.
        for of_halves in by_half:
            thresholds[name] = [of_halves.choose(without=half) for half in (0, 1)]
        expected[name] = expected_accuracy(rows, iou, gains, folds, doubtful)
        if len(pairs) > len(measured):
            expected[name]["unit"] = PAIRS
    return {
        "source": source,
        "n": len(measured),
        # Images on which the threshold was chosen are not scored with it.
        "images": list(measured) if source == "user" else [],
        "thresholds": thresholds,
        # For an image that is in neither half.
        "elsewhere": elsewhere,
        "prior": {"rule": "auto", "threshold": prior, "strength": STRENGTH},
        "expected": expected,
    }


def _list_halves(ids: Iterable[str]) -> dict[str, int]:
    return {id: fold_of_image(id) for id in ids}


def divide_into_folds(ids: Sequence[str]) -> Int[np.ndarray, n]:
    """Divide images into equal folds, which depend on their names alone.

    Args:
        ids: names of the images.

    Returns:
        The fold of each image.
    """
    order = sorted(range(len(ids)), key=lambda n: hash_of(["expected", ids[n]]))
    folds = np.empty(len(ids), int)
    folds[order] = np.arange(len(ids)) % count_folds(len(ids))
    return folds


def expected_accuracy(
    rows: Float64[np.ndarray, "n T"],
    iou: float,
    gains: Gains,
    folds: Int[np.ndarray, n],
    doubtful: Bool[np.ndarray, n],
) -> dict[str, Any]:
    """Estimate the accuracy on other images by cross-fitting.

    Each fold is measured at the threshold that the other folds choose. Images chosen by doubt are
    harder than others: they are not counted if enough others are left.

    Args:
        rows: IoU at each of `THRESHOLDS`, an image each.
        iou: from which IoU on a box counts as right.
        gains: of these images over the prior.
        folds: the fold of each image.
        doubtful: which images were chosen by doubt.

    Returns:
        `value`, `interval` (Wilson's, 95 %), `n`, and `sample`: `all` images, the `random` ones
        alone, or with those chosen by `doubt`, of which the value then says too little.
    """
    at = [threshold_index(gains.choose(without=fold)) for fold in range(len(gains.count))]
    correct = rows[np.arange(len(rows)), np.array(at)[folds]] >= iou
    sample = "all"
    if doubtful.any():
        sample = "random" if (~doubtful).sum() >= MIN_BOXED_IMAGES else "doubt"
    counted = correct[~doubtful] if sample == "random" else correct
    return {
        "value": float(counted.mean()),
        "interval": list(wilson_interval(int(counted.sum()), len(counted))),
        "n": len(counted),
        "sample": sample,
    }
