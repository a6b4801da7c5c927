"""A method of a choice gets the sections Args and Returns from its family's protocol.

A family's protocol describes the parameters of its methods once. The classes that conf/ names say
in their docstrings what they do; the API reference shows the protocol's sections below that.
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
    """Return the docstring of each method of the protocols, by package and method name."""
    protocols = sorted((ROOT / "pipeline/protocols").glob("[!_]*.py"))
    found: dict[tuple[str, str], str] = {}
    for path in (*protocols, ROOT / "pipeline/engine/stage.py"):
        package = PACKAGES.get(path.stem, path.stem)
        for kind in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(kind, ast.ClassDef) and not is_dataclass(kind):
                for method in kind.body:
                    if isinstance(method, ast.FunctionDef):
                        found.setdefault((package, method.name), ast.get_docstring(method) or "")
    return found


def is_dataclass(kind: ast.ClassDef) -> bool:
    """Return whether a class is decorated by `dataclass`.

    Args:
        kind: the class, as parsed.
    """
    return any("dataclass" in ast.unparse(decorator) for decorator in kind.decorator_list)
