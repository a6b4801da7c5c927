"""Exports for tests, and readers of other projects, run in environments of their own."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.choices import build_choices
from pipeline.types import FoundBoxes
from tests.exporter.subjects import found_boxes, image_source, write_images

DATUMARO = "LABEL2BOX_DATUMARO_PYTHON"
DATASETS = "LABEL2BOX_DATASETS_PYTHON"
FIFTYONE = "LABEL2BOX_FIFTYONE_PYTHON"
ULTRALYTICS = "LABEL2BOX_ULTRALYTICS_PYTHON"


def subject(root: Path, masks: bool = False, **changes: Any) -> FoundBoxes:
    """Write the images below a folder, and return their boxes."""
    root.mkdir(parents=True, exist_ok=True)
    write_images(root)
    return replace(found_boxes(masks=masks, source=image_source(root)), **changes)


def export(name: str, found: FoundBoxes, folder: Path, **options: Any) -> list[str]:
    """Write a format into a folder that is made, and return the notes."""
    folder.mkdir(parents=True, exist_ok=True)
    exporter: Any = build_choices("exporter", [name], options)[name]
    return [str(note) for note in exporter(found, folder) or ()]


def needs(variable: str) -> pytest.MarkDecorator:
    """Skip a test where an environment variable names no Python with the reader."""
    reason = f"{variable} names no Python; ./scripts/test tools makes one"
    return pytest.mark.skipif(variable not in os.environ, reason=reason)


def read_by(variable: str, code: str, folder: Path, **environment: str) -> Any:
    """Run code in the environment of a reader, and return what it prints as JSON after READ."""
    done = subprocess.run(
        [os.environ[variable], "-c", code],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("READ ")]
    return json.loads(line.removeprefix("READ "))
