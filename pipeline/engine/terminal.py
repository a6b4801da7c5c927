"""What is printed: lines about stages, tables of numbers, one clear message for a problem."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@cache
def _console(stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def __getattr__(name: str) -> Any:
    # Made when first used: importing rich takes longer than a run in which all is done.
    if name == "console":
        return _console(stderr=False)
    raise AttributeError(name)


def print_line(text: str) -> None:
    print(text, flush=True)


def print_error(text: str) -> None:
    import sys

    print(f"label2box: {text}", file=sys.stderr, flush=True)
