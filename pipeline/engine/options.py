"""Options of stages: default, range or choices, and help, all in the metadata of the field.

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
from functools import cache
from typing import Any

from pipeline.engine.choices import list_choices
from pipeline.errors import UserError, suggest_choices

RULES = "rules"  # the key of a field's Rules in its metadata


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The allowed values of an option; of a list, those of each item.

    Args:
        help: what the option does, in a few words.
        low: the least number allowed.
        high: the greatest number allowed.
        choices: the texts allowed; empty: all.
        group: the folder of conf/ whose choices are allowed.
        pattern: a regular expression that the complete text must match.
        expected: what `pattern`, or `low` and `high` of items, mean, in words.
        item: what an item of a list is called in messages.
        required: whether a list must not be empty.
        distinct: whether the items of a list must differ.
        family: the family of which the option takes a choice, as a group of conf/ does.
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    group: str | None = None
    pattern: str | None = None
    expected: str = ""
    item: str = "choice"
    required: bool = False
    distinct: bool = False
    family: str | None = None

    def allowed(self) -> tuple[str, ...]:
        """Return `choices`, or those of `group` if it is given; empty: all texts are allowed."""
        return tuple(list_choices(self.group)) if self.group else self.choices


def option(default: Any, help: str, **rules: Any) -> Any:
    """Return a dataclass field with a default and its rules.

    Args:
        default: the value if the user gives none; a list or a dict is copied for each use.
        help: what the option does, in a few words, for `--help`.
        rules: the other fields of `Rules`.
    """
    metadata = {RULES: Rules(help=help, **rules)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def rules_of(declared: Field[Any]) -> Rules:
    """Return the rules of a field; if it has none, rules that allow all values."""
    rules: Rules = declared.metadata.get(RULES, Rules(help=""))
    return rules


def default_of(declared: Field[Any]) -> Any:
    """Return the default of a field that has one."""
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return declared.default


def walk_options(node: type[Any], prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Yield the dotted key and the field of each option of a dataclass and of those in it."""
    hints = read_hints(node)  # type: ignore[arg-type]  # classes can be hashed
    for declared in fields(node):
        key = f"{prefix}{declared.name}"
        if is_dataclass(hints[declared.name]):
            yield from walk_options(hints[declared.name], f"{key}.")
        else:
            yield key, declared


@cache
def read_hints(node: type[Any]) -> Mapping[str, Any]:
    """Return the types of the fields of a dataclass, evaluated once.

    Args:
        node: the dataclass.
    """
    return typing.get_type_hints(node)


def check_options(node: type[Any], config: Mapping[str, Any]) -> None:
    """Check the values of a configuration against the rules of their options.

    Args:
        node: the dataclass that declares the options.
        config: the values, with a mapping for each nested dataclass.

    Raises:
        UserError: names the key, the value and what is allowed.
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
    """Raise UserError unless a value, which is no list, follows its rules."""
    allowed = rules.allowed()
    if allowed and value not in allowed:
        raise UserError(f"{key}={value}: no such choice; {suggest_choices(str(value), allowed)}")
    if rules.pattern is not None and not re.fullmatch(rules.pattern, str(value)):
        raise UserError(f"{key}={value}: {rules.expected}")
    if not _in_range(value, rules):
        raise UserError(f"{key}={value}: expected a number from {rules.low} to {rules.high}")


def _check_list(key: str, values: Sequence[Any], rules: Rules) -> None:
    """Raise UserError unless a list and its items follow the rules."""
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
    """Return whether a value is a text, or a number from `low` to `high`."""
    if isinstance(value, str):
        return True
    is_above = rules.low is None or value >= rules.low
    return is_above and (rules.high is None or value <= rules.high)
