"""`--help` answers without a look at the data: an index of a million files would be waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Python tells hooks of files that are opened and folders that are listed, by whatever library.
WATCHED = """
import sys
root, seen = sys.argv.pop(1), []
def watch(event, arguments):
    if event in ("open", "os.scandir", "os.listdir") and str(arguments[0]).startswith(root):
        seen.append(f"{event} {arguments[0]}")
sys.addaudithook(watch)
from pipeline.__main__ import main
try:
    main()
finally:
    print("\\nseen", len(seen), seen[:3])
"""


def touch_data(root: Path, *arguments: str) -> tuple[str, int]:
    """Run the command line; return what it printed, and how often it looked below the root."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(root / "cache")}
    command = [sys.executable, "-c", WATCHED, str(root), *arguments]
    done = subprocess.run(
        command, cwd=root.parent, env=environment, capture_output=True, text=True, timeout=300
    )
    line = next(line for line in done.stdout.split("\n") if line.startswith("seen "))
    return done.stdout, int(line.split()[1])


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_help_reads_no_index(folder_of_images: Path, kind: str) -> None:
    options = ("+experiment=cam", f"data={kind}", f"data.root={folder_of_images}")
    text, count = touch_data(folder_of_images, *options, "--help")
    assert "data.root" in text
    assert count == 0


def test_the_check_without_help_is_seen(folder_of_images: Path) -> None:
    options = ("data=folder", f"data.root={folder_of_images}", "stages=[localize]")
    _, count = touch_data(folder_of_images, "+experiment=cam", *options)
    assert count > 0, "what the test above counts is there"
