"""A method of a choice gets the sections Args and Returns from its family's protocol or base.

A family's protocol, or an abstract base class, describes the parameters of its methods once. The
classes that conf/ names say in their docstrings what they do; the API reference shows the
protocol's sections below that.
Raises is not taken over: what is raised differs from class to class.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"network": "model", "stage": "stages"}
"""The package of the classes, where it is not called as the protocol's file."""
SECTIONS = ("Args", "Returns")
SECTION = re.compile(r"^(?P<title>[A-Z]\w+):\n(?:[ \t]+\S.*\n?|\n(?=[ \t]))+", re.MULTILINE)


def complete_docstring(own: str, contract: str) -> str:
    r"""Return a docstring with those of Args and Returns that it lacks and the contract has.

    Args:
        own: the docstring of a method, without indentation.
        contract: the docstring of the same method of the protocol, without indentation.

    >>> print(complete_docstring("Add.", "Sum.\n\nArgs:\n    x: a number.\n"))
    Add.
    <BLANKLINE>
    Args:
        x: a number.
    """
    present = {section["title"] for section in SECTION.finditer(own + "\n")}
    missing = [
        section[0].rstrip()
        for section in SECTION.finditer(contract + "\n")
        if section["title"] in SECTIONS and section["title"] not in present
    ]
    before, raises, after = own.rstrip().partition("\nRaises:")
    return "\n\n".join([before.rstrip(), *missing]) + ("\n" + raises + after if raises else "")


@cache
def contracts() -> dict[tuple[str, str], str]:
    """Return the docstrings of methods of protocols and of abstract bases.

    Returns:
        Docstrings by package and method name; those of protocols come first.
    """
    found: dict[tuple[str, str], str] = {}
    protocols = sorted((ROOT / "pipeline/protocols").glob("[!_]*.py"))
    for path in (*protocols, ROOT / "pipeline/engine/stage.py"):
        package = PACKAGES.get(path.stem, path.stem)
        for kind in list_classes(path):
            if not is_dataclass(kind):
                found = {**describe_methods(package, kind), **found}
    for path in sorted((ROOT / "pipeline").glob("*/*.py")):
        for kind in list_classes(path):
            if "ABC" in map(ast.unparse, kind.bases):
                found = {**describe_methods(path.parent.name, kind), **found}
    return found


def list_classes(path: Path) -> list[ast.ClassDef]:
    """Return the classes of a module, as parsed.

    Args:
        path: the module's file.
    """
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [node for node in body if isinstance(node, ast.ClassDef)]


def describe_methods(package: str, kind: ast.ClassDef) -> dict[tuple[str, str], str]:
    """Return the docstring of each method of a class, by package and method name.

    Args:
        package: the package of the classes that have the methods.
        kind: the class, as parsed.
    """
    methods = [node for node in kind.body if isinstance(node, ast.FunctionDef)]
    return {(package, method.name): ast.get_docstring(method) or "" for method in methods}


def is_dataclass(kind: ast.ClassDef) -> bool:
    """Return whether a class is decorated by `dataclass`.

    Args:
        kind: the class, as parsed.
    """
    return any("dataclass" in ast.unparse(decorator) for decorator in kind.decorator_list)
