"""Segment annotated images and tell which boxes are right: what confidences are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.images import SplitImages, segment_map
from pipeline.engine.spread_items import map_items
from pipeline.errors import SkippedImage
from pipeline.ops.hashing import hash_of
from pipeline.ops.iou import best_iou
from pipeline.ops.wilson import wilson_interval
from pipeline.protocols import Segmenter
from pipeline.results.confidence import Examples
from pipeline.results.expectation import PAIRS
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.results.thresholds import MIN_BOXED_IMAGES
from pipeline.segmenter.confidence import RIGHT_IOU
from pipeline.segmenter.confidence_features import FEATURES, measure_features
from pipeline.types import GroundTruth, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32

MAX_EXAMPLES = 300  # images: more change a model of few weights little, and a segmenter takes time

Example = tuple[str, int, np.ndarray, np.ndarray, bool]
"""Image id, class, features of its box, the box, and whether it is right."""


def collect_examples(
    images: SplitImages,
    maps: Path,
    truth: Mapping[str, GroundTruth],
    segmenter_of: Callable[[str], Segmenter],
    workers: int,
    source: str,
) -> Examples:
    """Segment annotated images, and compare the best-scored box of each with the annotation.

    Where an image may have several classes, that is the box of each class that it is labelled with
    and that is annotated there.

    Args:
        images: of the split that the maps are of.
        maps: the result of stage explain.
        truth: annotated boxes by image id; images without any are left out.
        segmenter_of: from an image's id to its segmenter.
        workers: threads.
        source: which boxes these are.

    Returns:
        At most `MAX_EXAMPLES` images, chosen by the hash of their names.
    """
    ids, several = images.ids, images.is_multi_label

    def find_true(position: int, label: int) -> Float32[np.ndarray, "m 4"]:
        known = truth[ids[position]]
        return known.of_class(label) if several else known.of_label()

    boxed = [
        id for n, id in enumerate(ids) if id in truth
        and any(len(find_true(n, label)) for label in images.classes_of(n))
    ]  # fmt: skip
    chosen = set(sorted(boxed, key=lambda id: hash_of(["example", id]))[:MAX_EXAMPLES])

    def compare(item: tuple[int, SaliencyMap]) -> Example | None:
        position, saliency = item
        if saliency.explained not in images.classes_of(position):
            return None
        true = find_true(position, saliency.explained)
        if not len(true):
            return None
        boxes = segment_map(images, segmenter_of(saliency.id), position, saliency)
        if isinstance(boxes, SkippedImage) or not len(boxes.boxes):
            return None
        is_right = best_iou(boxes.boxes[0], true) >= RIGHT_IOU
        features = measure_features(saliency, boxes)[0]
        return saliency.id, saliency.explained, features, boxes.boxes[0], is_right

    items: Iterator[tuple[int, SaliencyMap]] = (
        item
        for shard in (list_shards(maps) if chosen else ())
        for item in iterate_maps(shard, ids)
        if item[1].id in chosen
    )
    compared = map_items(compare, items, workers)
    examples = [example for example in compared if example is not None]
    return Examples(
        [id for id, *_ in examples],
        np.array([row for _, _, row, _, _ in examples], np.float32).reshape(-1, len(FEATURES)),
        np.array([box for *_, box, _ in examples], np.float32).reshape(-1, 4),
        np.array([right for *_, right in examples], bool),
        source if examples else "",
        np.array([label for _, label, *_ in examples], np.int64) if several else None,
    )


def measure_delivered(
    examples: Examples, threshold: Mapping[str, Any], doubtful: Collection[str]
) -> dict[str, Any]:
    """Count the boxes that are right, cut at another threshold than the validation threshold.

    Boxes of the scored images are not counted, as the scores say it of them; nor are those of
    images chosen by doubt, if enough others are left.

    Args:
        examples: the boxes, as stage localize segments them.
        threshold: how they are cut, as metrics.json names it.
        doubtful: names of the images that were chosen by doubt.

    Returns:
        `threshold`; and where there are boxes to count `right` of `n`, `interval` (Wilson's, 95 %),
        `iou`, `source`, and `sample` as the expected accuracy has it.
    """
    cut = {"threshold": dict(threshold)}
    if not len(examples.ids) or examples.source == "two_fold":
        return cut
    is_doubtful = np.array([id in doubtful for id in examples.ids], bool)
    sample, right = "all", examples.right
    if is_doubtful.any():
        sample = "random" if (~is_doubtful).sum() >= MIN_BOXED_IMAGES else "doubt"
        right = right[~is_doubtful] if sample == "random" else right
    count = int(right.sum())
    return {
        **cut,
        "right": count,
        "n": len(right),
        "interval": list(wilson_interval(count, len(right))),
        "iou": RIGHT_IOU,
        "sample": sample,
        "source": examples.source,
        **({} if examples.labels is None else {"unit": PAIRS}),
    }
