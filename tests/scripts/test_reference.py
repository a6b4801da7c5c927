"""The API reference has a page for each family, and each class that conf/ names is on it."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from scripts.pages.inherited import complete_docstring, contracts
from scripts.pages.reference import CONF, ROOT, family_folders, public_names, reference_pages

PAGES = reference_pages()
BLOCK = re.compile(r"^::: (?P<module>\S+)\n.*?\n {6}members: \[(?P<members>.*?)\]$", re.M | re.S)
CHOICES = [
    path
    for path in sorted(CONF.rglob("*.yaml"))
    if CONF / "hydra" not in path.parents  # of Hydra's own groups
    and "_target_" in (yaml.safe_load(path.read_text(encoding="utf-8")) or {})
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
    assert {"read", "read_json", "LISTS"} <= set(public_names("pipeline.formats.coco"))
    assert not [name for name in public_names("pipeline.formats.coco") if name.startswith("_")]


def shown_functions() -> Iterator[tuple[str, str, ast.FunctionDef]]:
    """Yield the module, the name in it and the syntax tree of each function of the reference."""
    for page in PAGES.values():
        for block in BLOCK.finditer(page):
            path = ROOT.joinpath(*block["module"].split(".")).with_suffix(".py")
            if not path.exists():  # the __init__ of a package, which shows no members
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if getattr(node, "name", "") in block["members"].split(", "):
                    inside = node.body if isinstance(node, ast.ClassDef) else [node]
                    for part in inside:
                        if isinstance(part, ast.FunctionDef) and is_shown(part):
                            name = part.name if part is node else f"{node.name}.{part.name}"  # type: ignore[attr-defined]
                            yield block["module"], name, part


def is_shown(function: ast.FunctionDef) -> bool:
    """Whether the reference shows a function, and as a function: properties have no parameters."""
    decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
    is_public = function.name == "__call__" or not function.name.startswith("_")
    return is_public and not decorators & {"property", "overload"}


def parameters(function: ast.FunctionDef) -> set[str]:
    every = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {each.arg for each in every} - {"self", "cls"}


FUNCTIONS = list(shown_functions())


def list_undescribed(module: str, name: str, function: ast.FunctionDef) -> set[str]:
    """The parameters of a function that its part of the reference does not describe."""
    contract = contracts().get((module.split(".")[1], function.name), "")
    docstring = complete_docstring(ast.get_docstring(function) or "", contract)
    section = re.search(r"^Args:\n((?: +.*\n?|\n)+)", docstring, re.MULTILINE)
    described = set(
        re.findall(r"^ {4}(\w+)(?: \(.*\))?:", section[1], re.MULTILINE) if section else ()
    )
    return {p for p in parameters(function) - described if f"`{p}`" not in docstring}


def list_unnamed_errors(module: str, name: str, function: ast.FunctionDef) -> set[str]:
    """The errors that a function raises and its docstring does not name."""
    in_try = {
        inner
        for node in ast.walk(function)
        if isinstance(node, ast.Try)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    raised = {
        ast.unparse(node.exc.func)
        for node in ast.walk(function)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and node not in in_try
        and ast.unparse(node.exc.func)[0].isupper()  # a class, not a function that builds an error
    }
    docstring = ast.get_docstring(function) or ""
    return {error for error in raised if error not in docstring}


@pytest.mark.parametrize("lacking", [list_undescribed, list_unnamed_errors])
@pytest.mark.parametrize("package", sorted({module.split(".")[1] for module, _, _ in FUNCTIONS}))
def test_the_reference_describes_parameters_and_names_errors(
    package: str, lacking: Callable[[str, str, ast.FunctionDef], set[str]]
) -> None:
    """A test of each of the 700 functions takes longer than what is looked up."""
    faults = {
        f"{module}.{name}": sorted(lacking(module, name, function))
        for module, name, function in FUNCTIONS
        if module.split(".")[1] == package
    }
    assert not {name: fault for name, fault in faults.items() if fault}


def test_the_reference_has_functions_of_all_kinds() -> None:
    assert len(FUNCTIONS) > 250
    assert {"saliency", "stages", "metric", "formats", "api"} <= {
        module.split(".")[1] for module, _, _ in FUNCTIONS
    }


def test_own_sections_are_kept_and_errors_come_last() -> None:
    own = "Add.\n\nReturns:\n    own.\n\nRaises:\n    E: never."
    contract = "Sum.\n\nArgs:\n    x: a number.\n\nReturns:\n    theirs.\n\nRaises:\n    F: always."
    assert complete_docstring(own, contract) == (
        "Add.\n\nReturns:\n    own.\n\nArgs:\n    x: a number.\n\nRaises:\n    E: never."
    )
