"""Choose a few items of many, evenly."""

from __future__ import annotations


def spread_evenly(count: int, most: int | None) -> list[int]:
    """Return positions of at most `most` of `count` items, evenly spread, in order.

    Args:
        count: Number of items.
        most: The most positions to return; None: all.

    Examples:
        >>> spread_evenly(10, 3)
        [0, 3, 6]
    """
    kept = count if most is None else min(most, count)
    return [n * count // kept for n in range(kept)]
