"""Time and memory of large data sets: index, evaluation, training, near duplicates.

Drawn are folders of 1000 classes, 19 of 20 files in train/ and the others in val/, each of a few
bytes. LOC_synset_mapping.txt names the classes: without it torch is imported with torchvision.
`ilsvrc` reads the same files by the lists of wsolevaluation. An index is all that a run needs of a
data set before it reads an image: ids, labels, fingerprints and notes of all splits. Each is made
by a process of its own, whose peak memory, imports included, the operating system measures.

`evaluation`, `training` and `near_duplicates` draw data of their own, of a twentieth, of all and of
a tenth of the number of files: scripts/measure/data_evaluation.py, data_training.py and
data_duplicates.py say what they measure.

    NAME_once         seconds of the first index; limit 60 for 1,000,000 files
    NAME_again        seconds where nothing changed; limit 5
    NAME_memory       peak memory of the first index in MB; limit 500
    NAME_again_memory peak memory where nothing changed
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import UserError
from scripts.measure import data_duplicates, data_evaluation, data_training
from scripts.measure.records import Record

FILES, CLASSES = 1_000_000, 1000
INDEXES = ("imagenet", "folder", "ilsvrc")
LIMITS = {"once": 60.0, "again": 5.0, "memory": 500.0}
CHILD = """
import sys, time
name, root = sys.argv[1:]
started = time.perf_counter()
if name == "imagenet":
    from pipeline.data.imagenet import ImageNet
    data = ImageNet(root)
elif name == "ilsvrc":
    from pipeline.data.wsolevaluation import WsolEvaluation
    data = WsolEvaluation(root + "/metadata", images=root)
else:
    from pipeline.data.folder import Folder
    data = Folder(root)
data.notes(), data.classes
for split in ("train", "held_back", "val"):
    count = len(data.ids(split)), len(data.labels(split)), data.fingerprint(split)
seconds = time.perf_counter() - started
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
total = sum(len(data.ids(split)) for split in ("train", "held_back", "val"))
print("measured", seconds, int(peak.split()[1]) / 1024, total)
"""


def run(files: str = str(FILES), *names: str) -> list[Record]:
    """Return times and memory, relative to the limits for 1,000,000 files.

    Args:
        files: How many files are drawn; the limits of time and memory stay.
        names: Of `imagenet`, `folder`, `ilsvrc`, `evaluation`, `training` and `near_duplicates`;
            none: all.
    """
    count = int(files)
    others: dict[str, Callable[[], list[Record]]] = {
        "evaluation": lambda: data_evaluation.measure(count // 20),
        "training": lambda: data_training.measure(count),
        "near_duplicates": lambda: data_duplicates.measure(count // 10),
    }
    if unknown := {*names} - {*INDEXES, *others}:
        raise UserError(f"data: {', '.join(sorted(unknown))}: expected {', '.join(INDEXES)}, "
                        f"{', '.join(others)}")  # fmt: skip
    records = _measure_indexes(count, [name for name in names or INDEXES if name in INDEXES])
    for name, measure in others.items():
        if not names or name in names:
            records += measure()
    return records


def _measure_indexes(count: int, names: list[str]) -> list[Record]:
    """Return times and memory of the index of the named data sets."""
    records: list[Record] = []
    if not names:
        return records
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "images")
        _draw(root, count)
        for name in names:
            for turn in ("once", "again"):
                seconds, memory = _measure(name, root, Path(folder, "cache"), count)
                note = f"limit; {count} files"
                limit = LIMITS[turn]
                records.append(Record(f"{name}_{turn}", seconds, limit, limit / seconds, "s", note))
                limit = LIMITS["memory"]
                what = "memory" if turn == "once" else "again_memory"
                records.append(Record(f"{name}_{what}", memory, limit, limit / memory, "MB", note))
    return records


def _draw(root: Path, count: int) -> None:
    """Write files of a few bytes in folders of classes."""
    for number in range(count):
        of_class, n = number % CLASSES, number // CLASSES
        part = "val" if n % 20 == 19 else "train"
        folder = root / part / f"n{of_class:08d}"
        if n in (0, 19):
            folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"n{of_class:08d}_{n:06d}.JPEG", "wb") as file:
            file.write(b"\xff\xd8\xff\xe0")
    names = "".join(f"n{n:08d} class {n}\n" for n in range(CLASSES))
    _draw_lists(root / "metadata", count)
    for place in (root, root / "metadata"):
        (place / "LOC_synset_mapping.txt").write_text(names, encoding="utf-8")
    time.sleep(3)  # folders that changed just now are searched again, as they may change unseen


def _draw_lists(folder: Path, count: int) -> None:
    """Write the lists of wsolevaluation of the same files, of train and of val."""
    for split, is_scored in (("train-weaksup", False), ("test", True)):
        place = folder / split
        place.mkdir(parents=True)
        with (
            open(place / "image_ids.txt", "w", encoding="utf-8") as ids,
            open(place / "class_labels.txt", "w", encoding="utf-8") as labels,
            open(place / "image_sizes.txt", "w", encoding="utf-8") as sizes,
            open(place / "localization.txt", "w", encoding="utf-8") as boxes,
        ):
            for number in range(count):
                of_class, n = number % CLASSES, number // CLASSES
                if (n % 20 == 19) != is_scored:
                    continue
                part = "val" if is_scored else "train"
                name = f"{part}/n{of_class:08d}/n{of_class:08d}_{n:06d}.JPEG"
                ids.write(f"{name}\n")
                labels.write(f"{name},{of_class}\n")
                sizes.write(f"{name},500,375\n")
                boxes.write(f"{name},50,40,300,250\n")


def _measure(name: str, root: Path, cache: Path, count: int) -> tuple[float, float]:
    """Return seconds and peak memory in MB of an index of the files."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, name, str(root)],
        check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    line = next(text for text in child.stdout.split("\n") if text.startswith("measured"))
    seconds, peak, total = line.split()[1:]
    if int(total) != count:
        raise RuntimeError(f"{name}: {total} of {count} files in the index")
    return float(seconds), float(peak)
