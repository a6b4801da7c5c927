"""The store of results: where a stage's result is on disk, and whether it is complete.

`outputs/<stage>/<key>/`, key = hash of all that can change the result. DONE is written last, so a
folder without it is work in progress, which the next run continues. Of two runs that need the same
folder, one waits for the other by a lock, which the system releases when its process dies.

Where the folder of outputs is the working folder of an object store (remote_outputs.py), results
are fetched from there, and published there.

A lock of the whole store is held for the moment in which a result is looked up, and in which
unused results are removed (pipeline/engine/removal.py). The time of DONE is that of the last use.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from pipeline.engine import ranks
from pipeline.engine.sources import PACKAGE
from pipeline.formats import results_folder
from pipeline.formats.files import read_json, write_json
from pipeline.ops.hashing import hash_of

DONE = "DONE"
LOCK = ".lock"  # in the folder of a result, and of a run that goes on
STORE_LOCK = ".store.lock"  # in the folder of outputs
USES = ".uses"  # in a result: the results that were looked up to create it, a line each

_being_created: list[Path] = []  # the innermost last
LOGS = "logs"  # a folder within a result for watching the progress; not part of the result


class RemoteStore(Protocol):
    """An object store that a folder of outputs is the working folder of."""

    def fetch(self, folder: Path) -> bool:
        """Fetch a result that the store has; return whether it has it."""
        ...

    def ensure_published(self, folder: Path) -> None:
        """Publish a result that is complete here, unless the store has it."""
        ...

    def creating(
        self, folder: Path, on_wait: Callable[[Path], None]
    ) -> AbstractContextManager[None]:
        """Create a result in the block and publish it, unless another run has made it."""
        ...


remotes: dict[Path, RemoteStore] = {}
"""The object store of each folder of outputs that is a working folder, by its absolute path."""


def is_done(folder: Path) -> bool:
    """Return whether a result is complete: DONE exists, and all files that it lists are intact."""
    done = read_done(folder)
    return done is not None and not _list_broken_files(folder, done)


def read_done(folder: Path) -> dict[str, Any] | None:
    """Return the content of DONE; None where it is missing or damaged."""
    try:
        return dict(read_json(folder / DONE))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def _file_sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file of a result, by relative path."""
    files = (path for path in folder.rglob("[!.]*") if path.is_file() and path.name != DONE)
    by_name = {path.relative_to(folder): path for path in sorted(files)}
    return {
        name.as_posix(): path.stat().st_size
        for name, path in by_name.items()
        if name.parts[0] != LOGS
    }


def _list_broken_files(folder: Path, done: Mapping[str, Any]) -> list[Path]:
    """List the files of a result that are missing or not of the size that DONE records."""

    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return -1

    recorded = ((folder / name, expected) for name, expected in done.get("files", {}).items())
    return [path for path, expected in recorded if size(path) != expected]


class Store:
    """The results of stages in the folders under `outputs/`.

    Args:
        root: the folder of outputs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def remote(self) -> RemoteStore | None:
        """The object store that the root is the working folder of; None: it is of none."""
        return remotes.get(self.root.absolute()) if remotes else None

    def folder(self, stage: str, cache_key: Mapping[str, Any]) -> Path:
        """Return the folder of a result, which may not exist yet."""
        return self.root / stage / hash_of({"stage": stage, **cache_key})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the store: no result is looked up and none is removed meanwhile."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / STORE_LOCK):
            yield

    def find(self, stage: str, cache_key: Mapping[str, Any]) -> Path | None:
        """Return the folder of a complete result, which counts as used now; None if there is none.

        Args:
            stage: the folder below the root.
            cache_key: all that can change the result.
        """
        folder = self.folder(stage, cache_key)
        _record_use(folder)
        if self.remote is not None and not is_done(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / LOCK):
                if not is_done(folder) and not self.remote.fetch(folder):
                    return None
        if ranks.current_world().rank > 0:  # rank 0 says that it is used
            return folder if is_done(folder) else None
        if not folder.is_dir():
            return None
        with self.lock():
            return folder if _use(folder) else None

    def get_or_create(
        self,
        stage: str,
        cache_key: Mapping[str, Any],
        create: Callable[[Path], None],
        on_wait: Callable[[Path], None] = lambda folder: None,
        distributed: bool = False,
    ) -> tuple[Path, bool]:
        """Return the folder of a result, and whether it was complete; create the result if not.

        Where several ranks ask, rank 0 checks and writes, and all return once the result is
        complete.

        Args:
            stage: the folder below the root.
            cache_key: all that can change the result, as JSON-like values.
            create: writes the result into its folder. What a killed run left there is still there,
                as are the intact files of a result of which others are missing or damaged.
            on_wait: is called with the folder before waiting for another run that creates it.
            distributed: whether all ranks call `create`, each for its part.
        """
        folder = self.folder(stage, cache_key)
        _record_use(folder)
        if ranks.current_world().rank == 0:
            with self.lock():
                kept = _use(folder)
                lock = None if kept else _lock_if_free(folder)
            if kept:
                if self.remote is not None:
                    self.remote.ensure_published(folder)
                ranks.broadcast_flag(False)
            else:
                with lock or _wait_for_lock(folder, on_wait), self._creating(folder, on_wait):
                    key = {"stage": stage, **cache_key}
                    kept = _create_unless_done(folder, key, create, distributed)
        else:
            kept = not ranks.broadcast_flag(False)
            if distributed and not kept:
                create(folder)
        ranks.barrier()
        return folder, kept

    def _creating(
        self, folder: Path, on_wait: Callable[[Path], None]
    ) -> AbstractContextManager[None]:
        """Publish what the block creates, or fetch it before, where there is an object store."""
        if self.remote is None or is_done(folder):
            return nullcontext()
        return self.remote.creating(folder, on_wait)


def _create_unless_done(
    folder: Path, key: Mapping[str, Any], create: Callable[[Path], None], distributed: bool
) -> bool:
    """Create a result unless it is complete; return whether it was. The caller holds the lock."""
    if is_done(folder):
        ranks.broadcast_flag(False)
        return True
    for path in _list_broken_files(folder, read_done(folder) or {}):
        path.unlink(missing_ok=True)
    (folder / DONE).unlink(missing_ok=True)
    write_json(folder / "cache_key.json", key, indent=1)
    results_folder.mark(folder)
    remove_temporary_files(folder)
    ranks.broadcast_flag(True)
    started = time.time()
    with nullcontext() if distributed else ranks.single_process(), record_uses(folder):
        create(folder)
    results_folder.mark(folder)  # the folders in it, too, so that a copy of them is known as well
    seconds = round(time.time() - started, 3)
    done = {**provenance(), "seconds": seconds, "files": _file_sizes(folder)}
    write_json(folder / DONE, done, indent=1)
    return False


def _use(folder: Path) -> bool:
    """Return whether a result is complete; if it is, note that it is used now."""
    if not is_done(folder):
        return False
    with suppress(OSError):  # another user's file
        os.utime(folder / DONE)
    return True


def use(folder: Path) -> bool:
    """Return whether a result is complete; if it is, it counts as used now, so that it is kept.

    Args:
        folder: of the result. The caller holds the lock of the store.
    """
    is_complete = _use(folder)
    if is_complete:
        _record_use(folder)
    return is_complete


@contextmanager
def record_uses(folder: Path) -> Iterator[None]:
    """Record in a result which others are looked up while it is created.

    If its creation is interrupted, `python -m pipeline clean` keeps those for it.
    """
    _being_created.append(folder)
    try:
        yield
    finally:
        _being_created.pop()


def _record_use(folder: Path) -> None:
    """Record that the result that is being created, if any, uses a result."""
    if not _being_created or ranks.current_world().rank > 0:
        return
    file = _being_created[-1] / USES
    line = f"{folder.parent.name}/{folder.name}\n"
    known = file.read_text(encoding="utf-8") if file.exists() else ""
    if line not in known:
        with file.open("a", encoding="utf-8") as record:
            record.write(line)


def _lock_if_free(folder: Path) -> AbstractContextManager[Any] | None:
    """Make a folder and lock it; return None where another process holds its lock."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        return None


def _wait_for_lock(folder: Path, on_wait: Callable[[Path], None]) -> AbstractContextManager[Any]:
    """Lock a folder that another process has locked, after a call of `on_wait`."""
    on_wait(folder)
    return FileLock(folder / LOCK).acquire()


def remove_temporary_files(folder: Path) -> None:
    """Remove files that a killed run had not finished writing; the caller holds the lock."""
    for path in folder.rglob(".*tmp*"):
        if is_temporary(path.name):
            path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Return whether a file is one that is being written, or that a killed run had not finished.

    They are those of `atomic_write`, and those that safetensors renames to them.
    """
    return re.fullmatch(r"\..*\.tmp|\.tmp\w{6}", name) is not None


def provenance() -> dict[str, Any]:
    """Return the time, the versions of libraries and the commit that a result is computed with."""
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": list_versions(),
        "commit": git_commit(),
    }


def list_versions() -> dict[str, str]:
    """Return the versions of this project and of the libraries that it computes with, by name."""
    return dict(_read_versions())


@cache
def _read_versions() -> dict[str, str]:
    """Read the versions from the packages' metadata, which takes a while."""
    versions = {}
    for name in ("label2box", "torch", "torchvision", "opencv-python", "numpy", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def describe_versions() -> str:
    """Return a line with the versions of this project, its libraries and Python."""
    label, *others = (f"{name} {number}" for name, number in list_versions().items())
    return f"{label}; {', '.join(others)}, Python {platform.python_version()}"


@cache
def git_commit() -> str | None:
    """Return the project's git commit, + appended if files are changed; None outside a checkout."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=PACKAGE, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
