"""Shards of a data set by pattern: one tar, a folder of them, braces, a glob, addresses."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence

from pipeline.errors import UserError
from pipeline.formats import stored
from pipeline.formats.remote_errors import describe_failure
from pipeline.formats.retries import send

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
CHOICES = re.compile(r"\{([^{}]*,[^{}]*)\}")
MAX_SHARDS = 1_000_000


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern with braces stands for, as a shell does.

    Args:
        pattern: With ranges of numbers, as {000..099}, and choices, as {a,b}.

    Raises:
        UserError: A range is reversed, or far too long.

    Examples:
        >>> [*expand_braces("s-{08..11}.tar")]
        ['s-08.tar', 's-09.tar', 's-10.tar', 's-11.tar']
        >>> [*expand_braces("{a,b}-{0..1}.tar")]
        ['a-0.tar', 'a-1.tar', 'b-0.tar', 'b-1.tar']
    """
    match = min(
        (match for form in (RANGE, CHOICES) if (match := form.search(pattern))),
        key=lambda match: match.start(),
        default=None,
    )
    if match is None:
        yield pattern
        return
    start, end = pattern[: match.start()], pattern[match.end() :]
    parts: Sequence[str] = match[1].split(",")
    if match.re is RANGE:
        first, last = int(match[1]), int(match[2])
        if not first <= last < first + MAX_SHARDS:
            raise UserError(f"{pattern}: {match[0]} is no range of shards; expected {{000..099}}")
        width = len(match[1])
        parts = [f"{number:0{width}}" for number in range(first, last + 1)]
    for part in parts:
        for rest in expand_braces(end):
            yield f"{start}{part}{rest}"


def find_shards(option: str, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the shards that patterns stand for, each once, and those that are not there.

    Args:
        option: Its name, for messages.
        patterns: Tar files, folders of them, globs, or patterns with braces; local or addresses.

    Raises:
        UserError: There is no shard.
    """
    shards, missing = dict[str, None](), list[str]()
    for pattern in patterns:
        for name in expand_braces(os.path.expanduser(str(pattern))):
            names = _list_address(name) if stored.is_address(name) else _list_local(name)
            if not names:
                missing.append(name)
            shards.update(dict.fromkeys(names))
    if not shards:
        looked = ", ".join(map(repr, patterns))
        raise UserError(
            f"data.{option}: no shard in {looked} (seen from {os.getcwd()}); expected a .tar, a "
            "folder of them, or a pattern as 'train-{000..099}.tar' or 'train-*.tar'"
            + _describe_gone(missing)
        )
    return list(shards), missing


def _describe_gone(names: Sequence[str]) -> str:
    """Return what to add where an address has no bucket or folder; empty: all have one."""
    for name in filter(stored.is_address, names):
        start = name[: min((name.find(c) for c in "*?[" if c in name), default=len(name))]
        folder = start if start.endswith("/") or start == name else os.path.dirname(start)
        if not stored.exists(folder.rstrip("/")):
            return f"; {folder} is not there: see whether bucket and path are spelled so"
    return ""


def _list_local(name: str) -> list[str]:
    if os.path.isdir(name):
        return sorted(glob.glob(os.path.join(glob.escape(name), "*.tar")))
    if os.path.isfile(name):
        return [name]
    return sorted(glob.glob(name)) if glob.has_magic(name) else []


def _list_address(name: str) -> list[str]:
    """Return shards at an address; those of plain names without a request."""
    if name.endswith(".tar") and not glob.has_magic(name):
        return [name]
    system, path = stored.open_address(name)
    pattern = path if glob.has_magic(path) else f"{path.rstrip('/')}/*.tar"
    try:
        paths = sorted(map(str, send(name, lambda: system.glob(pattern), is_patient=False)))
    except UserError:
        raise
    except Exception as error:  # each file system of fsspec has errors of its own
        raise UserError(f"{name}: cannot be listed ({describe_failure(name, error)})") from None
    return [str(system.unstrip_protocol(each)) for each in paths]


def name_shards(shards: Sequence[str]) -> list[str]:
    """Return what ids begin with for each shard: its path below the folder of all, without .tar.

    Args:
        shards: Paths and addresses that differ.

    Examples:
        >>> name_shards(["/a/train/0.tar", "/a/val/0.tar"]), name_shards(["/a/0.tar"])
        (['train/0', 'val/0'], ['0'])
    """
    folders = {shard[: shard.rfind("/") + 1] for shard in shards}
    first, last = min(folders), max(folders)  # what these share, all share
    length = 0
    while length < len(first) and first[length] == last[length : length + 1]:
        length += 1
    start = first[:length].rfind("/") + 1
    return [shard[start:].removesuffix(".tar") for shard in shards]
