"""How much work a kill lost: what later processes do again of what the killed one had done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Events = Sequence[dict[str, Any]]


@dataclass
class Bar:
    """A task with a known number of items, and when each number of them was done."""

    name: tuple[str, str, int, int]  # stage, title, items, and how many of that name were before
    at_first: int
    times: list[tuple[float, int]]
    ended: float | None = None

    def seconds_after(self, done: int, end: float) -> float:
        """Seconds that were spent after so many items were done."""
        reached = next((t for t, count in self.times if count >= done), end)
        return (end if self.ended is None else self.ended) - reached


@dataclass
class Work:
    """What a process did: the bars of all stages, and the time of its last stage besides bars."""

    bars: list[Bar] = field(default_factory=list)
    stage: str = ""
    besides: float = 0.0


def read_work(events: Events) -> Work:
    """Follow the events of a process up to its end or to the signal."""
    work = Work()
    open_bars: list[Bar] = []
    since = 0.0  # when the last stage began, or a bar within it ended
    for event in events:
        t, kind, what = event["t"], event["event"], event["what"]
        if kind == "begin" and event["total"] is None:
            work.stage, work.besides, since = what, 0.0, t
        elif kind == "begin":
            if not open_bars:
                work.besides += t - since
            number = sum(b.name[:3] == (work.stage, what, event["total"]) for b in work.bars)
            name = (work.stage, what, event["total"], number)
            bar = Bar(name, event["done"], [(t, event["done"])])
            work.bars.append(bar)
            open_bars.append(bar)
        elif kind == "advance":
            open_bars[-1].times.append((t, event["done"]))
        elif kind == "end" and event["total"] is None:
            work.stage, work.besides = "", 0.0
        elif kind == "end":
            open_bars.pop().ended = t
            since = t
        elif kind == "struck":
            if work.stage and not open_bars:
                work.besides += t - since
            break
    return work


def lost_seconds(killed: Events, later: Sequence[Events]) -> float:
    """Return the seconds of work of a killed process that later ones did again.

    Args:
        killed: what it wrote down, the last being the signal.
        later: what each process wrote down that went on from there.
    """
    work, end = read_work(killed), killed[-1]["t"]
    again = [read_work(events) for events in later]
    repeated = 0.0
    for bar in work.bars:
        first = next((b for w in again for b in w.bars if b.name == bar.name), None)
        if first is not None and first.at_first < bar.times[-1][1]:
            repeated += bar.seconds_after(first.at_first, end)
    begun_again = {e["what"] for events in later for e in events if e["event"] == "begin"}
    return repeated + (work.besides if work.stage in begun_again else 0.0)
