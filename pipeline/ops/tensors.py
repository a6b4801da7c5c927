"""From torch to NumPy."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor's values as an array of the same shape and dtype, contiguous, on the CPU."""
    return np.ascontiguousarray(tensor.detach().cpu().numpy())
