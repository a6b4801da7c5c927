"""`./scripts/test quick` touches every part: each folder of the package and each stage."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from pipeline.engine.stage import list_stages
from tests.conftest import LONGEST, ROOT

LINES = [
    line
    for line in (ROOT / "tests/quick.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
# They hold what others are made of, and have no tests of their own.
WITHOUT_TESTS = {"conf", "protocols", "types"}


def list_run_stages(text: str) -> set[str]:
    """The stages that the runs of a test name, or the experiments that they choose."""
    stages = {name for found in re.findall(r"stages=\[([\w,\s\"]+)\]", text)
              for name in re.findall(r"\w+", found)}  # fmt: skip
    for experiment in re.findall(r"\+experiment=(\w+)", text):
        path = ROOT / f"conf/experiment/{experiment}.yaml"
        stages |= {*(yaml.safe_load(path.read_text(encoding="utf-8")).get("stages") or ())}
    return stages


def test_each_line_is_a_test_or_a_file_of_tests() -> None:
    assert len(LINES) == len({*LINES})
    for line in LINES:
        path, _, name = line.partition("::")
        assert (ROOT / path).is_file(), line
        assert not name or f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), line


def test_each_folder_of_the_package_has_a_test() -> None:
    folders = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    tested = {Path(line).parts[1] for line in LINES}
    assert folders - WITHOUT_TESTS <= tested
    assert all((ROOT / "pipeline" / name).is_dir() for name in WITHOUT_TESTS - {"conf"})


def test_each_stage_runs_or_has_a_test_of_its_own() -> None:
    covered: set[str] = set()
    for line in LINES:
        path, _, name = line.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        if "stages/" in path:
            covered |= {stage for stage in list_stages() if f"/test_{stage}" in path}
        if name or path.endswith("test_report_sections.py"):
            covered |= list_run_stages(text)
    assert covered >= {*list_stages()}


def test_the_longest_files_are_there() -> None:
    assert all((ROOT / path).is_file() for path in LONGEST)
