"""Start the command line so that Ctrl-C is answered in words from the first moment on."""

from __future__ import annotations

from pipeline.engine.early_interrupt import end_on_signals


def run() -> None:
    """Run the command line in a process of its own."""
    end_on_signals()
    from pipeline.__main__ import run_and_exit  # takes tenths of a second

    run_and_exit()
