"""Time that each exporter takes for an image, as a share of that of stage localize of `cam`.

400 drawn shapes, and the 250 images of Imagenette's val where ../shared/data is there. Both are
processor time of the same process, turn by turn, so that what others on the machine take does not
count; median of the rounds. Images that are drawn have no files: formats with a folder of images
draw and encode each as PNG; images that are files are hard-linked.

`boxes=N` measures memory instead: each exporter in a process of its own, with a tenth of N boxes
and with N, 100 in an image, made as they are asked for.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline.engine.choices import build_choices, list_choices
from pipeline.engine.images import image_source
from pipeline.engine.run import Run
from pipeline.results.boxes import open_boxes
from pipeline.types import Boxes, CocoIds, FoundBoxes, Size
from scripts.measure.records import Record
from scripts.measure.runs import IMAGENETTE, SHARED, compose

OUTPUTS = Path("outputs")
"""Where runs write: a new file costs ten times as much in some folders of a disk as in others."""
ROUNDS = 3
LIMIT = 10.0
"""Per cent of localize's time that an exporter may take, where images are files."""
BOXES_IN_IMAGE = 100
DRAWN = "shapes"  # a set whose images some exporters encode
STAGES = "stages=[train,explain,localize]"
SETS = {
    DRAWN: ("data=shapes", "data.val_images=400", "data.images=400", "train.epochs=0"),
    "imagenette": (*IMAGENETTE, "train.epochs=0"),
}


def run(*arguments: str) -> list[Record]:
    """Return the share of each exporter, for the sets named or for all; `boxes=N`: its memory."""
    for argument in arguments:
        if argument.startswith("boxes="):
            return _measure_memory(int(argument.partition("=")[2]))
    names = arguments or [name for name in SETS if name == "shapes" or SHARED.is_dir()]
    return [record for name in names for record in _measure_set(name)]


def _measure_set(name: str) -> list[Record]:
    OUTPUTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUTPUTS) as folder:
        prepared = compose("cam", *SETS[name], STAGES, f"outputs={folder}")
        for stage in prepared.config["stages"]:
            prepared.get_or_create(stage)
        exporters = build_choices("exporter", list_choices("exporter"), {})
        localize: list[float] = []
        times: dict[str, list[float]] = {format: [] for format in exporters}
        for n in range(ROUNDS + 1):  # the first warms up
            spent = _time_localize(prepared)
            if n:
                localize.append(spent)
            found = _open(prepared)
            for format, write in exporters.items():
                target = Path(folder) / f"exported-{n}" / format
                target.mkdir(parents=True)
                started = time.process_time()
                write(found, target)
                if n:
                    times[format].append(time.process_time() - started)
        count = len(prepared.images().ids)
    each = median(localize) / count * 1000
    records = []
    for format, spent_times in times.items():
        share = median(t / base for t, base in zip(spent_times, localize, strict=True)) * 100
        note = f"{median(spent_times) / count * 1000:.3f} ms an image, localize {each:.3f} ms"
        if name == DRAWN:
            record = Record(f"{name}_{format}", share, None, None, "% of localize", note)
        else:
            record = Record(f"{name}_{format}", share, LIMIT, LIMIT / share, "% of localize",
                            f"limit; {note}")  # fmt: skip
        records.append(record)
    return records


def _time_localize(prepared: Run) -> float:
    """Return the processor time of stage localize, computed anew."""
    shutil.rmtree(prepared.folder("localize"))
    started = time.process_time()
    _, kept = prepared.get_or_create("localize")
    assert not kept
    return time.process_time() - started


def _open(prepared: Run) -> FoundBoxes:
    """Return the boxes as stage export has them."""
    found = open_boxes(
        prepared.folder("localize"), prepared.folder("explain"), prepared.images().ids,
        prepared.classes, prepared.coco_names(), labels=prepared.images().labels,
        negatives=prepared.negatives,
    )  # fmt: skip
    return replace(found, source=image_source(prepared.data, prepared.split))


# -- memory


def _measure_memory(boxes: int) -> list[Record]:
    records = []
    for format in list_choices("exporter"):
        few, many = (_write_apart(format, count) for count in (boxes // 10, boxes))
        note = (
            f"peak {few['peak_mb']:.0f} MB at {boxes // 10:,} boxes, {many['peak_mb']:.0f} MB at "
            f"{boxes:,}, written in {many['seconds']:.0f} s"
        )
        more = many["peak_mb"] - few["peak_mb"]
        records.append(Record(f"memory_{format}", more, None, None, "MB", note))
    return records


def _write_apart(format: str, boxes: int) -> dict[str, float]:
    """Write boxes in a process of its own: peaks do not come down again."""
    command = [sys.executable, "-m", "scripts.measure.speed_export", format, str(boxes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _write(format: str, count: int) -> dict[str, float]:
    write: Any = build_choices("exporter", [format], {})[format]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write(_draw_boxes(count // BOXES_IN_IMAGE), Path(folder))
        seconds = time.perf_counter() - started
    return {"peak_mb": _read_peak(), "seconds": seconds}


def _read_peak() -> float:
    """Return the most memory that this process held, in MB.

    On Linux getrusage counts that of the process before exec, too, which is the parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [row for row in status.read_text().splitlines() if row.startswith("VmHWM")]
        return int(line.split()[1]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _draw_boxes(images: int) -> FoundBoxes:
    """Return boxes that are made when they are asked for."""
    size: Size = (300, 400)
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 150, (BOXES_IN_IMAGE, 2))
    corners = np.concatenate([low, low + rng.uniform(1, 150, low.shape)], 1).astype(np.float32)
    scores = np.linspace(1, 0.1, BOXES_IN_IMAGE).astype(np.float32)

    def boxes() -> Iterator[tuple[int, Boxes]]:
        for n in range(images):
            yield n, Boxes(str(n), 0, corners, scores, size, confidences=scores)

    ids = [f"{n}.jpg" for n in range(images)]
    return FoundBoxes(
        boxes=boxes, sizes=lambda: ((n, size) for n in range(images)), ids=ids,
        classes=["a"], coco=CocoIds(range(images), ids, [1]),
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(_write(sys.argv[1], int(sys.argv[2]))))
