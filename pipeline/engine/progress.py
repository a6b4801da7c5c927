"""A progress bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


@contextmanager
def show_progress(what: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
    """Show a progress bar with rate and time left, if stdout is a terminal.

    Args:
        what: the title.
        total: the number of items.
        done: how many are done already.
        unit: what the items are.

    Yields:
        A function that advances the bar by a number of items.
    """
    from pipeline.engine.terminal import console

    if not console.is_terminal:
        yield lambda n: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} {unit}/s" if task.speed else "", style="dim")

    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), Rate(),
               TimeRemainingColumn(compact=True))  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda n: bar.advance(task, n)
