"""An array that values are appended to: kept as an array, so that reading it costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Shaped
    from numpy.typing import ArrayLike, DTypeLike


class GrowingArray:
    """Values of one shape and dtype, appended one by one.

    A list would have to be made an array again for the numbers of each class.

    Args:
        dtype: Of the values.
        shape: Of each value; empty: numbers.

    Examples:
        >>> array = GrowingArray(float)
        >>> array.append(0.5)
        >>> array.values
        array([0.5])
    """

    def __init__(self, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> None:
        self._space = np.empty((64, *shape), dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> Shaped[np.ndarray, "n *k"]:
        """Return all values that were appended; they cannot be written to."""
        view = self._space[: self._count]
        view.flags.writeable = False
        return view

    def append(self, value: ArrayLike) -> None:
        """Append a value.

        Args:
            value: Of the shape and dtype of all.
        """
        if self._count == len(self._space):
            self._space = np.concatenate([self._space, np.empty_like(self._space)])
        self._space[self._count] = value
        self._count += 1
