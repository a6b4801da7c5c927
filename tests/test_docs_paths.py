"""Modules, files and classes that the documentation and the comments of conf/ name exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from pipeline.metric.gt_known import Localization
from tests.conftest import ROOT

ROOT_PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "RELEASING", "SECURITY")]
PAGES = [*ROOT_PAGES, *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [*PAGES, *sorted((ROOT / "conf").rglob("*.yaml")), ROOT / "mkdocs.yml"]
SOURCE_FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("pipeline", "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
]

PATH = re.compile(r"(?<![\w./-])(?:pipeline|conf|scripts|tests)/[\w./<>*-]*")
PYTHON_FILE = re.compile(r"(?<![\w./<>*-])[\w./<>*-]+\.py\b")
DOTTED = re.compile(r"(?<![\w./-])pipeline(?:\.[A-Za-z_]\w*)+(?![\w/])")
# What the reader adds (mine, mymodule.py), and names that stand for any (<name>, *).
PLACEHOLDER = re.compile(r"\bmine\b|\bmy\w+\.py|[<*]")


def named(pattern: re.Pattern[str], text: str) -> list[str]:
    """Return what a pattern matches in a text, without a full stop at the end."""
    names = (match[0].rstrip(".") for match in pattern.finditer(text))
    return sorted({name for name in names if not PLACEHOLDER.search(name)})


def resolve(dotted: str) -> object:
    """Return the module, or the attribute of a module, that a dotted name stands for.

    Raises:
        ImportError: no module of this name, or the module has no such attribute.
    """
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, attribute = dotted.rpartition(".")
        if not module:
            raise
        parent = resolve(module)
        if not hasattr(parent, attribute):
            raise ImportError(f"{module} has no {attribute}") from None
        return getattr(parent, attribute)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_named_files_and_modules_exist(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    missing = [path for path in named(PATH, text) if not (ROOT / path).exists()]
    missing += [
        name
        for name in named(PYTHON_FILE, text)
        if not any(f"/{path}".endswith(f"/{name.lstrip('./')}") for path in SOURCE_FILES)
    ]
    for dotted in named(DOTTED, text):
        try:
            resolve(dotted)
        except ImportError as error:
            missing.append(f"{dotted} ({error})")
    assert not missing, f"{source.relative_to(ROOT)} names what does not exist: {missing}"


def test_names_are_recognized() -> None:
    text = (
        "see pipeline/ops/iou.py. A YAML in `conf/audit/`, as conf/audit/mine.yaml; "
        "[x](../pipeline/saliency/gradcam.py), `pipeline/<family>/`, pipeline.visualize.classes. "
        "python -m pipeline +experiment=cam; `pipeline.load('outputs/latest')`, listing.py"
    )
    assert named(PATH, text) == ["conf/audit/", "pipeline/ops/iou.py"]
    assert named(PYTHON_FILE, text) == [
        "../pipeline/saliency/gradcam.py", "listing.py", "pipeline/ops/iou.py",
    ]  # fmt: skip
    assert named(DOTTED, text) == ["pipeline.load", "pipeline.visualize.classes"]


def test_missing_names_are_refused() -> None:
    assert resolve("pipeline.metric.gt_known.Localization") is Localization
    for name in ("pipeline.records", "pipeline.ops.iou.no_such_function"):
        with pytest.raises(ImportError):
            resolve(name)
