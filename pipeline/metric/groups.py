"""The groups of images that a metric is also reported for: by class, object size and number.

Every accumulator keeps images in the order in which they were added and takes a boolean subset of
them in `compute(select=..., label=...)`; the evaluator makes these subsets from the groups' names.

Size is the share of the image that its largest true box covers: it is the box that is easiest to
find, and GT-known Loc asks for any one. `small` < 0.1, `medium` < 0.4, `large` from there. COCO's
32 and 96 pixels would call nearly every image of this field large: an object of ILSVRC's
localization task covers 0.36 of its image on average (Russakovsky et al., "ImageNet Large Scale
Visual Recognition Challenge", IJCV 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

    from pipeline.types import Size

SMALL, LARGE = 0.1, 0.4


def relative_area(boxes: Float[np.ndarray, "M 4"], size: Size) -> float:
    """Return the share of the image that the largest box covers; 0 without boxes."""
    if len(boxes) == 0:
        return 0.0
    boxes = np.asarray(boxes, np.float64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return float(areas.max() / (size[0] * size[1]))


def size_group(boxes: Float[np.ndarray, "M 4"], size: Size) -> str:
    """Return the group of an image by the area of its boxes relative to the image."""
    area = relative_area(boxes, size)
    return "small" if area < SMALL else "medium" if area < LARGE else "large"


def number_group(boxes: Float[np.ndarray, "M 4"]) -> str:
    """Return the group of an image by its number of boxes."""
    return {0: "no objects", 1: "1 object", 2: "2 objects"}.get(len(boxes), "3+ objects")


SIZES = ("small", "medium", "large")
NUMBERS = ("1 object", "2 objects", "3+ objects")
