"""Choose a few items of many, evenly."""

from __future__ import annotations


def spread_evenly(count: int, most: int | None) -> list[int]:
    """Positions of at most so many images, evenly spread."""
    kept = count if most is None else min(most, count)
    return [n * count // kept for n in range(kept)]
