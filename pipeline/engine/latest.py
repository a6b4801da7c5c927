"""Links named `latest`: what they lead to before a sweep, and the newest run that has some file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.formats.files import find_below
from pipeline.formats.stored import is_address

LATEST = "latest"  # in the folder of outputs; it links to the newest run
MAX_LINKS = 40  # of a chain, as many as the kernel of Linux follows
SEPARATORS = re.compile(r"[=,\[\]{}'\"]")  # between the values of an override


def read_latest_links(arguments: Iterable[str]) -> dict[str, str]:
    """Return what each link through a `latest` leads to now, before a sweep changes it.

    Args:
        arguments: of the command line; the paths in their values are looked at, and the `latest`
            of each folder of outputs.

    Returns:
        The resolved path by the absolute path of the link; empty where there is no run yet.
    """
    links: dict[str, str] = {}
    parts = [SEPARATORS.split(argument) for argument in arguments]
    outputs = [value for key, *values in parts if key.lstrip("+") == "outputs" for value in values]
    texts = [text.strip() for _, *values in parts for text in values if text.strip()]
    for text in (*texts, *(f"{folder}/{LATEST}" for folder in ("outputs", *outputs))):
        if is_address(text):  # remote_checkpoint.py remembers what `latest` named at first
            continue
        for prefix in _prefixes(Path(text)):
            is_absent = prefix.name == LATEST and "/" in text and not prefix.exists()
            if is_absent or (prefix.is_symlink() and _leads_through_latest(prefix)):
                place = os.path.realpath(prefix) if prefix.exists() else ""
                links[os.path.abspath(prefix)] = place
    return links


def resolve_latest_links(node: Any, links: Mapping[str, str]) -> None:
    """Replace, in a composed configuration, paths through links by what these led to at start.

    Args:
        node: a DictConfig or ListConfig, which is changed.
        links: what `read_latest_links` returned.

    Raises:
        UserError: a path leads through a link that did not exist.
    """
    from omegaconf import DictConfig, ListConfig, OmegaConf

    keys = list(range(len(node)) if isinstance(node, ListConfig) else node)
    for key in keys:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig | ListConfig):
            resolve_latest_links(value, links)
        elif isinstance(value, str) and (resolved := _resolve(str(key), value, links)) != value:
            node[key] = resolved


def _resolve(key: str, value: str, links: Mapping[str, str]) -> str:
    """Return a path without the links, relative where it was; any other text as it is."""
    if not value or "\0" in value or is_address(value):
        return value
    path = Path(value)
    for prefix in _prefixes(path):
        place = links.get(os.path.abspath(prefix))
        if place is None:
            continue
        if not place:
            raise UserError(
                f"{key}={value}: there was no such run before the sweep, and a job of a sweep is "
                f"not used by the next; give the folder of a run, as outputs/runs/NAME/TIME"
            )
        rest = path.relative_to(prefix)
        return str((Path(place) if path.is_absolute() else Path(os.path.relpath(place))) / rest)
    return value


def _prefixes(path: Path) -> list[Path]:
    """Return the folders above a path, the highest first, and the path."""
    return [*reversed(path.parents), path]


def _leads_through_latest(link: Path, links_left: int = MAX_LINKS) -> bool:
    """Return whether a link is named `latest`, or leads to a path through one that is."""
    if link.name == LATEST:
        return True
    target = link.parent / os.readlink(link)
    return links_left > 0 and any(
        _leads_through_latest(prefix, links_left - 1)
        for prefix in _prefixes(target)
        if prefix.is_symlink()
    )


def find_outputs(run: Path) -> Path | None:
    """Return the folder of outputs that a run lies in; None where it lies in none.

    Args:
        run: the folder of a run, or a link to it.
    """
    resolved = run.resolve()
    if len(resolved.parents) < 3 or resolved.parent.parent.name != "runs":
        return None
    return _shorten(resolved.parents[2])


def _shorten(path: Path) -> Path:
    """Return a path relative to the current folder where it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def find_newest_run(near: Path, files: Sequence[str]) -> Path | None:
    """Return the newest run that has one of some files; None where no run has.

    Args:
        near: a run, or what should be one, or a folder of outputs: the runs of the same folder of
            outputs are searched.
        files: paths below the folder of a run.
    """
    resolved = near.resolve()
    runs = next((f / "runs" for f in (resolved, *resolved.parents) if (f / "runs").is_dir()), None)
    if runs is None:
        return None
    having = [
        run for run in find_below(runs, "*/*") if any((run / file).is_file() for file in files)
    ]
    newest = max(having, key=lambda run: run.stat().st_mtime_ns, default=None)
    return None if newest is None else _shorten(newest)
