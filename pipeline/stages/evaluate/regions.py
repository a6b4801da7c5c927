"""The annotated masks and regions of an image that are of its own class."""

from __future__ import annotations

from pipeline.metric.coco_records import crowd_masks
from pipeline.types import GroundTruth, Rle


def own_masks(known: GroundTruth) -> list[Rle]:
    """Return the masks of the objects of the image's own class."""
    masks = known.masks or ()
    if known.classes is None:
        return list(masks)
    return [mask for mask, c in zip(masks, known.classes, strict=False) if c == known.label]


def ignored_regions(known: GroundTruth) -> list[Rle]:
    """Return the regions that are neither object of the image's own class nor background."""
    void = [] if known.void is None else [known.void]
    if known.crowds is None:
        return void
    classes = known.crowds.classes
    return void + [
        mask
        for n, mask in enumerate(crowd_masks(known))
        if classes is None or classes[n] == known.label
    ]
