"""Start the command line: answer Ctrl-C in words from the first moment on, and wait passively."""

from __future__ import annotations

from pipeline.engine.early_interrupt import end_on_signals
from pipeline.engine.passive_wait import wait_passively


def run() -> None:
    """Run the command line in a process of its own."""
    end_on_signals()
    wait_passively()  # before torch is imported
    from pipeline.__main__ import run_and_exit  # takes tenths of a second

    run_and_exit()
