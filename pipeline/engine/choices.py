"""The choices of conf/: which there are, and how one is read, completed, checked and built.

An argument of a choice is checked against the annotations of its class, so its default stands in
one place, the class, and a YAML need not repeat it."""

from __future__ import annotations

import importlib
import inspect
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.engine.renamed import CLASSES, describe_renaming
from pipeline.errors import UserError, suggest_choices
from pipeline.ops.hashing import to_plain
from pipeline.protocols import SaliencyMethod, Segmenter


def conf_folder() -> Path:
    """`conf/` of the checkout, or its copy in an installed wheel."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


EXTRA_FOLDER = "LABEL2BOX_CONFIG_DIR"
"""The environment variable that holds the folder of `--config-dir`, for this process and those that
it starts: further choices, a folder for each group as in conf/."""


def choice_files(group: str) -> dict[str, Path]:
    """Return the YAML file of each choice of a config group, sorted by name.

    A choice of the user's own folder (`--config-dir`) comes before one of conf/ of that name.
    """
    extra = os.environ.get(EXTRA_FOLDER)
    folders = [conf_folder(), *([Path(extra)] if extra else [])]
    files = {path.stem: path for folder in folders for path in (folder / group).glob("*.yaml")}
    return dict(sorted(files.items()))


def list_choices(group: str) -> list[str]:
    """Return the names of the choices of a config group."""
    return list(choice_files(group))


def read_choice(group: str, name: str) -> Mapping[str, Any]:
    """Return one choice of a group as its YAML has it.

    Raises:
        UserError: where the group has no such choice.
    """
    files = choice_files(group)
    if name not in files:
        raise UserError(f"{group}={name}: no such choice; {suggest_choices(name, files)}")
    path = files[name]
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, changed: int) -> Mapping[str, Any]:
    """Read a YAML; `changed`, its time stamp, is a part of what it is remembered by."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def instantiate(where: str, node: Mapping[str, Any], within: str = "") -> Any:
    """Build what `_target_` names, its arguments checked against the target's annotations.

    `within` restricts the targets, for nodes that come from a file and not from the user (a
    checkpoint's card). Raises UserError with the key, the value and what the target takes.
    """
    name = str(node["_target_"])
    if within and not may_be_named(within.split(".")[1], name):
        raise UserError(
            f"{where}: {name!r} is not one of {within}*: refused, a card must not run code"
        )
    target = locate(where, name)
    given = {key: value for key, value in node.items() if key != "_target_"}
    parts = {
        key: _map_each(value, lambda n, one: instantiate(n, one, within), f"{where}.{key}")
        for key, value in _nested_choices(where, target, given).items()
    }
    plain_ones = {key: value for key, value in given.items() if key not in parts}
    arguments = {**check_arguments(where, target, plain_ones, parts), **parts}
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
    """Import what a `_target_` names.

    Raises:
        UserError: It cannot be imported.
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
"""What an argument may be annotated as to take a choice of that family, by name or as a node."""


def _nested_choices(where: str, target: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are choices of a family themselves, completed: a node or a tuple."""
    subject = target if inspect.isfunction(target) else target.__init__
    found: dict[str, Any] = {}
    for key, hint in typing.get_type_hints(subject).items():
        several = typing.get_origin(hint) is tuple
        family = NESTED_FAMILIES.get(typing.get_args(hint)[0] if several else hint)
        if family is None or key not in given:
            continue
        value = given[key]
        if several and not isinstance(value, list | tuple):
            raise UserError(f"{where}.{key}={value}: a list of choices of {family} is expected")
        nodes = [
            _nested_choice(f"{where}.{key}", family, one) for one in (value if several else [value])
        ]
        found[key] = tuple(nodes) if several else nodes[0]
    return found


def _nested_choice(where: str, family: str, value: Any) -> dict[str, Any]:
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


def _map_each(value: Any, change: Callable[[str, Any], Any], where: str) -> Any:
    return (
        tuple(change(where, v) for v in value) if isinstance(value, tuple) else change(where, value)
    )


def list_targets(node: Any) -> list[str]:
    """Every `_target_` in a node, those of its parts too."""
    if isinstance(node, Mapping):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [name for value in node.values() for name in list_targets(value)]
    if isinstance(node, list | tuple):
        return [name for value in node for name in list_targets(value)]
    return []


def check_arguments(
    where: str, target: Any, given: Mapping[str, Any], checked_before: Iterable[str] = ()
) -> dict[str, Any]:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    parameters = inspect.signature(target).parameters
    subject = target if inspect.isfunction(target) else target.__init__
    hints = typing.get_type_hints(subject)
    checked = {}
    for key, value in given.items():
        if key not in parameters:
            takes = suggest_choices(key, parameters) if parameters else "it takes no arguments"
            raise UserError(f"{where}.{key}={value}: {target.__name__} has no {key!r}; {takes}")
        hint = hints.get(key, Any)
        try:
            adapter = TypeAdapter(hint, config=ConfigDict(coerce_numbers_to_str=True))
            checked[key] = adapter.validate_python(value)
        except ValidationError as error:
            reasons = "; ".join(dict.fromkeys(one["msg"] for one in error.errors()))
            raise UserError(
                f"{where}.{key}={value}: {reasons} (expected {describe_type(hint)})"
            ) from error
    for key, parameter in parameters.items():
        absent = key not in checked and key not in checked_before
        if parameter.default is inspect.Parameter.empty and absent:
            raise UserError(
                f"{where}.{key} is missing: give {where}.{key}=... ({describe_type(hints[key])})"
            )
    return checked


def describe_type(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def fill_defaults(where: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The node with every default of its target filled in, as config.yaml and keys have it."""
    target = locate(where, str(node["_target_"]))
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(target).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    node = {**to_plain(defaults), **node}
    return {**node, **to_plain(_nested_choices(where, target, node))}


def complete_choice(family: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a choice that a stage names, with all arguments of its target.

    Args:
        family: A folder of conf/.
        name: A choice of it.
        options: Options of the stage. Those that the target takes an argument of the same name for
            are handed on; an argument that the choice's YAML gives stands.
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
