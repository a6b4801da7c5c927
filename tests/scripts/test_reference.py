"""The API reference has a page for each family, and each class that conf/ names is on it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

from scripts.pages.reference import CONF, family_folders, public_names, reference_pages

PAGES = reference_pages()
BLOCK = re.compile(r"^::: (?P<module>\S+)\n.*?\n {6}members: \[(?P<members>.*?)\]$", re.M | re.S)
CHOICES = [
    path
    for path in sorted(CONF.rglob("*.yaml"))
    if "_target_" in (yaml.safe_load(path.read_text(encoding="utf-8")) or {})
]


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_choice_of_conf_is_on_the_page_of_its_family(path: Path) -> None:
    family = path.parent.name
    target = yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"]
    module, _, name = target.rpartition(".")
    page = PAGES[f"reference/{family}.md"]
    assert f"`{family}={path.stem}`" in page
    shown = {block["module"]: block["members"].split(", ") for block in BLOCK.finditer(page)}
    assert name in shown[module]


@pytest.mark.parametrize("uri", PAGES)
def test_what_a_page_shows_exists(uri: str) -> None:
    blocks = list(BLOCK.finditer(PAGES[uri]))
    assert blocks
    for block in blocks:
        module = importlib.import_module(block["module"])
        for name in filter(None, block["members"].split(", ")):
            assert hasattr(module, name), f"{uri}: {block['module']} has no {name}"


def test_pages_are_those_of_the_design() -> None:
    shared = {"api", "protocols", "types", "errors", "formats"}
    families = {folder.name for folder in family_folders()}
    assert {"data", "model", "objective", "saliency", "segmenter"} <= families
    assert {Path(uri).stem for uri in PAGES} == shared | families


def test_public_names_leave_out_private_ones() -> None:
    assert {"read", "dump", "Box"} <= set(public_names("pipeline.formats.coco"))
    assert not [name for name in public_names("pipeline.formats.coco") if name.startswith("_")]
