import platform
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from pipeline.ops.memory import keep_freed_memory
SIZES = (1_000_000, 900_000, 800_000)
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(3):
    arrays = [np.ones(size) for size in SIZES]
    del arrays
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    arrays = [np.ones(size) for size in SIZES]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc does with freed memory")
def test_freed_arrays_are_kept() -> None:
    def count_faults(name: str) -> int:
        command = [sys.executable, "-c", PROGRAM, name]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    kept = count_faults("keep")
    assert kept * resource.getpagesize() < 8 * 2_700_000  # not even once new
    assert kept < count_faults("give back") / 4
