"""The images of one split, read one by one; and a map segmented with the image it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import SkippedImage
from pipeline.ops.maps import frame_size
from pipeline.protocols import DataSet, Segmenter
from pipeline.types import Boxes, Example, SaliencyMap, Size, Split

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int


@dataclass(frozen=True)
class SplitImages:
    """The images and labels of one split. No boxes: weak supervision is visible in the type.

    Positions are those of the split; what is written of an image is found by its position.
    """

    data: DataSet
    split: Split

    def __len__(self) -> int:
        return len(self.data.ids(self.split))

    @property
    def ids(self) -> Sequence[str]:
        """The name of each image."""
        return self.data.ids(self.split)

    @property
    def labels(self) -> Int[np.ndarray, n]:
        """The class of each image; -1 where it has none."""
        return self.data.labels(self.split)

    @property
    def size(self) -> Size:
        """What images are scaled to for the network, (height, width)."""
        return self.data.size

    @property
    def are_labelled(self) -> bool:
        """Whether the data set has classes at all."""
        return bool(self.data.classes)

    def fingerprint(self) -> str:
        """Return what changes when an image or a label of the split does."""
        return self.data.fingerprint(self.split)

    def read(self, position: int, at: Size | None = None) -> Example | SkippedImage:
        """Return an image scaled to `at`, or as it is; or the reason why it cannot be used."""
        try:
            return self.data.example(self.split, position, at=at)
        except SkippedImage as problem:
            return problem


def read_for_segmenter(
    images: SplitImages, needs_image: int, position: int, saliency: SaliencyMap
) -> Example | SkippedImage:
    """Read an image at the size at which a segmenter takes it: `needs_image` on its longer side."""
    return images.read(position, frame_size(saliency.size, needs_image))


def segment_map(
    images: SplitImages, segmenter: Segmenter, position: int, saliency: SaliencyMap
) -> Boxes | SkippedImage:
    """Segment a map of an image, which is read where the segmenter wants it."""
    if not segmenter.needs_image:
        return segmenter(saliency, None)
    example = read_for_segmenter(images, segmenter.needs_image, position, saliency)
    return example if isinstance(example, SkippedImage) else segmenter(saliency, example)
