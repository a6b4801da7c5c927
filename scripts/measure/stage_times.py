"""Run the command line, and write the wall and processor time of each of its parts to a file.

    python -m scripts.measure.stage_times FILE STARTED [arguments of python -m pipeline]

STARTED is the value of time.time() when this process was asked for. speed_main_job.py calls it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Times:
    """The times of the parts of a process, of which each ends where the next one begins.

    Args:
        started: time.time() when the process began.
    """

    def __init__(self, started: float) -> None:
        self.parts: dict[str, list[float]] = {}
        self._last = (started, 0.0)
        self._depth = 0  # of calls that are watched

    def end_part(self, name: str) -> None:
        """Add the time since the last call to a part: wall and processor, children included."""
        now = (time.time(), sum(os.times()[:4]))
        part = self.parts.setdefault(name, [0.0, 0.0])
        for n in range(2):
            part[n] += now[n] - self._last[n]
        self._last = now

    def watch(self, owner: Any, method: str, name: Callable[[tuple[Any, ...]], str]) -> None:
        """Let each call of a method be a part, unless it is within one; before it is `between`.

        Args:
            owner: the class.
            method: its method, which is replaced.
            name: from the arguments of a call to the name of the part.
        """
        called = getattr(owner, method)

        def timed(*arguments: Any) -> Any:
            if self._depth == 0:
                self.end_part("between")
            self._depth += 1
            try:
                return called(*arguments)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.end_part(name(arguments))

        setattr(owner, method, timed)


def main(file: str, started: str, *arguments: str) -> None:
    """Run the command line as `python -m pipeline` does; write the times where it ends."""
    times = Times(float(started))
    sys.argv = ["pipeline", *arguments]
    from pipeline.engine.early_interrupt import end_on_signals
    from pipeline.engine.passive_wait import wait_passively

    times.end_part("start: Python")
    end_on_signals()
    wait_passively()
    from pipeline import __main__ as command_line

    go = command_line.go

    def timed_go(config: Any, show_only: bool = False) -> Any:
        times.end_part("start: configuration")
        from pipeline.engine.run import Run
        from pipeline.engine.run_folder import RunFolder

        times.watch(Run, "check_stages", lambda _: "start: checks, torch")
        times.watch(Run, "get_or_create", lambda given: given[1])
        for method in ("publish", "add_notes", "finish"):
            times.watch(RunFolder, method, lambda _: "folder of the run")
        return go(config, show_only)

    command_line.go = timed_go
    try:
        command_line.run_and_exit()
    finally:
        times.end_part("between")
        Path(file).write_text(json.dumps(times.parts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
