"""Start runs that are struck (child.py), and read what they wrote down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import ROOT

PER_CLASS = {"train": 40, "val": 14}


def write_labelled_folder(root: Path) -> Path:
    """Two classes of coloured squares on grey."""
    random = np.random.default_rng(0)
    for split, count in PER_CLASS.items():
        for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                add_image(root / split / name / f"{n}.png", colour, random)
    return root


def add_image(path: Path, colour: tuple[int, int, int], random: np.random.Generator) -> None:
    image = random.integers(90, 130, (48, 64, 3)).astype(np.uint8)
    x, y = random.integers(0, 40), random.integers(0, 24)
    image[y : y + 24, x : x + 24] = colour
    Image.fromarray(image).save(path)


def annotate(folder: Path, *more: str) -> list[str]:
    """The arguments of `+experiment=annotate`, with a small network and few steps."""
    return ["+experiment=annotate", "data=folder", f"data.root={folder}", "data.size=64",
            "train.epochs=6", "train.batch=16", "refine.steps=60", "runtime.workers=2",
            "export.formats=[label_studio,yolo,coco,csv]", "annotate.sheet=40", *more]  # fmt: skip


@dataclass
class Process:
    """A run, what it printed on stderr with the times, and what it wrote down."""

    popen: subprocess.Popen[str]
    events_file: Path
    errors: list[tuple[float, str]] = field(default_factory=list)
    readers: list[threading.Thread] = field(default_factory=list)
    ended: float = 0.0

    def wait(self, timeout: float = 600) -> int:
        """The exit code. A process that does not end is killed with those that it started."""
        try:
            code = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            raise
        self.ended = time.monotonic()
        for reader in self.readers:
            reader.join()
        return code

    @property
    def events(self) -> list[dict[str, Any]]:
        text = self.events_file.read_text() if self.events_file.is_file() else ""
        return [json.loads(line) for line in text.splitlines()]

    @property
    def struck(self) -> float | None:
        """When the first signal came."""
        return next((e["t"] for e in self.events if e["event"] == "struck"), None)

    @property
    def printed(self) -> str:
        return "\n".join(line for _, line in self.errors)

    def wait_for(self, title: str, timeout: float = 300) -> None:
        """Return once a task has begun."""
        until = time.monotonic() + timeout
        while not any(e["event"] == "begin" and e["what"] == title for e in self.events):
            assert self.popen.poll() is None, self.printed
            assert time.monotonic() < until
            time.sleep(0.05)


def start(events: Path, arguments: Sequence[str], plan: Mapping[str, Any] = {}) -> Process:
    """Start a run as the first of a group of its own."""
    events.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                   "FAULT": json.dumps({"events": str(events), **plan})}  # fmt: skip
    popen = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.child", *arguments], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    process = Process(popen, events)

    def read() -> None:
        assert popen.stderr is not None
        for line in popen.stderr:
            process.errors.append((time.monotonic(), line.rstrip("\n")))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    process.readers.append(reader)
    return process


def complete(events: Path, arguments: Sequence[str]) -> Process:
    """Run to the end."""
    process = start(events, arguments)
    assert process.wait() == 0, process.printed
    return process


def read_files(outputs: Path) -> dict[str, bytes]:
    """What an engineer takes from the newest run; human boxes without the time of ingestion."""
    latest = (outputs / "latest").resolve()
    files = {name: (latest / name).read_bytes() for name in ("predictions.json", "boxes.json")}
    for path in sorted((latest / "exported").resolve().rglob("*")):
        if path.is_file():
            files["/".join(path.parts[path.parts.index("exported") :])] = path.read_bytes()
    human = outputs / "human_boxes.json"
    if human.is_file():
        content = json.loads(human.read_text())
        for image in content["images"]:
            image.pop("ingested")
        files[human.name] = json.dumps(content).encode()
    return files
