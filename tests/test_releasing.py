"""RELEASING.md: its commands run in a copy of the tree, as far as they work offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from scripts.pages.commands import blocks
from tests.conftest import ROOT

PAGE = ROOT / "RELEASING.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = PROJECT["version"]
DATED_HEADING = re.compile(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$", re.M)

# The beginnings of lines that are not run here, and why.
NOT_RUN = {
    "./scripts/test": "this test is part of it",
    "./scripts/docs": "installs the extra docs",
    "git push": "needs a network",
    "python -m pip install twine": "needs a network",
    "python -m twine": "needs twine",
}
INSTALL = "dist/trial/bin/python -m pip install "
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
GIT_USER = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "tester"), ("EMAIL", "tester@localhost"))
}


@dataclass(frozen=True)
class Release:
    """What the commands of the page left in a copy of the tree, and what they printed."""

    root: Path
    output: str


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    root = tmp_path_factory.mktemp("release") / "label2box"
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", *ignored))
    # Only site-packages: what this environment adds to them (an editable label2box) stays out.
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (root.parent / "dependencies.py").write_text(
        "from pathlib import Path\n"
        "(folder,) = Path('dist/trial').glob('lib/python*/site-packages')\n"
        f"(folder / 'dependencies.pth').write_text({chr(10).join(packages)!r} + chr(10))\n"
    )
    run = subprocess.run(
        ["bash", "-c", release_script(root)],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
            **OFFLINE, **GIT_USER, "GIT_CONFIG_GLOBAL": os.devnull, "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True, text=True,
    )  # fmt: skip
    output = run.stdout + run.stderr
    assert run.returncode == 0, output[-4000:]
    yield Release(root, output)
    shutil.rmtree(root)


def release_script(root: Path) -> str:
    """Return the commands of the page as a script; each block begins at the root of the copy."""
    lines = ["set -eux", f"cd '{root}'", "git init --quiet", "git add --all"]
    for block in blocks(PAGE):
        if block.language or "\n" not in block.text:
            continue
        lines.append(f"cd '{root}'")
        for line in block.text.replace("X.Y.Z", VERSION).splitlines():
            if line.startswith(INSTALL):
                lines += [line.replace("install", "install --no-deps"), "python ../dependencies.py"]
            elif not line.startswith(tuple(NOT_RUN)):
                lines.append(line)
    return "\n".join(lines)


def test_lines_that_are_left_out_are_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for line in (*NOT_RUN, INSTALL):
        assert re.search(f"^{re.escape(line)}", text, re.M), line


def test_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (version, date), *earlier = DATED_HEADING.findall(changelog)
    assert version == VERSION == citation["version"]
    assert date == str(citation["date-released"])
    assert earlier == sorted(earlier, key=lambda entry: entry[1], reverse=True)


def test_changelog_sorts_its_lines() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", changelog, re.M)
    assert all(head == "Unreleased" or DATED_HEADING.match(f"## {head}") for head in headings)
    assert set(re.findall(r"^### (.*)$", changelog, re.M)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip


def test_wheel_has_all_that_runs(release: Release) -> None:
    with zipfile.ZipFile(release.root / f"dist/label2box-{VERSION}-py3-none-any.whl") as wheel:
        packed = set(wheel.namelist())
    ours = [path for folder in ("pipeline", "conf") for path in (ROOT / folder).rglob("*.*")]
    for path in ours:
        if path.is_file() and path.parent.name != "__pycache__":
            name = path.relative_to(ROOT).as_posix()
            assert (f"pipeline/{name}" if name.startswith("conf/") else name) in packed
    assert "pipeline/py.typed" in packed
    assert {name.split("/")[0] for name in packed} == {"pipeline", f"label2box-{VERSION}.dist-info"}


def test_installed_wheel_runs_the_main_job_from_an_empty_folder(release: Release) -> None:
    empty, trial = release.root / "dist/empty", release.root / "dist/trial"
    found = subprocess.run(
        ["../trial/bin/python", "-c", "import pipeline; print(pipeline.__file__)"],
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
        cwd=empty, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()).is_relative_to(trial)
    assert [path.name for path in empty.iterdir()] == ["outputs"]
    run = empty / "outputs/latest"
    report = (run / "report/index.html").read_text(encoding="utf-8")
    assert "<html" in report
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for stage in (run / "stages").glob("[!.]*"):
        made_with = json.loads((stage / "DONE").read_text(encoding="utf-8"))
        assert made_with["versions"]["label2box"] == VERSION


def test_tag_is_named_by_the_version(release: Release) -> None:
    tag = subprocess.run(
        ["git", "describe", "--exact-match"],
        cwd=release.root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert tag.stdout.strip() == f"v{VERSION}"
