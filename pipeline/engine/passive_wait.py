"""Let OpenMP threads that wait for work sleep, as long as the user has not said otherwise.

torch splits each layer over threads, which wait for one another at its end. By default a waiting
thread reads the same variable over and over for milliseconds. On a core that other programs need,
too, it takes the time of the thread that it waits for. docs/training.md has the measurement.

OpenMP reads its variables when it is loaded, so they are set before torch is imported. Only the
command line sets one: the process is its own, and ranks and other processes that it starts inherit
the variable. `import pipeline` sets none: the program that imports it may use OpenMP for other
work, and its own child processes would inherit the variable as well.
"""

from __future__ import annotations

import os

VARIABLE = "OMP_WAIT_POLICY"  # of OpenMP 3.0: libgomp (Linux), libomp (macOS) and Intel's read it
VALUE = "PASSIVE"
OTHERS = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Variables of single libraries that say how threads wait."""


def wait_passively() -> None:
    """Set OpenMP's variable for a passive wait, unless one that says how threads wait is set."""
    if not any(name in os.environ for name in (VARIABLE, *OTHERS)):
        os.environ[VARIABLE] = VALUE
