"""Memory and time per image of predict over 500, 2,000 and 20,000 images: neither may grow.

The images are repeated links to CUB-30's files. Each run is a separate process (explain, localize),
whose peak memory the operating system measures.

    peak_above_500    peak memory of 20,000 images minus that of 500, in MB; limit 200
    time_per_image    seconds per image at 20,000, relative to 2,000; limit 1.05
    bytes_per_cam     size of the stored shards per image; limit 1,000
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.measure.records import Record
from scripts.measure.runs import CUB, SHARED, compose

COUNTS = (500, 2_000, 20_000)
CHILD = """
import sys, time
from scripts.measure.runs import compose
run = compose("predict", *sys.argv[1:])
started = time.perf_counter()
for stage in ("explain", "localize"):
    run.get_or_create(stage)
seconds = time.perf_counter() - started
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
size = sum(p.stat().st_size for p in run.folder("explain").glob("shard-*"))
print("measured", seconds, int(peak.split()[1]) / 1024, size)
"""


def run(*counts: str) -> list[Record]:
    """Return growth of memory, growth of time per image, and bytes per stored map.

    `counts`: three numbers of images instead of 500, 2000 and 20000, for a quick run.
    """
    few, some, many = (int(count) for count in counts) if counts else COUNTS
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first = compose("cam", *CUB, f"outputs={folder}/o")
        first.get_or_create("train")
        trained = first.folder("train")
        files = sorted((SHARED / "cub30/CUB_200_2011/images").resolve().rglob("*.jpg"))
        taken = {count: _measure(place, count, files, trained) for count in (few, some, many)}
    seconds = {count: taken[count][0] / count for count in taken}
    growth = taken[many][1] - taken[few][1]
    slower = seconds[many] / seconds[some]
    size = taken[many][2] / many
    note = f"limit; {many} images against"
    return [
        Record("peak_above_500", growth, 200.0, 200 / max(growth, 1e-9), "MB", f"{note} {few}"),
        Record("time_per_image", slower, 1.05, 1.05 / slower, "ratio", f"{note} {some}"),
        Record("bytes_per_cam", size, 1000.0, 1000 / size, "bytes/image", "limit"),
    ]


def _measure(
    place: Path, count: int, files: list[Path], trained: Path
) -> tuple[float, float, float]:
    """Return seconds, peak memory in MB and bytes of the shards of a run over `count` images."""
    images = place / f"images{count}"
    images.mkdir()
    for n in range(count):
        os.symlink(files[n % len(files)], images / f"{n:06d}.jpg")
    child = subprocess.run(
        [sys.executable, "-c", CHILD, f"checkpoint={trained}", f"images={images}",
         f"outputs={place}/o{count}"],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    line = next(text for text in child.stdout.split("\n") if text.startswith("measured"))
    seconds, peak, size = (float(value) for value in line.split()[1:])
    return seconds, peak, size
