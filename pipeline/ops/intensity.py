"""Intensity ranges of images of more than 8 bits, and their values scaled to 0 to 255.

The range is the 0.5 and 99.5 percentiles of the values that are measurements. Values that stand for
no measurement are no part of it: NaN and infinity, numbers that tools write where nothing was
measured (-9999, -32768), and the extreme of the type where no other value is near it. The greatest
value of an unsigned type is what a saturated pixel has: no part of the range either, and white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Shaped, UInt8

IntensityRange = tuple[float, float]
"""The value that becomes 0, and the value that becomes 255."""
NumberKind = Literal["integer", "float"]
"""Integers and floats have ranges of their own: a float is often an integer divided by its most."""

PERCENTILES = (0.5, 99.5)
# What tools write where nothing was measured: GDAL, SRTM, MODIS, thermal cameras.
SENTINELS = (-999.0, -9999.0, -99999.0, -32767.0, -32768.0, -28672.0)
LARGEST_MEASUREMENT = 1e30  # floats beyond it are fill values, as -3.4e38 of GDAL
# A sentinel or an extreme is no measurement where the gap to the next value is more than this many
# times the range of the others.
SENTINEL_GAP, EXTREME_GAP = 0.1, 1.0
# Where the values cover this much of 0 to 1, 255 or 65535, that is the range: a photograph that
# somebody saved with 16 bits looks as it did with 8.
WHOLE_SCALE = 0.9
SATURATED = (2.0**16 - 1, 2.0**32 - 1)  # the greatest values of unsigned types
STRIP = 256  # rows that are scaled at a time, which bounds the memory


@dataclass(frozen=True)
class IntensityRanges:
    """The ranges that images of more than 8 bits are scaled from.

    Attributes:
        ranges: By kind of number; a kind that is absent is scaled by the range of each image.
        no_data: Values that stand for no measurement, besides NaN and infinity; they become 0.
    """

    ranges: Mapping[NumberKind, IntensityRange] = field(default_factory=dict)
    no_data: tuple[float, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return ranges and values without a measurement as JSON has them; empty for no range."""
        if not self.ranges:
            return {}
        ranges = {kind: list(self.ranges[kind]) for kind in sorted(self.ranges)}
        return {"range": ranges, "no_data": list(self.no_data)}


def number_kind(values: Shaped[np.ndarray, "..."]) -> NumberKind:
    """Return the kind of an array's numbers."""
    return "float" if values.dtype.kind == "f" else "integer"


def measured(
    values: Shaped[np.ndarray, "..."], no_data: Sequence[float]
) -> Bool[np.ndarray, "..."]:
    """Return where an array holds measurements.

    Args:
        values: Integers or floats.
        no_data: Values that stand for none.
    """
    valid: np.ndarray = np.isfinite(values)
    for value in no_data:
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):  # a number with 64 bits, of values with 32
                valid &= values != values.dtype.type(value)
        else:
            valid &= values != value
    return valid


def find_isolated(values: Shaped[np.ndarray, n], extremes: Sequence[float]) -> list[float]:
    """Return the values at either end that are no part of the range.

    They stand for no measurement, but for those of `SATURATED`.

    Args:
        values: Finite.
        extremes: Numbers at the ends of the type that may stand for no measurement.

    Examples:
        >>> find_isolated(np.array([-9999, 20, 21, 30, 65535]), (0, 65535))
        [65535.0, -9999.0]
        >>> find_isolated(np.array([20, 30000, 60000, 65535]), (0, 65535))
        []
    """
    isolated: list[float] = []
    rest = np.unique(values).astype(np.float64)
    ends = {0, -1}
    while ends and len(rest) > 1:
        for end in sorted(ends):
            value, others = rest[end], np.delete(rest, end)
            if _is_isolated(value, others, extremes):
                isolated.append(float(value))
                rest, ends = others, {0, -1}
                break
            ends = ends - {end}
    return isolated


def find_no_data(isolated: Sequence[float]) -> list[float]:
    """Return those of some isolated values that stand for no measurement; the rest is saturated.

    Args:
        isolated: What `find_isolated` returned.

    Examples:
        >>> find_no_data([65535.0, -9999.0])
        [-9999.0]
    """
    return [value for value in isolated if value not in SATURATED]


def _is_isolated(value: float, others: Shaped[np.ndarray, n], extremes: Sequence[float]) -> bool:
    """Return whether a value that tools write for no measurement lies far from all others."""
    if abs(value) >= LARGEST_MEASUREMENT:
        return True
    if value not in SENTINELS and value not in extremes:
        return False
    gap = abs(others - value).min()
    spread = others[-1] - others[0]
    if value in SENTINELS or value < 0:
        return bool(gap > SENTINEL_GAP * spread)
    return bool(gap > EXTREME_GAP * spread > 0)


def robust_range(values: Shaped[np.ndarray, n], kind: NumberKind) -> IntensityRange:
    """Return the range of measurements: percentiles, or the whole scale where they cover it.

    Args:
        values: Measurements alone; may be empty.
        kind: What they were stored as.

    Examples:
        >>> robust_range(np.arange(400, 3500), "integer")
        (415.0, 3484.0)
        >>> robust_range(np.arange(0, 65000), "integer")
        (0.0, 65535.0)
        >>> robust_range(np.array([7, 7, 7]), "integer")
        (7.0, 8.0)
    """
    if not len(values):
        return 0.0, 1.0
    least, greatest = float(values.min()), float(values.max())
    low, high = (float(value) for value in np.percentile(values.astype(np.float64), PERCENTILES))
    for scale in (255.0, 65535.0) if kind == "integer" else (1.0, 255.0):
        if least >= 0 and greatest <= scale and high - low >= WHOLE_SCALE * scale:
            return 0.0, scale
    if high <= low:  # nearly all values are equal
        low, high = least, greatest
    if kind == "integer":
        low, high = float(np.floor(low)), float(np.ceil(high))
    return (low, high) if high > low else (low, low + 1.0)


def scale_to_bytes(
    values: Shaped[np.ndarray, "H W *channels"],
    between: IntensityRange,
    no_data: Sequence[float] = (),
) -> UInt8[np.ndarray, "H W *channels"]:
    """Scale values to 0 to 255; what is beyond the range is clipped.

    Args:
        values: Integers or floats.
        between: What becomes 0, and what becomes 255.
        no_data: Values that become 0, besides NaN and infinity.
    """
    if values.dtype.kind in "ui" and values.dtype.itemsize == 2 and values.size > 1 << 16:
        info = np.iinfo(values.dtype)  # a table of all values is many times faster
        table = _scale_strip(np.arange(info.min, info.max + 1), between, no_data)
        return table[values.astype(np.int32) - info.min]
    scaled = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), STRIP):
        scaled[top : top + STRIP] = _scale_strip(values[top : top + STRIP], between, no_data)
    return scaled


def _scale_strip(
    values: Shaped[np.ndarray, "..."], between: IntensityRange, no_data: Sequence[float]
) -> UInt8[np.ndarray, "..."]:
    low, high = between
    valid = measured(values, no_data)
    # 256 bins of equal width: 0 to 65535 gives the upper byte, 0 to 255 gives the value itself.
    share = (np.where(valid, values, low).astype(np.float64) - low) / (high - low)
    return np.clip(share * 256, 0, 255).astype(np.uint8)
