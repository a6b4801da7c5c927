"""Answer Ctrl-C and SIGTERM in words, stop soon, and on the second signal stop at once.

The first signal raises KeyboardInterrupt in the main thread, except within an import: there some
libraries abort the process, with pages of stack, so it is ended at once. A thread answers on
stderr, as the main thread may be within a library for seconds, and ends the process where it does
not stop itself in time: by a long batch of a worker thread, for example. Nothing is damaged by
that: files are written atomically, and the system releases the locks of a process that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import util
from types import FrameType
from typing import NoReturn

from pipeline.engine import ranks, terminal
from pipeline.engine.early_interrupt import EXIT_CODE, SIGNALS, STOPPED

SECONDS_TO_STOP = 3.0  # after the first signal; then the process is ended
ANSWER = "stopping within 5 seconds, what is finished is kept; Ctrl-C again stops at once"
STOPPED_AT_ONCE = (
    "stopped at once; what was finished is kept, and the same command goes on from here"
)
IMPORTER = "<frozen importlib._bootstrap>"  # whose frames are below those of a module
SHOW_CURSOR = "\x1b[?25h"

at_forced_end: list[Callable[[], object]] = []
"""What is called before the process is ended while the main thread still works."""


@contextmanager
def handle_interrupts() -> Iterator[None]:
    """Let signals stop the block; restore their handlers after it.

    SIGINT stays ignored where it was, as in the background jobs of a shell.
    """
    handled = [n for n in SIGNALS if n != signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    handle = _raise_once()
    before = {number: signal.signal(number, handle) for number in handled}
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(receiver, handled), daemon=True).start()
    hook, sys.unraisablehook = sys.unraisablehook, _hide_interrupts(sys.unraisablehook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        sender.close()  # the thread ends


def _raise_once() -> Callable[[int, FrameType | None], None]:
    """Return a handler that raises KeyboardInterrupt at the first signal, and nothing later.

    A second exception would interrupt how the first is handled.
    """
    is_stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if not is_stopping:
            is_stopping = True
            if _is_importing(frame):
                end_process(STOPPED)
            raise KeyboardInterrupt

    return handle


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a module is imported in a frame or in one that called it."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTER:
            return True
        frame = frame.f_back
    return False


def _hide_interrupts(
    report: Callable[[sys.UnraisableHookArgs], object],
) -> Callable[[sys.UnraisableHookArgs], object]:
    """Return a function that reports exceptions which nobody can catch, except KeyboardInterrupt.

    It is raised wherever the main thread is, as in a destructor. The process is ended all the same.
    """

    def hook(raised: sys.UnraisableHookArgs) -> None:
        if not issubclass(raised.exc_type, KeyboardInterrupt):
            report(raised)

    return hook


def _watch(receiver: socket.socket, handled: Collection[int]) -> None:
    """Answer the signals whose numbers Python writes to a socket; end the process if need be."""
    deadline: float | None = None
    with receiver:
        while True:
            receiver.settimeout(
                None if deadline is None else max(0.01, deadline - time.monotonic())
            )
            try:
                numbers = receiver.recv(64)
            except TimeoutError:
                end_process(STOPPED)
            if not numbers:
                return
            for _ in (number for number in numbers if number in handled):
                if deadline is not None:
                    end_process(STOPPED_AT_ONCE)
                deadline = time.monotonic() + SECONDS_TO_STOP
                if sys.stderr.isatty():  # the terminal has shown ^C
                    sys.stderr.write("\n")
                _print_answer()


_SPEAKING = threading.Lock()
_is_ending = False


def _print_answer() -> None:
    """Say that the command stops, unless the main thread has said that it has stopped."""
    with _SPEAKING:
        if not _is_ending:
            _print_on_rank_0(ANSWER)


def end_process(message: str | None = None) -> NoReturn:
    """End this process and those that it started, and wait for no thread.

    Args:
        message: printed before.
    """
    global _is_ending
    with _SPEAKING:
        _is_ending = True
        if message is not None:
            _print_on_rank_0(message)
    with suppress(OSError, ValueError):
        if sys.stdout.isatty():  # a progress bar hides the cursor
            sys.stdout.write(SHOW_CURSOR)
        sys.stdout.flush()
    for call in at_forced_end:
        with suppress(Exception):
            call()
    for process in multiprocessing.active_children():
        process.kill()
    with suppress(Exception):  # removes semaphores: a process that outlives this one warns of them
        util._run_finalizers(0)  # type: ignore[attr-defined]
    os._exit(EXIT_CODE)


def print_stopped() -> None:
    """Say that the command was stopped, and how to continue."""
    _print_on_rank_0(STOPPED)


def _print_on_rank_0(message: str) -> None:
    """Print a message on stderr, of several ranks in rank 0 alone."""
    if ranks.launched_world().rank > 0:
        return
    with suppress(OSError, ValueError):
        terminal.print_error(message)
