"""Rules that choose a threshold for each map, as a fraction of its maximum, without any box.

`auto`, for maps of any method:

    saturated maps   as `size`; where half of the pixels above 0.25 are above 0.75, nearly
    other maps       u = Otsu's threshold of sqrt(v), v the map in [0, 1]
                     t = clip(1.7 u - 0.5, 0.1, 0.4)
    u = (mean of the class below + mean of the class above) / 2, which Otsu's optimum satisfies

`size`, for maps of a localization head, alone or in the mean with another map:

    A = share of the image in the box of the largest component of {v >= 0.5}
    logit t = -2.06 - 0.6 logit A               t in [0.01, 0.45]

Otsu ("A Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 9, 1979) separates
the values into the two classes that differ most. On CAMs this is nearly the best threshold. Maps
like LayerCAM's are a few sharp peaks over values near zero; the peaks are parts of the object, and
the best threshold is far below Otsu's. The root gives low values more weight: between a map with a
broad middle and one with a long tail u changes little, and the line scales this up to the change
that t needs.

A localization head answers with a probability, which is near 0 or near 1 for most pixels: Otsu's
threshold says nothing then. Where the object fills the image its ends (legs, tails) have
probabilities of some hundredths, and a box that is too large loses little, as it cannot be larger
than the image; where the object is small, such values are as often background, and a box that is
too large loses all. So the threshold falls with the size of what is surely the object.

The constants were chosen for the most images correct at IoU 0.5 and 0.7 (GT-known Loc), one rule
for CAM, LayerCAM below the top at one and at several scales and DDT, the other for the heads of
three networks, on half of CUB-30 test, of imagenette and of shapes (`develop`, by hash), as they
are and cropped to objects of all sizes. docs/metrics.md has the results on the other half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32

SLOPE, SHIFT = 1.7, -0.5
MIN_THRESHOLD, MAX_THRESHOLD = 0.1, 0.4

# Of the pixels above LOW, the share above HIGH from which a map is saturated.
LOW, HIGH, SATURATED = 0.25, 0.75, 0.42

CORE = 0.5  # of the maximum: what is surely the object
CORE_SIDE = 128  # pixels of the longer side that the core is measured at, to twice as many
SIZE_SLOPE, SIZE_SHIFT = -0.6, -2.06
MIN_SIZE_THRESHOLD, MAX_SIZE_THRESHOLD = 0.01, 0.45
MIN_AREA = 0.002  # as a share of the image: a smaller core has the threshold of this size


def auto_threshold(scaled: Float32[np.ndarray, "h w"]) -> float:
    """Choose the threshold of a map of any method by the rule `auto`.

    Args:
        scaled: the map at the size of its image, min-max scaled to [0, 1].

    Returns:
        A fraction of the maximum, a multiple of 0.001, as in the curves of the metrics.
    """
    levels = cv2.convertScaleAbs(cv2.sqrt(scaled), alpha=255)
    count = cv2.calcHist([levels], [0], None, [256], [0, 256]).ravel()
    if _is_saturated(count):
        return size_threshold(scaled)
    highest, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # Otsu's optimum is the midpoint of the means of its classes. Where no value lies between the
    # classes all thresholds there are equally good, and OpenCV returns the lowest: take the middle.
    first = int(highest) + 1  # of the upper class
    middle = (_average_levels(count, 0, first) + _average_levels(count, first, 256)) / 2
    return round(min(MAX_THRESHOLD, max(MIN_THRESHOLD, SLOPE * middle + SHIFT)), 3)


def size_threshold(scaled: Float32[np.ndarray, "h w"]) -> float:
    """Choose the threshold of a localization head's map by the rule `size`.

    Args:
        scaled: the map at the size of its image, min-max scaled to [0, 1].

    Returns:
        A fraction of the maximum, a multiple of 0.001, as in the curves of the metrics.
    """
    area = min(1 - MIN_AREA, max(MIN_AREA, _measure_core(scaled)))
    logit = SIZE_SHIFT + SIZE_SLOPE * float(np.log(area / (1 - area)))
    threshold = 1 / (1 + float(np.exp(-logit)))
    return round(min(MAX_SIZE_THRESHOLD, max(MIN_SIZE_THRESHOLD, threshold)), 3)


def _measure_core(scaled: Float32[np.ndarray, "h w"]) -> float:
    """Measure the box of the largest component of the core, as a share of the image."""
    step = max(1, max(scaled.shape) // CORE_SIDE)  # upsampled values change little in a few pixels
    core = (scaled[::step, ::step] >= np.float32(CORE)).view(np.uint8)
    count, _, statistics, _ = cv2.connectedComponentsWithStats(core, connectivity=8)
    if count < 2:
        return 1.0  # a constant map: its box is the image
    largest = statistics[1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())]
    box = int(largest[cv2.CC_STAT_WIDTH]) * int(largest[cv2.CC_STAT_HEIGHT])
    return box / core.size


def _is_saturated(count: Float32[np.ndarray, 256]) -> bool:
    """Return whether most values are near 0 or near 1; `count`: pixels by level of the root."""
    low, high = (round(255 * value**0.5) for value in (LOW, HIGH))
    return bool(count[high:].sum() > SATURATED * count[low:].sum())


def _average_levels(count: Float32[np.ndarray, 256], first: int, end: int) -> float:
    """Average the levels from `first` to before `end`, as a fraction of 255; 0 without pixels."""
    part = count[first:end]
    return float(part @ np.arange(first, first + len(part))) / 255 / max(float(part.sum()), 1.0)
