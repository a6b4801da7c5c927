"""Locks in an object store, where nothing can be renamed and no lock ends with its process.

A lock is a file that is created on the condition that there is none (on S3 by `If-None-Match: *`).
Its holder writes it again from time to time; a lock that is not written for STALE seconds, by the
clock of the store, is taken over: files are numbered, and the holder is that of the highest number.
Of several that take over, one alone creates the next number. A lock of a process of this machine
that has ended is taken over at once.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from functools import cache
from pathlib import Path

from pipeline.formats.remote import RemoteFolder

FOLDER = ".locks"  # in the folder of outputs
BEAT = 30.0  # seconds after which the holder writes its lock again
STALE = 300.0  # seconds after which a lock that was not written is taken over

_held: set[str] = set()  # the owners of the locks that this process holds


class RemoteLock:
    """A lock by its name, in the folder `.locks` of a remote folder of outputs.

    Args:
        outputs: the remote folder.
        name: of the lock, as `train/0123456789abcdef`.
    """

    def __init__(self, outputs: RemoteFolder, name: str) -> None:
        self._outputs, self._folder = outputs, f"{FOLDER}/{name}"
        self._owner = uuid.uuid4().hex
        self._number = 0  # of the file that this one holds; 0: none

    def acquire(self) -> bool:
        """Take the lock if it is free, or its holder is gone; return whether it is held now."""
        numbers = self._list()
        if numbers and not self._is_abandoned(max(numbers)):
            return False
        number = max(numbers, default=0) + 1
        _held.add(self._owner)  # before there is a file: another thread may read it at once
        try:
            if self._outputs.create(self._path(number), self._content()):
                self._number = number
        finally:
            if not self._number:
                _held.discard(self._owner)
        return self._number > 0

    def renew(self) -> bool:
        """Say that the holder is there; return False where another has taken the lock over."""
        numbers = self._list()
        if self._number not in numbers or max(numbers) > self._number:
            return False
        self._outputs.write(self._path(self._number), self._content())
        return True

    def release(self) -> None:
        """Give the lock back, and delete the files of holders that are gone.

        Raises:
            UserError: the store cannot be reached; this process holds the lock no longer.
        """
        _held.discard(self._owner)
        if self._number and self._number in (numbers := self._list()):
            lower = [number for number in numbers if number < self._number]
            for number in (self._number, *lower):
                self._outputs.delete([self._path(number)])
        self._number = 0

    def _list(self) -> list[int]:
        names = self._outputs.list(self._folder)
        return [int(name) for name in names if name.isdecimal()]

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:06d}"

    def _content(self) -> bytes:
        record = {"owner": self._owner, "machine": machine_id(), "process": os.getpid()}
        return json.dumps(record).encode()

    def _is_abandoned(self, number: int) -> bool:
        """Return whether the holder of a lock is gone."""
        path = self._path(number)
        record = self._outputs.read_record(path)
        if record is None:  # just released, or just being written
            return False
        if record.get("machine") == machine_id():
            process = int(record["process"])
            is_own = process == os.getpid()
            if (is_own and record["owner"] not in _held) or not is_running(process):
                return True
        written = self._outputs.modified(path)
        clock = f"{FOLDER}/.clock-{self._owner}"
        self._outputs.write(clock, b"")
        now = self._outputs.modified(clock)
        self._outputs.delete([clock])
        return written is not None and now is not None and now - written > STALE


def can_create(outputs: RemoteFolder) -> bool:
    """Return whether a store creates a file only where there is none, which locks need.

    Args:
        outputs: a folder in it.
    """
    name = f"{FOLDER}/.probe-{uuid.uuid4().hex}"
    try:
        is_first = outputs.create(name, b"1")
        return is_first and not outputs.create(name, b"2") and outputs.read(name) == b"1"
    except (NotImplementedError, TypeError, ValueError, OSError):
        return False
    finally:
        outputs.delete([name])


@cache
def machine_id() -> str:
    """Return a name of this machine, or container, since it was started."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text(encoding="ascii").strip() if boot.is_file() else ""
    return f"{platform.node()} {started}"


def is_running(process: int) -> bool:
    """Return whether there is a process of a number on this machine.

    Args:
        process: its number.
    """
    if os.name == "nt":  # there os.kill ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Return whether a process has ended, and nobody has asked for its exit code yet."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[:1] == ["Z"]
