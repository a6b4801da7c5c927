"""A labelled folder, and what an undisturbed run makes of it: shared, as a run takes a while."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.processes import annotate, complete, write_labelled_folder


@dataclass(frozen=True)
class Undisturbed:
    """The folder of images, the command on it, and the folder of outputs of a run to the end."""

    images: Path
    command: list[str]
    outputs: Path
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    root = tmp_path_factory.mktemp("undisturbed")
    command = annotate(write_labelled_folder(root / "images"))
    process = complete(root / "events", [*command, f"outputs={root / 'outputs'}"])
    times = [event["t"] for event in process.events]
    return Undisturbed(root / "images", command, root / "outputs", times[-1] - times[0])
