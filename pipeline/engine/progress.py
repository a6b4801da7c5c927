"""Progress: a bar on a terminal; elsewhere, as in the log of a scheduler, a line every 30 seconds.

explain    4,096 of 25,000 images, 34/s, 10 min left
explain    4,096 of 25,000 images on 3 nodes, 34/s, 10 min left
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.engine import ranks, terminal

SECONDS_BETWEEN_LINES = 30.0  # and before the first: what ends earlier prints none

Advance = Callable[[int], None]


_place = ""


def note_place(place: str) -> None:
    """Let progress say where the items are computed.

    Args:
        place: as in "on 3 nodes"; empty: in this process.
    """
    global _place
    _place = place


@contextmanager
def show_progress(what: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
    """Show a progress bar with rate and time left; lines if stdout is no terminal.

    Args:
        what: the title.
        total: the number of items.
        done: how many are done already.
        unit: what the items are.

    Yields:
        A function that advances the bar by a number of items.
    """
    if not terminal.console.is_terminal:
        task = Task(what, total, done, unit)
        with _report(task):
            yield task.advance
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Task as BarTask
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: BarTask) -> Text:
            return Text(f"{task.speed:.0f} {unit}/s" if task.speed else "", style="dim")

    class Place(ProgressColumn):
        def render(self, task: BarTask) -> Text:
            return Text(_place, style="dim")

    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), Rate(),
               TimeRemainingColumn(compact=True), Place())  # fmt: skip
    with Progress(*columns, console=terminal.console, transient=True) as bar:
        bar_task = bar.add_task(what, total=total, completed=done)
        yield lambda n: bar.advance(bar_task, n)


@contextmanager
def show_stage(stage: str) -> Iterator[None]:
    """Print lines while a stage runs, if stdout is no terminal; also where it shows no progress.

    Args:
        stage: its name.
    """
    if terminal.console.is_terminal:
        yield
    else:
        with _report(Task(stage)):
            yield


@dataclass
class Task:
    """Work that goes on.

    Args:
        what: its title.
        total: the number of items; None: it is not known.
        done: how many of them are done.
        unit: what the items are.
    """

    what: str
    total: int | None = None
    done: int = 0
    unit: str = ""
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._at_first = self.done

    def advance(self, n: int) -> None:
        """Count more items as done."""
        self.done += n

    def describe(self, now: float) -> str:
        """Return how much is done, at which rate, and the time left.

        Args:
            now: the time as time.monotonic() gives it.

        Examples:
            >>> Task("explain", 25000, 0, "images", began=0.0).describe(30.0)
            '0 of 25,000 images, after 30 s'
        """
        if self.total is None:
            return f"still running, after {format_seconds(now - self.began)}"
        text = f"{self.done:,} of {self.total:,} {self.unit}" + f" {_place}" * bool(_place)
        seconds, count = now - self.began, self.done - self._at_first
        if count <= 0 or seconds <= 0:
            return f"{text}, after {format_seconds(seconds)}"
        left = (self.total - self.done) * seconds / count
        return f"{text}, {format_rate(count / seconds)}, {format_seconds(left)} left"


def format_rate(rate: float) -> str:
    """Format a number of items in a second.

    Examples:
        >>> format_rate(34.4), format_rate(0.25), format_rate(0.05)
        ('34/s', '0.2/s', '20 s each')
    """
    if rate < 0.1:
        return f"{1 / rate:.0f} s each"
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def format_seconds(seconds: float) -> str:
    """Format a duration in the units that a person would use.

    Examples:
        >>> format_seconds(45), format_seconds(700), format_seconds(12000)
        ('45 s', '12 min', '3 h 20 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


# -- the thread that prints ----------------------------------------------------------------------

_tasks: list[Task] = []  # the innermost last


@contextmanager
def _report(task: Task) -> Iterator[None]:
    """Let lines be printed on a task; a thread prints them while the outermost task goes on."""
    stopped = threading.Event()
    if not _tasks and ranks.launched_world().rank == 0:
        threading.Thread(target=_print_lines, args=(stopped,), daemon=True).start()
    _tasks.append(task)
    try:
        yield
    finally:
        _tasks.remove(task)
        stopped.set()


def _print_lines(stopped: threading.Event) -> None:
    """Print a line on the innermost task at each interval."""
    while not stopped.wait(SECONDS_BETWEEN_LINES):
        if tasks := list(_tasks):
            terminal.print_line(format_line(tasks, time.monotonic()))


def format_line(tasks: Sequence[Task], now: float) -> str:
    """Format a line on the innermost of tasks, which the names of all begin.

    Args:
        tasks: each goes on within the one before it.
        now: the time as time.monotonic() gives it.

    Examples:
        >>> tasks = [Task("refine"), Task("explain"), Task("explain", 90, 0, "images", began=0.0)]
        >>> tasks[-1].advance(60)
        >>> format_line(tasks, 30.0)
        'refine: explain 60 of 90 images, 2.0/s, 15 s left'
    """
    titles = [task.what.removeprefix(f"{tasks[0].what}: ") for task in tasks]
    return f"{': '.join(dict.fromkeys(titles)):<10} {tasks[-1].describe(now)}"
