"""Time of `data.near_duplicates` on many small drawn photographs: does it grow with their number?

Drawn are smooth JPEGs of 64 x 48 pixels, of which one in 20 is the one before it at another
quality: they have to be found. Time is that of the processor, in all threads. Reading grows with
the number of images; comparing their hashes with its square where hashes are evenly spread, by a
small factor. Photographs of a data set are more alike than drawn ones: more pairs are compared.

    near_duplicates_few, near_duplicates    ms an image at a tenth of the images, and at all
    near_duplicates_compare                 of these, comparing them, where all are measured already
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from scripts.measure.records import Record

COPIES = 20  # one in so many images is a copy


def measure(images: int) -> list[Record]:
    """Return processor time an image.

    Args:
        images: How many; a tenth of them is measured, too.
    """
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        try:
            few, many = (_measure(Path(folder, str(n)), n) for n in (images // 10, images))
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before
    ratio = few[0] / many[0]
    return [
        Record("near_duplicates_few", few[0], None, None, "ms/image", f"{images // 10} images"),
        Record("near_duplicates", many[0], few[0], ratio, "ms/image", f"{images} images; the few"),
        Record("near_duplicates_compare", many[1], few[1], few[1] / many[1], "ms/image",
               "of these where all are measured already; of the few"),
    ]  # fmt: skip


def _measure(root: Path, count: int) -> tuple[float, float]:
    """Return ms an image of the first search, and of one that has to read no image."""
    from pipeline.data.listing import File
    from pipeline.data.near_duplicates import find_groups

    _draw(root, count)
    files = []
    for n in range(count):
        path = root / f"{n:06d}.jpg"
        stat = path.stat()
        files.append(File(path.name, str(path), (stat.st_size, stat.st_mtime_ns)))
    times = []
    for _ in range(2):
        started = time.process_time()
        groups = find_groups(files, str(root))
        times.append(1000 * (time.process_time() - started) / count)
    found = {tuple(group) for group in groups}
    copies = {(n - 1, n) for n in range(COPIES - 1, count, COPIES)}
    if len(found & copies) < 0.9 * len(copies):
        raise RuntimeError(f"{len(found & copies)} of {len(copies)} copies found")
    return times[0], times[1]


def _draw(root: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    root.mkdir()
    image = np.zeros((48, 64, 3), np.uint8)
    for n in range(count):
        is_copy = n % COPIES == COPIES - 1
        if not is_copy:
            small = rng.integers(0, 255, (6, 8, 3), np.uint8)
            image = cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 70 if is_copy else 92]
        cv2.imwrite(str(root / f"{n:06d}.jpg"), image, quality)
