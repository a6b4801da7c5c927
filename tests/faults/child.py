"""`python -m pipeline` that writes down what it does, and that is struck by a signal on the way.

    FAULT='{"events": FILE, "titles": ["explain"], "delay": 0.5, "signal": 9}' \
        python -m tests.faults.child ARGUMENT ...

The signal comes `delay` seconds after the first task with one of `titles` began; `start` is the
first moment. SIGINT goes to the whole group, as from a terminal; `again`: once more, so many
seconds later. `slow`: seconds that each image or step of a task sleeps in addition.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

from pipeline.engine.early_interrupt import end_on_signals

PLAN: dict[str, Any] = json.loads(os.environ.get("FAULT", "{}"))
SLOW = {
    "explain": ("pipeline.stages.explain.maps", None, "explain_batch", 3),
    "pseudo-labels": ("pipeline.stages.refine.pseudo_labels", "PseudoLabeler", "_label_batch", 1),
    "refine": ("pipeline.stages.refine.localization_head", "HeadFitter", "_take_step", None),
}
"""Module, class and function of what is made slow, and which argument has the images."""


def write(event: str, what: str = "", done: int = 0, total: int | None = None) -> None:
    """Append an event, which is there whatever happens to the process afterwards."""
    record = {"t": time.monotonic(), "event": event, "what": what, "done": done, "total": total}
    os.write(EVENTS, f"{json.dumps(record)}\n".encode())


def strike() -> None:
    write("struck")
    if PLAN["signal"] == signal.SIGKILL:
        os.kill(os.getpid(), signal.SIGKILL)
    os.killpg(0, PLAN["signal"])
    if PLAN.get("again") is not None:
        time.sleep(PLAN["again"])
        os.killpg(0, PLAN["signal"])


def arm(title: str) -> None:
    """Let the signal come in a while, if the task is the one."""
    if title in PLAN.get("titles", ()):
        PLAN["titles"] = ()
        timer = threading.Timer(PLAN["delay"], strike)
        timer.daemon = True
        timer.start()


def record_progress() -> None:
    """Let each task and each step of it be written down."""
    from pipeline.engine import progress

    report, advance = progress._report, progress.Task.advance

    @contextmanager
    def recorded(task: progress.Task) -> Iterator[None]:
        write("begin", task.what, task.done, task.total)
        arm(task.what)
        with report(task):
            yield
        write("end", task.what, task.done, task.total)

    def counted(self: progress.Task, n: int) -> None:
        advance(self, n)
        write("advance", self.what, self.done, self.total)

    progress._report = recorded
    progress.Task.advance = counted  # type: ignore[method-assign]


def slow_down(what: str, seconds: float) -> None:
    """Let each image, or each step, take longer, as with a slow method or network."""
    module, kind, name, batch = SLOW[what]
    place: Any = importlib.import_module(module)
    place = place if kind is None else getattr(place, kind)
    compute = getattr(place, name)

    def slow(*arguments: Any) -> Any:
        images = 1 if batch is None else arguments[batch]
        time.sleep(seconds * (len(images) if isinstance(images, Sized) else 1))
        return compute(*arguments)

    setattr(place, name, slow)


if __name__ == "__main__":
    end_on_signals()
    EVENTS = os.open(PLAN["events"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    arm("start")
    record_progress()
    for name, pause in PLAN.get("slow", {}).items():
        slow_down(name, pause)
    from pipeline.launch import run

    sys.argv[0] = "pipeline"
    run()
