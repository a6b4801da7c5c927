"""How a map is brought to where it is measured: this project's way, or that of wsolevaluation.

`protocol=default`: at the size at which it is cut (`segmenter.frame`). `protocol=wsolevaluation`:
at 224x224 in float64, where that evaluator's habits hold (`metric.components`). Either way it is
upsampled, then min-max scaled to [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.metric.baselines import pyramid
from pipeline.metric.max_box_acc import Protocol, map_curves
from pipeline.ops.maps import LONGER_SIDE, frame_size, upsample
from pipeline.protocols import RefiningSegmenter
from pipeline.types import Curves, Example, Rle, SaliencyMap, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Float32, UInt8

FRAME: Size = (224, 224)  # of wsolevaluation
FIXED_THRESHOLD = (
    0.2  # of the maximum, told where the boxes are cut elsewhere: Zhou et al., CVPR 2016
)
IGNORE = 255


def choose_frame(size: Size, protocol: Protocol, longer_side: int = LONGER_SIDE) -> Size:
    """Return the size at which maps of an image of `size` are measured.

    With protocol=default it has at most `longer_side` pixels on the longer side.
    """
    return FRAME if protocol == "wsolevaluation" else frame_size(size, longer_side)


def scale_map(
    raw: Float32[np.ndarray, "h w"], size: Size, protocol: Protocol
) -> Float[np.ndarray, "H W"]:
    """Bring a map to [0, 1] over the image of `size`, at the resolution it is measured at."""
    scaled = upsample(raw, choose_frame(size, protocol))
    return np.asarray(scaled, np.float64) if protocol == "wsolevaluation" else scaled


def refine_map(
    segmenter: RefiningSegmenter, saliency: SaliencyMap, example: Example, protocol: Protocol
) -> Float[np.ndarray, "H W"]:
    """Return the map that the segmenter makes of map and image before it segments it, as measured.

    `example` is the image at the size that `frame_size(saliency.size, segmenter.needs_image)`
    gives.
    """
    values, _ = segmenter.refined(saliency, example)
    return scale_map(values, saliency.size, protocol)


def pyramid_curves(true: Float[np.ndarray, "M 4"], size: Size, protocol: Protocol) -> Curves:
    """Of the centred pyramid, the map that does not depend on the image."""
    # A pyramid has no detail: 64 pixels are as good as more.
    return map_curves(pyramid(choose_frame(size, protocol, 64)), true, size, protocol)


def merge_masks(
    objects: Sequence[Rle], ignore: Sequence[Rle], frame: Size
) -> UInt8[np.ndarray, "h w"]:
    """Bring a mask to `frame`, by the nearest pixel.

    It is 1 where an object is, 255 where nothing counts (and no object is), else 0.
    """
    from pycocotools import mask as coco_mask

    def merged(masks: Sequence[Rle]) -> UInt8[np.ndarray, "h w"]:
        whole = coco_mask.decode(coco_mask.merge(list(masks)))
        return np.asarray(cv2.resize(whole, frame[::-1], interpolation=cv2.INTER_NEAREST))

    answer = merged(objects)
    if ignore:
        answer[(merged(ignore) == 1) & (answer == 0)] = IGNORE
    return answer
