"""Memory of a training on 1.28 million images: main process and further ones, as it goes on.

Drawn is an ImageNet of hard links to a few small JPEGs. The command itself trains a small network
at 32 pixels; decoded, the images would need more than what training keeps in memory, so each is
read anew, as on the real set. Threads read and augment; `runtime.devices=2` trains in two
processes, each with an index of its own. What the processes hold is read from the system every
second, and the step from the log of the training, until enough steps are done; then the run is
interrupted.

    training_growth_N   MB that all processes grow by in 1,000 images after the start, N processes
    training_memory_N   what all processes hold in the end, in MB
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from scripts.measure.records import Record

CLASSES, SOURCES, BATCH = 1000, 64, 32
WARMING = 400  # steps before memory is compared: caches of the allocator fill
LIMIT = 0.1  # MB in 1,000 images: 128 MB in an epoch of ImageNet
TIMEOUT = 1800  # seconds for a training


def measure(files: int, steps: int = 2000, devices: tuple[int, ...] = (1, 2)) -> list[Record]:
    """Return growth and size of the memory of trainings.

    Args:
        files: How many images the index has.
        steps: Of 32 images each, of which the first 400 are not compared.
        devices: Numbers of processes that train.
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        _draw(Path(folder, "images"), files)
        for count in devices:
            samples = _train(Path(folder), count, steps)
            seen = samples[samples[:, 0] >= WARMING]
            if len(seen) < 5:
                raise RuntimeError(f"{len(seen)} samples of memory after {WARMING} steps: too few")
            slope = float(np.polyfit(seen[:, 0] * BATCH / 1000, seen[:, 1], 1)[0])
            note = (
                f"limit; {files} files, steps {seen[0, 0]:.0f} to {seen[-1, 0]:.0f} of {BATCH} "
                f"images, {seen[0, 1]:.0f} to {seen[-1, 1]:.0f} MB, {count} process(es), 2 threads"
            )
            ratio = LIMIT / max(slope, 1e-9)
            name = f"training_growth_{count}"
            records.append(Record(name, slope, LIMIT, ratio, "MB/1000", note))
            records.append(
                Record(f"training_memory_{count}", seen[-1, 1], None, None, "MB", "in the end")
            )
    return records


def _draw(root: Path, count: int) -> None:
    """Write an ImageNet of links: 19 of 20 images of train/, the others of val/."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    sources = []
    for n in range(max(SOURCES, count // 30_000)):  # a file has a limit of links
        small = rng.integers(0, 255, (6, 8, 3), np.uint8)
        source = root / f"source{n}.jpg"
        cv2.imwrite(str(source), cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC))
        sources.append(str(source))
    for part in ("train", "val"):
        for of_class in range(CLASSES):
            (root / part / f"n{of_class:08d}").mkdir(parents=True)
    for number in range(count):
        of_class, n = number % CLASSES, number // CLASSES
        part = "val" if n % 20 == 19 else "train"
        name = f"{root}/{part}/n{of_class:08d}/n{of_class:08d}_{n:06d}.JPEG"
        os.link(sources[number % len(sources)], name)
    names = "".join(f"n{n:08d} class {n}\n" for n in range(CLASSES))
    (root / "LOC_synset_mapping.txt").write_text(names, encoding="utf-8")
    time.sleep(3)  # folders that changed just now are searched again, as they may change unseen


def _train(folder: Path, devices: int, steps: int) -> np.ndarray:
    """Train for some steps. Returns the step and the MB of all processes, a row a second."""
    outputs = folder / f"outputs{devices}"
    command = [
        sys.executable, "-m", "pipeline", "+experiment=cam", "data=imagenet", "data.size=32",
        f"data.root={folder}/images", "model=small", "model.width=4", f"train.batch={BATCH}",
        "train.epochs=1", "train.head=new", "stages=[train]", "runtime.workers=2",
        f"runtime.devices={devices}", "runtime.device=cpu", f"outputs={outputs}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "XDG_CACHE_HOME": f"{folder}/cache"}
    samples: list[tuple[int, float]] = []
    with (folder / f"log{devices}.txt").open("w") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        started = time.monotonic()
        try:
            while child.poll() is None and time.monotonic() - started < TIMEOUT:
                time.sleep(1)
                step = _read_step(outputs)
                samples.append((step, _sum_memory(child.pid)))
                if step >= steps:
                    break
            else:
                text = Path(log.name).read_text(encoding="utf-8")
                raise RuntimeError(f"the training ended before step {steps}:\n{text[-2000:]}")
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)
    return np.array(samples)


def _read_step(outputs: Path) -> int:
    """Return the last step in the log of the training; 0: there is none yet."""
    for path in outputs.glob("train/*/logs/csv/version_*/metrics.csv"):
        last = path.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")[2].split(",")
        column = path.read_text(encoding="utf-8").partition("\n")[0].split(",").index("step")
        return int(last[column]) if last[column].isdecimal() else 0
    return 0


def _sum_memory(pid: int) -> float:
    """Return the MB that a process and those that it started hold."""
    total, pids = 0.0, [pid]
    while pids:
        each = pids.pop()
        try:
            pages = int(Path(f"/proc/{each}/statm").read_text().split()[1])
            for task in Path(f"/proc/{each}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        total += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return total
