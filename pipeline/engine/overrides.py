"""Check the overrides of the command line before Hydra reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.choices import EXTRA_FOLDER, list_choices
from pipeline.engine.config import FAMILIES, RUNNER, nested_choices, skeleton
from pipeline.engine.options import read_hints
from pipeline.errors import UserError, suggest_choices
from pipeline.ops.renamed import KEYS, describe_renaming


def prepare_overrides(arguments: Sequence[str]) -> list[str]:
    """Check the arguments of the command line, and return them as Hydra takes them.

    An argument of a choice becomes `++key=value`, as it need not be in the YAML of the choice.

    Args:
        arguments: overrides, and flags of Hydra, which are returned unchanged.

    Raises:
        UserError: names the key, the value and the choices.
    """
    use_config_folder(arguments)
    are_flags = [_is_flag(a, i, arguments) for i, a in enumerate(arguments)]
    given = list(zip(arguments, are_flags, strict=True))
    # Flags first: Hydra's parser refuses overrides on both sides of one.
    checked = [argument for argument, is_flag in given if is_flag]
    checked += [_check_override(argument) for argument, is_flag in given if not is_flag]
    keys = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    # saliency= selects a method, so the experiment's list of methods does not apply.
    names_method = "saliency" in keys and "explain.methods" not in keys
    return [*checked, "++explain.methods=[]"] if names_method else checked


VALUE_FLAGS = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package",
               "-p", "--info", "-i", "--cfg", "-c", "--experimental-rerun"}  # fmt: skip


def use_config_folder(arguments: Sequence[str]) -> None:
    """Let the choices in the folder of `--config-dir` be listed from now on."""
    for n, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = Path(value if equals else "".join(arguments[n + 1 : n + 2]))
            if not folder.is_dir():
                raise UserError(f"--config-dir {folder}: no such folder; expected one like conf/")
            os.environ[EXTRA_FOLDER] = str(folder.resolve())


def _is_flag(argument: str, index: int, arguments: Sequence[str]) -> bool:
    """Return whether an argument is a flag of Hydra, or the value of the flag before it."""
    return argument.startswith("-") or (index > 0 and arguments[index - 1] in VALUE_FLAGS)


def _check_override(argument: str) -> str:
    """Check an override, and return it as Hydra takes it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if argument[:1] in ("'", '"') and argument[-1:] == argument[:1] and "=" in argument:
        raise UserError(
            f"{argument}: the quotes around it were not taken by a shell; leave them away, as in "
            f"{argument[1:-1]}, or give double quotes in cmd.exe"
        )
    text, equals, value = argument.partition("=")
    key = text.lstrip("+~")
    try:
        parsed = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        if not equals and not argument.startswith("~"):
            raise UserError(
                f"{argument!r}: expected key=value, as in segmenter.threshold=0.3"
            ) from None
        if _names_path(value):
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            return _check_override(f"{text}='{escaped}'")
        quoted = quote_non_ascii(value)
        if quoted != value and _is_readable(f"{text}={quoted}"):
            return _check_override(f"{text}={quoted}")
        raise UserError(
            f"{key}: Hydra's grammar cannot read the value {value!r} ({first_line(error)}).\n"
            f"Text with = , : brackets, braces, quotes or spaces is quoted twice, "
            f"once for the shell and once for Hydra:\n"
            f"    {quote_for_shell(key, value)}"
        ) from None
    group = key.split("@")[0]
    if group in (*FAMILIES, RUNNER, "experiment") and not parsed.is_delete():
        _check_group(group, text, parsed)
        return argument
    head = key.split(".")[0]
    if head == "hydra" or key.startswith("hydra/") or parsed.is_delete():
        return argument
    if head in (*FAMILIES, RUNNER) or any(
        key.startswith(f"{place}.") for place in nested_choices()
    ):
        return argument if text.startswith("+") else f"++{argument}"
    check_key(key)
    return f"++{argument.lstrip('+')}" if text.startswith("+") else argument


QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
WORDS = re.compile(rf"(?P<quoted>{QUOTED})|(?P<words>[^\s,\[\]{{}}():='\"][^,\[\]{{}}():='\"]*)")


def quote_non_ascii(value: str) -> str:
    """Quote the words of a value that Hydra's grammar cannot read for a letter beyond ASCII.

    Words that are quoted already, and lists, stay as they are.

    Args:
        value: what stands after the `=` of an override.

    Examples:
        >>> quote_non_ascii("[tea, café]")
        "[tea, 'café']"
    """

    def quote(match: re.Match[str]) -> str:
        words = match["words"]
        if words is None or words.isascii():
            return match[0]
        bare = words.rstrip()
        return f"'{bare}'{words[len(bare) :]}"

    return WORDS.sub(quote, value)


def _is_readable(override: str) -> bool:
    """Return whether Hydra's grammar can read an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _names_path(value: str) -> bool:
    """Return whether a value is a path, or a glob in a folder, that exists as it is written.

    Names of folders and photographs have brackets, parentheses and quotes, which Hydra's grammar
    keeps for lists and calls.
    """
    path = Path(os.path.expanduser(value))
    parents = [folder for folder in path.parents if folder.name]
    return os.path.lexists(path) or any(folder.is_dir() for folder in parents)


def _check_group(group: str, text: str, parsed: Any) -> None:
    """Raise UserError unless an override of a config group names choices of it.

    Args:
        group: the group.
        text: what stands before the `=`, with a plus perhaps.
        parsed: Hydra's override.
    """
    from hydra.core.override_parser.types import Glob

    values = parsed.value()
    if isinstance(values, Glob):
        return
    if isinstance(values, list):
        remedy = (
            "explain.methods=[...] runs several methods"
            if group == "saliency"
            else f"a sweep is -m {group}={','.join(map(str, values))}"
        )
        raise UserError(f"{group}={values}: one choice is expected, not a list; {remedy}")
    chosen = values.list if parsed.is_choice_sweep() else [values]
    for choice in chosen:
        if str(choice) not in list_choices(group):
            raise UserError(
                f"{group}={choice}: no such choice; "
                f"{suggest_choices(str(choice), list_choices(group))}"
            )
    if group == "experiment" and not text.startswith("+"):
        raise UserError(f"experiment is added with a plus: +experiment={chosen[0]}")


def quote_for_shell(key: str, value: str) -> str:
    """Return an override, quoted for Hydra and then for a shell."""
    escaped = value.strip("'\"").replace("\\", "\\\\").replace("'", "\\'")
    inner = f"{key}='{escaped}'"
    for mark in ("\\", '"', "$", "`"):
        inner = inner.replace(mark, "\\" + mark)
    return f'"{inner}"'


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n")[0]


def explain_hydra_error(error: Exception) -> str:
    """Return the message of an error of Hydra or OmegaConf as key, value and reason."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).split("\n") if line.strip()]
    override = re.search(r"override (\S+)", str(error))
    if override and "is not a ListConfig, list or tuple" in lines[0]:
        key, _, value = override.group(1).lstrip("+").partition("=")
        return f"{key}={value}: a list is expected, as in '{key}=[{value}]'"
    if override and isinstance(cause, Exception) and cause is not error:
        return f"{override.group(1).lstrip('+')}: {lines[0]}"
    details = ("full_key:", "reference_type=", "object_type=", "Config search path", "provider=")
    return "\n".join(line for line in lines if not line.startswith(details))


def check_key(key: str) -> None:
    """Raise UserError unless the skeleton of the configuration has a dotted key."""
    node: Any = skeleton()
    path: list[str] = []
    for part in key.split("."):
        names = [f.name for f in fields(node)] if is_dataclass(node) else []
        if part not in names:
            where = ".".join(path) or "the configuration"
            if not names:
                raise UserError(f"{key}: {where} is a value, it has no {part!r}")
            keys = [".".join([*path, name]) for name in names]
            renamed = describe_renaming(KEYS, key)
            known = suggest_choices(".".join([*path, part]), keys)
            raise UserError(f"{key}: no such key{renamed or f'; {known}'}")
        path.append(part)
        node = read_hints(node)[part]
