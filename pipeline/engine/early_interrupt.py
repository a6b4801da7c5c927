"""Answer Ctrl-C and SIGTERM while the command line is imported: in words, and with an end at once.

Nothing was begun yet. What pipeline/engine/interrupt.py does later needs imports of its own.
"""

from __future__ import annotations

import os
import signal

EXIT_CODE = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # schedulers send SIGTERM before they kill
STOPPED = "stopped; what was finished is kept, and the same command goes on from here"


def end_on_signals() -> None:
    """Let signals end the process, except those that are ignored or handled already."""
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def _end(number: int, frame: object) -> None:
    """Say on stderr, of several ranks in rank 0 alone, that the command stopped; end it."""
    if os.environ.get("RANK", "0") == "0":
        start = "\n" if os.isatty(2) else ""  # the terminal has shown ^C
        try:  # noqa: SIM105, contextlib is not imported yet
            os.write(2, f"{start}label2box: {STOPPED}\n".encode())
        except OSError:  # nobody reads it
            pass
    os._exit(EXIT_CODE)
