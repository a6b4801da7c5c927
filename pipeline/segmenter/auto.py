"""Auto: the fraction of the maximum to cut a map at, from the map alone, without any box.

    u = Otsu's threshold of sqrt(v), v the map in [0, 1]       t = clip(1.7 u - 0.45, 0.1, 0.45)
    u = (mean of the class below + mean of the class above) / 2, what Otsu's optimum fulfils

Otsu ("A Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 9, 1979) parts the
values into the two classes that differ most. On CAMs that is nearly the best cut; on maps that are
a few sharp peaks on much that is near zero, as LayerCAM's, the peaks are parts of the object, and
what is best lies far below it. The root weighs low values more: between a map with a broad
middle and one with a long tail u moves little in itself, and t, along the line, as much as needed.

The exponent, the line and its bounds were chosen for the most images right at IoU 0.5 (GT-known
Loc), one rule for CAM, positive CAM and LayerCAM, on images that are no part of what is reported:
CUB-30 train, every second image of imagenette, the held-back part of shapes. docs/metrics.md has
what it reaches on the others; those chose no constant, but were in view as the form was sought.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32

SLOPE, SHIFT = 1.7, -0.45
LEAST, MOST = 0.1, 0.45


def auto_threshold(scaled: Float32[np.ndarray, "h w"]) -> float:
    """Of a map in [0, 1]: a multiple of a thousandth, as the curves of the metrics have them."""
    levels = cv2.convertScaleAbs(cv2.sqrt(scaled), alpha=255)
    highest, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    count = cv2.calcHist([levels], [0], None, [256], [0, 256]).ravel()
    # Otsu's optimum lies half way between the means of its classes; where no value lies between
    # them at all it could be anywhere, and half way is the surest.
    first = int(highest) + 1  # of the upper class
    middle = (_mean(count, 0, first) + _mean(count, first, 256)) / 2
    return round(min(MOST, max(LEAST, SLOPE * middle + SHIFT)), 3)


def _mean(count: Float32[np.ndarray, 256], first: int, end: int) -> float:
    """Of the levels from `first` to before `end`, as fractions; 0 where there is no pixel."""
    own = count[first:end]
    return float(own @ np.arange(first, first + len(own))) / 255 / max(float(own.sum()), 1.0)
