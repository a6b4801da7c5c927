"""Output on the terminal: lines, tables and error messages."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


_printed_notes: set[str] = set()  # of this command: the jobs of a sweep have many in common


@cache
def _console(stderr: bool) -> Console:
    """Return rich's console; rich is imported when it is first used."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def __getattr__(name: str) -> Any:
    # Created when first used: importing rich takes longer than a run whose results all exist.
    if name == "console":
        return _console(stderr=False)
    raise AttributeError(name)


def print_line(text: str) -> None:
    """Print a text and a line break on stdout."""
    print(text, flush=True)


def print_note(text: str) -> None:
    """Print a note on what was not used, repaired or replaced; a text that was printed: nothing.

    Args:
        text: the note, a line.
    """
    if text not in _printed_notes:
        _printed_notes.add(text)
        print_line(f"note: {text}")


def forget_notes() -> None:
    """Let all notes be printed again, in another run of the same process."""
    _printed_notes.clear()


def print_error(text: str) -> None:
    """Print an error message on stderr, after the name of the program."""
    import sys

    print(f"label2box: {text}", file=sys.stderr, flush=True)
