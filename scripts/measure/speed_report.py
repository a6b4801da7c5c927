"""The report's page and its share of a run: `./scripts/bench report [images=5000] [key=value ...]`.

A run of `+experiment=cam` on drawn images: `images=` of them are scored. Measured are the page in
Chromium (report_page.py), and the time of stage report beside that of all stages, as each noted it
when its result was computed. `run=outputs/latest` measures the run in this folder instead.
LABEL2BOX_PLAYWRIGHT names the folder that playwright is imported from.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.formats.files import read_json
from scripts.measure.records import Record
from scripts.measure.report_page import (
    MAX_BYTES,
    MAX_PAINT,
    MAX_STEP,
    PageMeasure,
    measure_page,
    open_browser,
)

IMAGES, TRAINED, EPOCHS = 5000, 1000, 4
MAX_SHARE = 0.1  # of the time of a run


def run(*overrides: str) -> list[Record]:
    """Measure the page of a run that exists, or of one that is computed.

    Args:
        overrides: `run=FOLDER`; or `images=` and what the command line takes.
    """
    given = dict(word.split("=", 1) for word in overrides)
    if "run" in given:
        return _measure(Path(given["run"]))
    count = given.pop("images", str(IMAGES))
    with tempfile.TemporaryDirectory() as folder:
        options = (
            "data=shapes", f"data.val_images={count}", f"data.images={TRAINED}", "model=small",
            f"train.epochs={EPOCHS}", f"outputs={folder}/outputs",
            *(f"{key}={value}" for key, value in given.items()),
        )  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "pipeline", "+experiment=cam", *options],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return _measure(Path(folder) / "outputs/latest")


def _measure(folder: Path) -> list[Record]:
    """Measure the page of a run."""
    path = folder / "report/index.html"
    if not path.is_file():
        raise UserError(f"run={folder}: it has no report/index.html; add report to its stages")
    with open_browser() as browser:
        page = measure_page(browser, path)
    for line in page.errors:
        print(line, file=sys.stderr)
    return [*describe_page(page), *_measure_stages(folder)]


def describe_page(page: PageMeasure) -> list[Record]:
    """Return what was measured of a page as records.

    Args:
        page: what was measured.
    """
    return [
        _limit("size", page.size / 1e6, MAX_BYTES / 1e6, "MB", "at most"),
        _limit("first paint", page.paint, MAX_PAINT, "ms", "at most; wall time"),
        Record("until it is ready", page.loading, None, None, "ms", "of the page's thread"),
        *_describe_steps("slider, a step while dragged", page.drag),
        *_describe_steps("slider, a step at its end", page.drop),
        *_describe_steps("slider, the same in the order of IoU", page.drop_by_iou),
        Record("layout shift", page.shift, 0, None, "", "without input"),
        Record("console errors", len(page.errors), 0, None, "", ""),
    ]


def _describe_steps(name: str, taken: Sequence[float]) -> list[Record]:
    """Return the middle and the longest of the times of steps."""
    return [
        _limit(f"{name}, median", statistics.median(taken), MAX_STEP, "ms", "at most"),
        _limit(f"{name}, longest", max(taken), MAX_STEP, "ms", "at most"),
    ]


def _limit(name: str, value: float, limit: float, unit: str, note: str) -> Record:
    """Return the record of a number that has a limit."""
    return Record(name, value, limit, limit / value, unit, note)


def _measure_stages(folder: Path) -> list[Record]:
    """Return the time of stage report and its share of the time of all stages of a run."""
    done = (folder / "stages").glob("*/DONE")
    seconds = {path.parent.name: read_json(path)["seconds"] for path in done}
    report = seconds["report"]
    share = report / sum(seconds.values())
    return [
        Record("stage report", report, None, None, "s", f"of {sum(seconds.values()):.1f} s"),
        _limit("share of the run", share, MAX_SHARE, "", "at most"),
    ]
