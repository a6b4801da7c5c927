"""The pages of the API reference, which mkdocstrings fills from the docstrings.

Nothing is listed by hand: a family is a folder of conf/, its classes are those that its YAML files
name by `_target_`. A package has a section for each of its modules.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
SHARED_MODULES = {
    "api": ("Python API", "pipeline.api"),
    "protocols": ("Protocols", "pipeline.protocols"),
    "types": ("Types", "pipeline.types"),
    "errors": ("Errors", "pipeline.errors"),
    "formats": ("File formats", "pipeline.formats"),
}


def reference_pages() -> dict[str, str]:
    """Return the Markdown of each page of the reference by its address in the site."""
    pages = {name: module_page(title, module) for name, (title, module) in SHARED_MODULES.items()}
    for family in family_folders():
        pages[family.name] = family_page(family)
    return {f"reference/{name}.md": text for name, text in pages.items()}


def family_folders() -> list[Path]:
    """Return the folders of conf/ whose YAML files name a class, in alphabetical order."""
    return [folder for folder in sorted(CONF.iterdir()) if folder.is_dir() and targets(folder)]


def targets(folder: Path) -> dict[str, list[str]]:
    """Return the dotted name of each `_target_` in a folder of conf/, and the choices naming it."""
    choices: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(node, Mapping) and "_target_" in node:
            choices.setdefault(str(node["_target_"]), []).append(path.stem)
    return choices


def family_page(folder: Path) -> str:
    """Return the page of a family: its modules, each with the classes that conf/ names."""
    modules: dict[str, dict[str, list[str]]] = {}
    for target, choices in sorted(targets(folder).items()):
        module, _, name = target.rpartition(".")
        modules.setdefault(module, {})[name] = choices
    family = folder.name
    parts = [f"# {family}", f"What `{family}=` can be. The names are the files of conf/{family}/."]
    for module, classes in modules.items():
        parts.append(f"## {module.split('.', 2)[-1]}")
        for name, choices in classes.items():
            named = ", ".join(f"`{family}={choice}`" for choice in choices)
            parts.append(f"`{name}`: {named}")
        parts.append(module_block(module, classes, heading_level=3))
    return "\n\n".join(parts) + "\n"


def module_page(title: str, module: str) -> str:
    """Return the page of a module, or of a package with a section for each of its modules."""
    folder = ROOT.joinpath(*module.split("."))
    if not folder.is_dir():
        return f"# {title}\n\n{module_block(module)}"
    parts = [f"# {title}", module_block(module, members=[])]
    for name in (path.stem for path in sorted(folder.glob("*.py"))):
        if name != "__init__":
            parts += [f"## {name}", module_block(f"{module}.{name}", heading_level=3)]
    return "\n\n".join(parts) + "\n"


def module_block(module: str, members: Iterable[str] | None = None, heading_level: int = 2) -> str:
    """Return the line by which mkdocstrings inserts a module's docstring and public members.

    Args:
        module: The dotted name of the module.
        members: The names to show; None for all public ones that the module defines.
        heading_level: The level of the members' headings, from 1.
    """
    shown = public_names(module) if members is None else list(members)
    options = [f"      heading_level: {heading_level}", f"      members: [{', '.join(shown)}]"]
    return "\n".join([f"::: {module}", "    options:", *options]) + "\n"


def public_names(module: str) -> list[str]:
    """Return the public functions, classes and assigned names of a module, in its order."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    names: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]
