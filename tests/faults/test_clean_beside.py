"""`clean` and store.limit beside a run that goes on: it never misses what it needs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from pipeline.engine.inventory import read_inventory
from pipeline.engine.removal import limit_store, plan_removal, remove
from tests.faults.conftest import Undisturbed
from tests.faults.processes import Process, add_image, complete, read_files, start


def clean_until_it_ends(outputs: Path, process: Process, runs: Collection[Path] = ()) -> int:
    """Delete all that may be deleted with some runs, over and over; how many results went."""
    count = 0
    while process.popen.poll() is None:
        inventory = read_inventory(outputs)
        chosen = [run for run in inventory.runs if run.folder in runs]
        count += remove(outputs, plan_removal(inventory, chosen, unfinished=True)).results
        limit_store(outputs, "1K")
    assert process.wait() == 0, process.printed
    return count


def make_old(outputs: Path) -> None:
    """Let all results have been used long ago; those of the last minute count as in use."""
    before = time.time() - 3600
    for done in outputs.glob("*/*/DONE"):
        os.utime(done, (before, before))


@pytest.mark.parametrize("title", ["explain", None])
def test_a_run_that_goes_on_keeps_what_it_takes_over(
    title: str | None, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Maps and boxes of an earlier run, which is deleted meanwhile; or before it is looked for."""
    images, outputs = tmp_path / "images", tmp_path / "outputs"
    shutil.copytree(undisturbed.images, images)
    command = [*undisturbed.command, f"data.root={images}", "annotate.retrain=always",
               f"outputs={outputs}"]  # fmt: skip
    complete(tmp_path / "first", command)
    first = (outputs / "latest").resolve()
    make_old(outputs)
    add_image(images / "val/red/new.png", (220, 30, 30), np.random.default_rng(1))
    process = start(tmp_path / "second", command, {"slow": {"explain": 2.0}})
    if title is not None:
        process.wait_for(title)
    assert clean_until_it_ends(outputs, process, [first]) > 0
    assert not first.exists()
    files = read_files(outputs)
    for link in (outputs / "latest/stages").iterdir():
        assert link.exists(), f"{link.name} was deleted"
    shutil.rmtree(outputs)
    complete(tmp_path / "third", command)
    assert read_files(outputs) == files


def test_two_runs_at_once_and_a_third_that_cleans(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Both begin with nothing, share results, and end with the same files."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    command = [*undisturbed.command, f"outputs={outputs}", "store.limit=1K"]
    both = [start(tmp_path / f"{n}", command) for n in range(2)]
    clean_until_it_ends(outputs, both[0])
    assert both[1].wait() == 0, both[1].printed
    name = "predictions.json"
    assert read_files(outputs)[name] == read_files(undisturbed.outputs)[name]
