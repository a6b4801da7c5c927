"""The choices of conf/: list, read, complete, check and build them.

The arguments of a choice are checked against the annotations of its class. Their defaults are
those of the class, and a YAML need not repeat them.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError, suggest_choices
from pipeline.formats.files import is_settled
from pipeline.ops.hashing import to_plain
from pipeline.ops.renamed import CLASSES, KEYS, describe_renaming
from pipeline.protocols import SaliencyMethod, Segmenter


def conf_folder() -> Path:
    """Return the folder `conf/` of the checkout, or its copy in an installed wheel."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


EXTRA_FOLDER = "LABEL2BOX_CONFIG_DIR"
"""The environment variable that holds the folder of `--config-dir`, for this process and the
processes that it starts. The folder has further choices, in a folder for each group as in conf/."""

SHOWN = 4  # choices that a message names

_listed: dict[Path, tuple[int, Sequence[Path]]] = {}  # folder -> st_mtime_ns, its YAML files


def choice_files(group: str) -> dict[str, Path]:
    """Return the YAML file of each choice of a config group, sorted by name.

    A choice in the folder of `--config-dir` replaces a choice of the same name in conf/.
    """
    extra = os.environ.get(EXTRA_FOLDER)
    folders = [conf_folder(), *([Path(extra)] if extra else [])]
    files = {path.stem: path for folder in folders for path in _list_files(folder / group)}
    return dict(sorted(files.items()))


def _list_files(folder: Path) -> Sequence[Path]:
    """Return the YAML files of a folder; it is listed again where it has changed since."""
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return ()
    known = _listed.get(folder)
    if known is not None and known[0] == changed:
        return known[1]
    files = tuple(folder.glob("*.yaml"))
    if is_settled(changed):
        _listed[folder] = changed, files
    return files


def list_choices(group: str) -> list[str]:
    """Return the names of the choices of a config group."""
    return list(choice_files(group))


def read_choice(group: str, name: str) -> Mapping[str, Any]:
    """Return the content of the YAML file of a choice.

    Raises:
        UserError: the group has no such choice.
    """
    files = choice_files(group)
    if name not in files:
        raise UserError(f"{group}={name}: no such choice; {suggest_choices(name, files)}")
    path = files[name]
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, changed: int) -> Mapping[str, Any]:
    """Read a YAML file once for each time of its last change, in nanoseconds."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def instantiate(where: str, node: Mapping[str, Any], within: str = "") -> Any:
    """Build the object that `_target_` names, after checking arguments against its annotations.

    Args:
        where: the node's place in the configuration, for error messages.
        node: `_target_` and its arguments.
        within: a prefix that `_target_` must have, for nodes that come from a file and not from
            the user, as from the card of a checkpoint.

    Raises:
        UserError: the target cannot be imported, or an argument is unknown, missing or wrong.
    """
    name = str(node["_target_"])
    if within and not may_be_named(within.split(".")[1], name):
        raise UserError(
            f"{where}: {name!r} is not one of {within}*: refused, a card must not run code"
        )
    target = locate(where, name)
    given = {key: value for key, value in node.items() if key != "_target_"}
    parts = {
        key: _map_each(
            value, lambda place, part: instantiate(place, part, within), f"{where}.{key}"
        )
        for key, value in _complete_nested_choices(where, target, given).items()
    }
    values = {key: value for key, value in given.items() if key not in parts}
    arguments = {**check_arguments(where, target, values, parts), **parts}
    try:
        return target(**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from error


def may_be_named(family: str, target: str) -> bool:
    """Return whether a file that somebody else may have written can name a target of a family.

    It can name a class of this project, and a class that a choice of conf/ or of `--config-dir`
    names, for the user gave that folder.
    """
    if target.startswith(f"pipeline.{family}."):
        return True
    return any(read_choice(family, name).get("_target_") == target for name in list_choices(family))


def choice_name(family: str, target: str) -> str:
    """Return what to call a target: the file of a class of this project, the choice of another.

    Without a choice of that target it is the name of its module.
    """
    if not target.startswith("pipeline."):
        for name in list_choices(family):
            if read_choice(family, name).get("_target_") == target:
                return name
    return target.split(".")[-2]


def locate(where: str, name: str) -> Any:
    """Return the object that a dotted name refers to, after importing its module.

    Args:
        where: the place in the configuration that names it, for error messages.
        name: the full name of a module's attribute.

    Raises:
        UserError: it cannot be imported.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where}._target_={name}: cannot be imported ({error})"
            f"{describe_renaming(CLASSES, name)}"
        ) from error


NESTED_FAMILIES = {SaliencyMethod: "saliency", Segmenter: "segmenter"}
"""The annotation of an argument that takes a choice of a family, by its name or as a node."""


def _complete_nested_choices(where: str, target: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are choices of a family, completed: each a node or a tuple."""
    completed: dict[str, Any] = {}
    for key, hint in read_argument_hints(target).items():
        is_tuple = typing.get_origin(hint) is tuple
        family = NESTED_FAMILIES.get(typing.get_args(hint)[0] if is_tuple else hint)
        if family is None or key not in given:
            continue
        value = given[key]
        if is_tuple and not isinstance(value, list | tuple):
            raise UserError(f"{where}.{key}={value}: a list of choices of {family} is expected")
        nodes = [
            _complete_nested_choice(f"{where}.{key}", family, choice)
            for choice in (value if is_tuple else [value])
        ]
        completed[key] = tuple(nodes) if is_tuple else nodes[0]
    return completed


def _complete_nested_choice(where: str, family: str, value: Any) -> dict[str, Any]:
    """Return the completed node of a choice that is given by its name or as a node."""
    if isinstance(value, str):
        if value not in list_choices(family):
            raise UserError(
                f"{where}={value}: no such choice; {suggest_choices(value, list_choices(family))}"
            )
        value = read_choice(family, value)
    if not isinstance(value, Mapping) or "_target_" not in value:
        raise UserError(
            f"{where}={value}: expected a choice of {family}; choices: "
            f"{', '.join(list_choices(family))}"
        )
    return fill_defaults(where, value)


def _map_each(value: Any, function: Callable[[str, Any], Any], where: str) -> Any:
    """Apply a function to a value, or to each item of a tuple."""
    if isinstance(value, tuple):
        return tuple(function(where, item) for item in value)
    return function(where, value)


def list_targets(node: Any) -> list[str]:
    """List each `_target_` in a node and in its parts."""
    if isinstance(node, Mapping):
        targets = [str(node["_target_"])] if "_target_" in node else []
        return targets + [name for value in node.values() for name in list_targets(value)]
    if isinstance(node, list | tuple):
        return [name for value in node for name in list_targets(value)]
    return []


def check_arguments(
    where: str, target: Any, given: Mapping[str, Any], checked_before: Iterable[str] = ()
) -> dict[str, Any]:
    """Check arguments against the annotations of a target.

    Args:
        where: the node's place in the configuration, for error messages.
        target: a class or a function.
        given: the arguments.
        checked_before: names of further arguments, which are neither checked nor missing.

    Returns:
        The arguments, converted to the annotated types.

    Raises:
        UserError: an argument is unknown, missing or does not fit its annotation.
    """
    from pydantic import ValidationError

    parameters = inspect.signature(target).parameters
    hints = read_argument_hints(target)
    checked = {}
    for key, value in given.items():
        if key not in parameters:
            takes = suggest_choices(key, parameters) if parameters else "it takes no arguments"
            renamed = describe_renaming(KEYS, f"{where}.{key}").removeprefix("; ")
            others = "" if renamed else _name_choices_with(where, key)
            raise UserError(
                f"{where}.{key}={value}: {target.__name__} has no {key!r}{others}; "
                f"{renamed or takes}"
            )
        hint = hints.get(key, Any)
        try:
            checked[key] = _make_validator(target, key)(value)
        except ValidationError as error:
            reasons = "; ".join(dict.fromkeys(detail["msg"] for detail in error.errors()))
            raise UserError(
                f"{where}.{key}={value}: {reasons} (expected {describe_type(hint)})"
            ) from error
    for key, parameter in parameters.items():
        is_absent = key not in checked and key not in checked_before
        if parameter.default is inspect.Parameter.empty and is_absent:
            raise UserError(
                f"{where}.{key} is missing: give {where}.{key}=... ({describe_type(hints[key])})"
            )
    return checked


@lru_cache(maxsize=2048)
def _make_validator(target: Any, key: str) -> Callable[[Any], Any]:
    """Return the function that checks a value of an argument, and converts it to its type."""
    from pydantic import ConfigDict, TypeAdapter

    hint = read_argument_hints(target).get(key, Any)
    return TypeAdapter(hint, config=ConfigDict(coerce_numbers_to_str=True)).validate_python


def _name_choices_with(group: str, key: str) -> str:
    """Return which choices of a group take an argument that another one does not: `, which ...`."""
    names = []
    for name in list_choices(group) if group.isidentifier() else ():
        try:
            target = locate(group, str(read_choice(group, name)["_target_"]))
        except UserError:  # a choice that needs what is not installed
            continue
        if key in inspect.signature(target).parameters:
            names.append(f"{group}={name}")
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f", which is an option of {', '.join(names[:SHOWN])}{more}" if names else ""


@lru_cache(maxsize=512)
def read_argument_hints(target: Any) -> Mapping[str, Any]:
    """Return the annotations of a target's arguments, each resolved where it was written.

    The `__init__` of a dataclass has the annotations of inherited fields as text. They name what
    the module of the base class imports, which that of the class itself need not.

    Args:
        target: a class or a function.

    Returns:
        The annotation of each argument that has one, by name.
    """
    if not inspect.isclass(target):
        return typing.get_type_hints(target)
    owner: Any = next(kind for kind in target.__mro__ if "__init__" in vars(kind))
    settings = vars(owner).get("__dataclass_params__")
    if settings is None or not settings.init:
        return typing.get_type_hints(owner.__init__)
    arguments, hints = inspect.signature(target).parameters, {}
    for kind in reversed(owner.__mro__):
        texts = {key: hint for key, hint in vars(kind).get("__annotations__", {}).items()
                 if key in arguments}  # fmt: skip
        annotated = types.SimpleNamespace(__annotations__=texts)
        module = vars(sys.modules[kind.__module__])
        hints.update(typing.get_type_hints(annotated, module, dict(vars(kind))))
    return hints


def describe_type(hint: Any) -> str:
    """Return an annotation as error messages show it."""
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def fill_defaults(where: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node with all defaults of its target filled in, for config.yaml and cache keys.

    Raises:
        UserError: the target cannot be imported, or a nested choice is unknown.
    """
    target = locate(where, str(node["_target_"]))
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(target).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    node = {**to_plain(defaults), **node}
    return {**node, **to_plain(_complete_nested_choices(where, target, node))}


def complete_choice(family: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a choice that a stage names, with all arguments of its target.

    Args:
        family: A folder of conf/.
        name: A choice of it.
        options: Options of the stage. They are passed to the arguments of the target that have the
            same name, unless the YAML of the choice gives the argument.

    Raises:
        UserError: There is no such choice.
    """
    where, node = f"{family} {name}", read_choice(family, name)
    parameters = inspect.signature(locate(where, str(node["_target_"]))).parameters
    given = {key: value for key, value in options.items() if key in parameters}
    return fill_defaults(where, {**given, **node})


def build_choices(family: str, names: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Build the choices that a stage names, by name; see complete_choice for `options`.

    Raises:
        UserError: An argument does not fit its annotation.
    """
    return {
        name: instantiate(f"{family} {name}", complete_choice(family, name, options))
        for name in names
    }
