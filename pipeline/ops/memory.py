"""How the C library treats memory that was freed."""

from __future__ import annotations

import numpy as np

KEPT_BYTES = 24 << 20  # of a block; glibc accepts at most 32 MB


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next image's arrays, which are as large.

    glibc gives large blocks back to the system at once, and takes new pages for each image: a fifth
    of the time to measure a map. Once a block of `KEPT_BYTES` was freed it keeps smaller ones. The
    block itself is never written to, so it takes no memory. Elsewhere this changes nothing.
    """
    np.empty(KEPT_BYTES, np.uint8)
