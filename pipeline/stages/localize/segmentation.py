"""Segment shards of maps into shards of boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.engine import runtime, shards
from pipeline.engine.images import SplitImages, segment_map
from pipeline.engine.reuse_boxes import EarlierBoxes
from pipeline.errors import SkippedImage
from pipeline.formats.files import read_json
from pipeline.ops.memory import keep_freed_memory
from pipeline.protocols import Segmenter
from pipeline.results.boxes import pack_boxes
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import Skipped, list_shards
from pipeline.results.thresholds import USED_IOU, threshold_for_image
from pipeline.segmenter.confidence_features import measure_features
from pipeline.types import Boxes, SaliencyMap

Positioned = tuple[int, Boxes]


@dataclass(frozen=True, kw_only=True)
class MapSegmenter:
    """Segments all maps of a split.

    Args:
        images: of the split, for segmenters that need them.
        segmenter: segments all maps.
        thresholds: thresholds.json of stage calibrate; None: the segmenter's threshold is used.
        workers: threads.
        earlier: boxes of the same images that an earlier run segmented; None: there are none.
    """

    images: SplitImages
    segmenter: Segmenter
    thresholds: Mapping[str, Any] | None
    workers: int
    earlier: EarlierBoxes | None = None

    def write(self, maps: Path, folder: Path) -> None:
        """Write a shard of boxes for each shard of maps, unless it exists.

        Args:
            maps: the result of stage explain.
            folder: where the boxes are written.
        """
        keep_freed_memory()
        map_shards, ids = list_shards(maps), self.images.ids
        segmenter_of = self._segmenter_of_image()
        # With images, an item takes milliseconds: workers share the images of a shard. Without, an
        # item is cheaper than its transfer to a thread: workers share the shards.
        outer, inner = (0, self.workers) if self.segmenter.needs_image else (self.workers, 0)

        def segment(item: tuple[int, SaliencyMap]) -> tuple[int, Boxes | SkippedImage]:
            position, saliency = item
            known = None if self.earlier is None else self.earlier.take(saliency, position)
            if known is not None:
                return position, known
            segmenter = segmenter_of(saliency.id)
            boxes = segment_map(self.images, segmenter, position, saliency)
            if isinstance(boxes, SkippedImage):
                return position, boxes
            features = measure_features(saliency, boxes)
            return position, replace(boxes, features=features, probability=saliency.score)

        def segment_shards(numbers: range) -> tuple[list[Positioned], Skipped]:
            items = (item for number in numbers for item in iterate_maps(map_shards[number], ids))
            return _split_skipped(runtime.map_in_threads(segment, items, inner))

        def flow(pieces: Iterator[range]) -> Iterator[tuple[list[Positioned], Skipped]]:
            return runtime.map_in_threads(segment_shards, pieces, outer, self.workers + 1)

        def join(parts: Any) -> tuple[shards.Arrays, Skipped]:
            return pack_boxes(*parts[0])

        source = read_json(maps / "plan.json")
        plan = shards.ShardPlan(
            count=len(map_shards), size=1, piece=1, source=source, unit="shards", reads=(maps,)
        )
        shards.write_shards(folder, "localize", plan, flow, join)

    def _segmenter_of_image(self) -> Callable[[str], Segmenter]:
        """Return a function from an image's id to its segmenter, at the threshold of its half."""
        if self.thresholds is None:
            return lambda _: self.segmenter
        values = self.thresholds["thresholds"][f"{USED_IOU:g}"]
        by_value = {value: self.segmenter.with_threshold(value) for value in values}
        return lambda id: by_value[threshold_for_image(values, id)]


def _split_skipped(
    segmented: Iterator[tuple[int, Boxes | SkippedImage]],
) -> tuple[list[Positioned], Skipped]:
    """Separate boxes from images that could not be read, with the reasons."""
    boxes: list[Positioned] = []
    skipped: Skipped = []
    for position, result in segmented:
        if isinstance(result, SkippedImage):
            skipped.append((position, str(result)))
        else:
            boxes.append((position, result))
    return boxes, skipped
