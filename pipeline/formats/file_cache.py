"""Bytes that were read at addresses, kept on this disk up to a limit.

Then only the first epoch reads over the network. A file is named by the hash of its address and its
version, written whole, and begins with a hash of its content, so that one that was cut off is read
anew. Processes and threads share the folder: what one deletes, another reads over the network.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

VARIABLE = "LABEL2BOX_FILE_CACHE"  # BYTES:FOLDER, in the environment, which workers inherit
SHARE_BETWEEN_LOOKS = 0.05  # of the limit, that a process writes before it looks at the size again
SHARE_KEPT = 0.8  # of the limit, when files are deleted: room for four processes between two looks
HASH_BYTES = 16  # at the head of a file
STALE_SECONDS = 3600.0  # after which a file that is being written is one of a killed process


class FileCache:
    """A folder of files that were read at addresses.

    Args:
        folder: Where they are kept.
        limit: How many bytes they take at most.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._unseen = limit  # bytes written since the size was looked at: look at it first
        self._lock = threading.Lock()

    def read(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        """Return the bytes that are kept by a name; fetch and keep them where there are none.

        Args:
            name: Address and version of the file.
            fetch: Reads it over the network.
        """
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
        path = self._folder / digest[:2] / digest
        with suppress(OSError):
            data = path.read_bytes()
            if data[:HASH_BYTES] == _hash(data[HASH_BYTES:]):
                os.utime(path)  # the time of the last use
                return data[HASH_BYTES:]
        data = fetch()
        if len(data) <= self._limit * SHARE_BETWEEN_LOOKS:
            with suppress(OSError):  # without it the next one fetches it, too
                self._keep(path, data)
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        """Write a file whole, and now and then delete the least recently used ones."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            temporary.write_bytes(_hash(data) + data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        with self._lock:
            self._unseen += len(data)
            if self._unseen <= self._limit * SHARE_BETWEEN_LOOKS:
                return
            self._unseen = 0
        with suppress(Timeout), FileLock(self._folder / ".lock", timeout=0):
            self._delete_oldest()

    def _delete_oldest(self) -> None:
        """Delete files until the others take SHARE_KEPT of the limit. The caller holds the lock."""
        files: list[tuple[float, int, str]] = []
        for place in os.scandir(self._folder):
            if not place.is_dir():
                continue
            for entry in os.scandir(place.path):
                with suppress(OSError):
                    stat = entry.stat()
                    is_left = time.time() - stat.st_mtime > STALE_SECONDS
                    if not entry.name.startswith("."):
                        files.append((stat.st_mtime, stat.st_size, entry.path))
                    elif is_left:
                        os.unlink(entry.path)
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit * SHARE_KEPT:
                break
            with suppress(OSError):
                os.unlink(path)
                total -= size


def use_file_cache(folder: Path | None, limit: int) -> None:
    """Keep what this process, and those that it starts, read at addresses.

    Args:
        folder: Where; None: nothing is kept.
        limit: How many bytes at most.
    """
    if folder is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = f"{limit}:{folder}"


def current_file_cache() -> FileCache | None:
    """Return the cache that the environment names; None where nothing is kept."""
    value = os.environ.get(VARIABLE)
    return _open(value) if value else None


@lru_cache(maxsize=4)
def _open(value: str) -> FileCache:
    limit, _, folder = value.partition(":")
    return FileCache(Path(folder), int(limit))


def _hash(data: bytes) -> bytes:
    """Return the first bytes of the SHA-256 of some bytes."""
    return hashlib.sha256(data).digest()[:HASH_BYTES]
