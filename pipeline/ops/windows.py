"""Windows in an image in which an object has a given share of the area.

A third of the windows end inside the object at one side, so that it touches an edge of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

CUT_OFF = 1 / 3  # of the windows cut off a part of the object,
CUT_SHARE = (0.05, 0.2)  # of its width or height


def try_window(
    rng: np.random.Generator,
    box: Float[np.ndarray, 4],
    share: float,
    limits: tuple[float, float],
) -> Float[np.ndarray, 4] | None:
    """Try to draw a window in which what is seen of a box has a share of the area.

    Args:
        rng: the generator.
        box: of the object, `xyxy`.
        share: above 0, at most 1.
        limits: width and height of the image, in the unit of the box.

    Returns:
        `xyxy` within the image; None where the window drawn does not fit.
    """
    seen, side = _cut_off(rng, box)
    # A window around the box has the aspect of the box times share to 1 / share.
    stretch = float(np.exp(rng.uniform(-1, 1) * np.log(1 / share)))
    lengths = np.sqrt([stretch, 1 / stretch]) * (seen[2:] - seen[:2]) / np.sqrt(share)
    starts = [
        _place(rng, seen[n], seen[n + 2], lengths[n], limits[n], None if side is None else side - n)
        for n in (0, 1)
    ]
    if starts[0] is None or starts[1] is None:
        return None
    first = np.array(starts, np.float64)
    return np.concatenate((first, first + lengths))


def _cut_off(
    rng: np.random.Generator, box: Float[np.ndarray, 4]
) -> tuple[Float[np.ndarray, 4], int | None]:
    """Cut off a part of the box in some cases.

    Returns:
        What is left, and the side that was cut, 0 to 3 for x0, y0, x1, y1; None where none was.
    """
    seen = np.array(box, np.float64)
    if rng.random() >= CUT_OFF:
        return seen, None
    side = int(rng.integers(4))
    length = seen[side % 2 + 2] - seen[side % 2]
    seen[side] += (1 if side < 2 else -1) * rng.uniform(*CUT_SHARE) * length
    return seen, side


def _place(
    rng: np.random.Generator,
    low: float,
    high: float,
    length: float,
    limit: float,
    cut: int | None,
) -> float | None:
    """Draw where a window begins on an axis; None where it does not fit.

    Args:
        rng: the generator.
        low: where the seen part of the object begins.
        high: where it ends.
        length: of the window.
        limit: the length of the image.
        cut: 0 if the window begins where the seen part does, 2 if it ends there.
    """
    first, last = max(0.0, high - length), min(low, limit - length)
    if cut == 0:
        first = last = low
    if cut == 2:
        first = last = high - length
    if first > last or first < 0 or last + length > limit:
        return None
    return float(rng.uniform(first, last))
