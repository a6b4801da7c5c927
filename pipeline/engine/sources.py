"""Hashes of source code: of a module and of all that it imports from this project."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# How work is asked for, spread and kept, never what it computes.
UNHASHED_MODULES = {
    "pipeline",
    "pipeline.api",
    "pipeline.engine",
    *(
        f"pipeline.engine.{name}"
        for name in (
            "choices",
            "config",
            "help",
            "options",
            "overrides",
            "progress",
            "ranks",
            "renamed",
            "run",
            "run_folder",
            "runtime",
            "sources",
            "stage",
            "store",
            "terminal",
        )
    ),
}


@cache
def _imports(module: str) -> tuple[str, frozenset[str]]:
    """The hash of a module's source, and the pipeline modules it imports."""
    source = _source_path(module).read_bytes()
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(a.name for a in node.names if a.name.split(".")[0] == "pipeline")
    modules = frozenset(name for name in found if _exists(name))
    return hashlib.sha256(source).hexdigest()[:16], modules


def _source_path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(module: str) -> bool:
    return _source_path(module).is_file()


def hash_sources(modules: Iterable[str]) -> dict[str, str]:
    """Hashes of the sources of `modules` and of the pipeline modules that these import in turn.

    Read as text, so that finding that all is done already imports nothing. A module from outside
    the project (a user's own method) is hashed by its file.
    """
    hashes: dict[str, str] = {}
    todo = set(modules)
    while todo:
        module = todo.pop()
        if module in hashes or module in UNHASHED_MODULES:
            continue
        if module.split(".")[0] != "pipeline":
            hashes[module] = _foreign_source(module)
            continue
        hashes[module], imported = _imports(module)
        todo |= imported | {module.rpartition(".")[0] or module}  # a package runs first
    return dict(sorted(hashes.items()))


def _foreign_source(module: str) -> str:
    from importlib.util import find_spec

    spec = find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return "built-in"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]
