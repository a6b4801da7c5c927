"""Wilson's interval of a share, which holds for few images, too.

    centre = (p + z^2 / 2n) / (1 + z^2 / n)
    half   = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)        z = 1.96 for 95 %

Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
"""

from __future__ import annotations

import math

Z = 1.96  # 95 %


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share.

    Args:
        count: how many of `total` it is.
        total: at least 1.

    Returns:
        Lower and upper end, within 0 and 1.

    Examples:
        >>> [round(end, 3) for end in wilson_interval(8, 10)]
        [0.49, 0.943]
        >>> [round(end, 3) for end in wilson_interval(10, 10)]
        [0.722, 1.0]
    """
    share = count / total
    centre = share + Z**2 / (2 * total)
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    scale = 1 + Z**2 / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
