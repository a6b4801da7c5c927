"""An annotated image without a usable map as evidence: not found, at every threshold.

`missing=skip` leaves such images out. The readings are those that cannot raise a number: the IoU is
0, the pointing game a miss, and of the pixels all are called background, whatever the threshold.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.metric.baselines import pyramid
from pipeline.metric.components import THRESHOLDS
from pipeline.metric.measurement import pyramid_curves
from pipeline.metric.pxap import BINS, histograms
from pipeline.stages.evaluate.maps import MapScale
from pipeline.types import Curves, Size

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

Missing = Literal["not_found", "skip"]
"""What an annotated image without a usable map counts as; `missing=` of the configuration."""

NOTHING_FOUND = Curves(
    np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS)), np.zeros((len(THRESHOLDS), 4), np.float32)
)
MISS = (math.inf, 0.0)  # of the pointing games: distance of the peak, energy inside the objects


def boxes_not_found(true: Float[np.ndarray, "M 4"], size: Size, scale: MapScale) -> dict[str, Any]:
    """Return the fields of Evidence of an image with annotated boxes."""
    return {
        "iou": 0.0,
        "cuts": (0.0,) * len(scale.cuts),
        "curves": NOTHING_FOUND,
        "pyramid": pyramid_curves(true, size, scale.protocol),
        "pointing": MISS,
    }


def pixels_not_found(mask: UInt8[np.ndarray, "h w"]) -> dict[str, Any]:
    """Return the fields of Evidence that PxAP needs; `mask`: at the size that maps have there."""
    return {
        "pixels": np.zeros((2, len(BINS)), np.int64),
        "missed_pixels": int((mask == 1).sum()),
        "pyramid_pixels": histograms(pyramid((mask.shape[0], mask.shape[1])), mask),
    }
