"""What 1 % of new images costs: `./scripts/bench new_images [images=1000] [key=value ...]`.

A folder of drawn images is annotated with a pretrained MobileNetV2 (CAM); then 1 % of new images
come into it, and it is annotated again with the network of the first run. Measured are all stages
but train, in this process, without its start: wall time, and processor time, of which others on
the machine take nothing. `start` is the whole command once more with nothing new: what it takes to
import the libraries, to index the folder, and to find that all is there.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from pipeline.data.shapes import Shapes
from pipeline.engine.run import Run
from pipeline.engine.run_folder import RunFolder
from pipeline.engine.stage import list_stages
from scripts.measure.records import Record
from scripts.measure.runs import MOBILENET, compose

IMAGES, SHARE, AT_MOST = 1000, 0.01, 0.05
STAGES = "stages=[check,train,explain,calibrate,localize,rank,export,annotate]"


def run(*overrides: str) -> list[Record]:
    """Measure the first run and the second."""
    given = dict(word.split("=", 1) for word in overrides)
    count = int(given.pop("images", IMAGES))
    new = max(1, round(SHARE * count))
    with tempfile.TemporaryDirectory() as folder:
        root, outputs = Path(folder) / "photos", Path(folder) / "outputs"
        _draw(root, range(count), count + new)
        options = (
            "data=folder", f"data.root={root}", f"outputs={outputs}", "saliency=cam",
            "segmenter=threshold", STAGES, *MOBILENET, *(f"{k}={v}" for k, v in given.items()),
        )  # fmt: skip
        first, first_processor = _annotate(compose("annotate", *options))
        _draw(root, range(count, count + new), count + new)
        again, again_processor = _annotate(compose("annotate", *options))
        start, start_processor = _time_command(options)
    return [
        Record(f"{count} images", first, None, None, "s", "all stages but train"),
        Record(f"{new} new ones among them", again, None, None, "s", "the same"),
        Record("share", again / first, AT_MOST, None, "", "at most"),
        Record("share_processor", again_processor / first_processor, AT_MOST, None, "",
               f"{again_processor:.2f} of {first_processor:.2f} s of processor time"),
        Record("start", start, None, None, "s",
               f"the command with nothing new: {start_processor:.2f} s of processor time"),
    ]  # fmt: skip


def _time_command(options: Sequence[str]) -> tuple[float, float]:
    """Return wall time and processor time of the command as a process of its own."""
    command = [sys.executable, "-m", "pipeline", "+experiment=annotate", *options]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, processor


def _draw(root: Path, numbers: range, total: int) -> None:
    """Write drawn images as files."""
    data = Shapes(images=total, val_images=1, held_back=0.0)
    for number in numbers:
        example = data.example("train", number)
        path = root / data.classes[example.label] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), example.image[..., ::-1])


def _annotate(run: Run) -> tuple[float, float]:
    """Run all stages; return the wall time and the processor time of those after train."""
    folder = RunFolder.new(run)
    wall = processor = 0.0
    with folder:
        for stage in _ordered(run):
            started, began = time.perf_counter(), time.process_time()
            result, _ = run.get_or_create(stage)
            folder.publish(stage, run.method, result)
            if stage != "train":
                wall += time.perf_counter() - started
                processor += time.process_time() - began
    folder.finish()
    return wall, processor


def _ordered(run: Run) -> list[str]:
    return [stage for stage in list_stages() if stage in run.config["stages"]]
