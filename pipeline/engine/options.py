"""Options of stages: a default, a range or choices, and help, all in the field's own metadata.

    @dataclass
    class DrawOptions:
        side: int = option(1024, "the longer side of a picture, in pixels", low=32, high=16384)

From these fields follow the typed skeleton of the configuration, `--help`, and every check.
"""

from __future__ import annotations

import copy
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any

from pipeline.engine.choices import list_choices
from pipeline.errors import UserError, suggest_choices

RULES = "rules"  # under which a field's metadata holds its Rules


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What an option may be; of a list, what each of its items may be."""

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    group: str | None = None  # the choices are those of this folder of conf/
    pattern: str | None = None  # a regular expression that the whole text matches
    expected: str = ""  # what `pattern`, or `low` and `high` of items, mean, in words
    item: str = "choice"  # what the choices of a list are called in messages
    required: bool = False  # a list names at least one
    distinct: bool = False  # a list names each once
    family: str | None = None  # a whole choice of this family stands here, as in a group of conf/

    def allowed(self) -> tuple[str, ...]:
        """Return the choices, those of `group` where one is named."""
        return tuple(list_choices(self.group)) if self.group else self.choices


def option(default: Any, help: str, **rules: Any) -> Any:
    """Return a dataclass field with a default and its rules.

    Args:
        default: the value where the user gives none; a list or a dict is copied for each use.
        help: what the option does, in a few words, for `--help`.
        rules: the other fields of `Rules`.
    """
    metadata = {RULES: Rules(help=help, **rules)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def rules_of(declared: Field[Any]) -> Rules:
    """Return the rules of a field; those of a field without any allow everything."""
    rules: Rules = declared.metadata.get(RULES, Rules(help=""))
    return rules


def default_of(declared: Field[Any]) -> Any:
    """Return the default of a field that has one."""
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return declared.default


def walk_options(node: type[Any], prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Yield the key and the field of every option of a dataclass and of those within it."""
    hints = typing.get_type_hints(node)
    for declared in fields(node):
        key = f"{prefix}{declared.name}"
        if is_dataclass(hints[declared.name]):
            yield from walk_options(hints[declared.name], f"{key}.")
        else:
            yield key, declared


def check_options(node: type[Any], config: Mapping[str, Any]) -> None:
    """Check every value of a configuration against the rules of its option.

    Raises:
        UserError: with the key, the value and what is allowed.
    """
    for key, declared in walk_options(node):
        value: Any = config
        for part in key.split("."):
            value = value[part]
        rules = rules_of(declared)
        if isinstance(value, Sequence) and not isinstance(value, str):
            _check_list(key, value, rules)
        elif value is not None:
            _check_value(key, value, rules)


def _check_value(key: str, value: Any, rules: Rules) -> None:
    allowed = rules.allowed()
    if allowed and value not in allowed:
        raise UserError(f"{key}={value}: no such choice; {suggest_choices(str(value), allowed)}")
    if rules.pattern is not None and not re.fullmatch(rules.pattern, str(value)):
        raise UserError(f"{key}={value}: {rules.expected}")
    if not _in_range(value, rules):
        raise UserError(f"{key}={value}: expected a number from {rules.low} to {rules.high}")


def _check_list(key: str, values: Sequence[Any], rules: Rules) -> None:
    allowed = rules.allowed()
    if rules.required and not values:
        choices = f"; choices: {', '.join(allowed)}" if allowed else ""
        raise UserError(f"{key}=[]: name at least one{choices}")
    if rules.distinct and len({str(value) for value in values}) != len(values):
        raise UserError(f"{key}={[*values]}: each {rules.item} once")
    for value in values:
        if allowed and value not in allowed:
            known = suggest_choices(str(value), allowed)
            raise UserError(f"{key}: no such {rules.item} {str(value)!r}; {known}")
        if not _in_range(value, rules):
            raise UserError(f"{key}={[*values]}: expected {rules.expected}")


def _in_range(value: Any, rules: Rules) -> bool:
    if isinstance(value, str):
        return True
    low = rules.low is None or value >= rules.low
    return low and (rules.high is None or value <= rules.high)
