"""Learning-rate schedules."""

from __future__ import annotations

import numpy as np


def lr_factor(step: int, steps: int, warmup: int) -> float:
    """Return the factor of the learning rate: linear warm-up, then half a cosine down to 0.

    Args:
        step: The step, counted from 0.
        steps: Number of steps of the training.
        warmup: Number of steps of the warm-up.

    Returns:
        A factor in [0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, done))))
