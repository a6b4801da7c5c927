"""Segment annotated images and tell which boxes are right: what confidences are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline.engine import runtime
from pipeline.engine.images import SplitImages, segment_map
from pipeline.errors import SkippedImage
from pipeline.ops.hashing import hash_of
from pipeline.ops.iou import best_iou
from pipeline.protocols import Segmenter
from pipeline.results.confidence import Examples
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.segmenter.confidence import RIGHT_IOU
from pipeline.segmenter.confidence_features import FEATURES, measure_features
from pipeline.types import GroundTruth, SaliencyMap

MAX_EXAMPLES = 300  # images: more change a model of few weights little, and a segmenter takes time

Example = tuple[str, np.ndarray, np.ndarray, bool]
"""Image id, features of its box, the box, and whether it is right."""


def collect_examples(
    images: SplitImages,
    maps: Path,
    truth: Mapping[str, GroundTruth],
    segmenter_of: Callable[[str], Segmenter],
    workers: int,
    source: str,
) -> Examples:
    """Segment annotated images, and compare the best-scored box of each with the annotation.

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
    ids, labels = images.ids, images.labels
    boxed = [id for id in ids if id in truth and len(truth[id].of_label())]
    chosen = set(sorted(boxed, key=lambda id: hash_of(["example", id]))[:MAX_EXAMPLES])

    def compare(item: tuple[int, SaliencyMap]) -> Example | None:
        position, saliency = item
        if saliency.explained != labels[position]:
            return None
        boxes = segment_map(images, segmenter_of(saliency.id), position, saliency)
        if isinstance(boxes, SkippedImage) or not len(boxes.boxes):
            return None
        iou = best_iou(boxes.boxes[0], truth[saliency.id].of_label())
        return saliency.id, measure_features(saliency, boxes)[0], boxes.boxes[0], iou >= RIGHT_IOU

    items: Iterator[tuple[int, SaliencyMap]] = (
        item
        for shard in (list_shards(maps) if chosen else ())
        for item in iterate_maps(shard, ids)
        if item[1].id in chosen
    )
    found = [one for one in runtime.map_in_threads(compare, items, workers) if one is not None]
    return Examples(
        [id for id, _, _, _ in found],
        np.array([row for _, row, _, _ in found], np.float32).reshape(-1, len(FEATURES)),
        np.array([box for _, _, box, _ in found], np.float32).reshape(-1, 4),
        np.array([right for _, _, _, right in found], bool),
        source if found else "",
    )
