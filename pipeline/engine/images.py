"""Read an image of a split and segment its map."""

from __future__ import annotations

from pipeline.engine import shards
from pipeline.engine.run import Run
from pipeline.errors import SkippedImage
from pipeline.ops.maps import frame_size
from pipeline.protocols import Segmenter
from pipeline.types import Boxes, Example, SaliencyMap


def read_for_segmenter(
    run: Run, segmenter: Segmenter, position: int, saliency: SaliencyMap
) -> Example | SkippedImage:
    """Read an image at the size at which the segmenter takes it."""
    frame = frame_size(saliency.size, segmenter.needs_image)
    return shards.read_image(run, run.split, position, frame)


def segment_map(
    run: Run, segmenter: Segmenter, position: int, saliency: SaliencyMap
) -> Boxes | SkippedImage:
    """Segment a map of an image, which is read where the segmenter wants it."""
    if not segmenter.needs_image:
        return segmenter(saliency, None)
    example = read_for_segmenter(run, segmenter, position, saliency)
    return example if isinstance(example, SkippedImage) else segmenter(saliency, example)
