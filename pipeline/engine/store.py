"""Where a stage's result lives on disk, and whether it is whole.

`outputs/<stage>/<key>/`, key = hash of all that can change the result. DONE is written last, so a
folder without it is work in progress that the next run goes on with; a lock, which the system
frees when its process dies, makes two runs that want the same folder wait for one another.
"""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.engine import ranks
from pipeline.engine.sources import PACKAGE
from pipeline.formats.files import read_json, write_json
from pipeline.ops.hashing import hash_of

DONE = "DONE"
LOGS = "logs"  # within a result: for whoever watches it being made, no part of it


def is_done(folder: Path) -> bool:
    """Whether a result is whole: DONE is there, and all the files that it names."""
    done = _read_done(folder)
    return done is not None and not _broken(folder, done)


def _read_done(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(read_json(folder / DONE))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def _files(folder: Path) -> dict[str, int]:
    """The sizes of a result's files."""
    found = (path for path in folder.rglob("[!.]*") if path.is_file() and path.name != DONE)
    named = {path.relative_to(folder): path for path in sorted(found)}
    return {
        name.as_posix(): path.stat().st_size
        for name, path in named.items()
        if name.parts[0] != LOGS
    }


def _broken(folder: Path, done: Mapping[str, Any]) -> list[Path]:
    """Files of a result that are gone, or no longer of the size that they were written with."""

    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return -1

    named = ((folder / name, wanted) for name, wanted in done.get("files", {}).items())
    return [path for path, wanted in named if size(path) != wanted]


class Store:
    """The tree under `outputs/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, cache_key: Mapping[str, Any]) -> Path:
        return self.root / stage / hash_of({"stage": stage, **cache_key})

    def get_or_create(
        self,
        stage: str,
        cache_key: Mapping[str, Any],
        make: Callable[[Path], None],
        waiting: Callable[[Path], None] = lambda folder: None,
        spread: bool = False,
    ) -> tuple[Path, bool]:
        """The folder of a result, made now unless it is whole already; and whether it was.

        `make(folder)` may find the shards of a run that was killed and goes on from them; likewise
        where files of a whole result were deleted or cut short since.

        Where several ranks ask, rank 0 looks and writes; `spread`: all of them make, each its part.
        They go on together, once the result is whole.
        """
        folder = self.folder(stage, cache_key)
        if ranks.current_world().rank == 0:
            kept = self._obtain(folder, stage, cache_key, make, waiting, spread)
        else:
            kept = not ranks.broadcast_flag(False)
            if spread and not kept:
                make(folder)
        ranks.barrier()
        return folder, kept

    def _obtain(
        self,
        folder: Path,
        stage: str,
        cache_key: Mapping[str, Any],
        make: Callable[[Path], None],
        waiting: Callable[[Path], None],
        spread: bool,
    ) -> bool:
        """Whether the result was whole already; if not, it is now."""
        if is_done(folder):
            ranks.broadcast_flag(False)
            return True
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder, waiting):
            if is_done(folder):
                ranks.broadcast_flag(False)
                return True
            for path in _broken(folder, _read_done(folder) or {}):
                path.unlink(missing_ok=True)
            (folder / DONE).unlink(missing_ok=True)
            write_json(folder / "cache_key.json", {"stage": stage, **cache_key}, indent=1)
            remove_temporary_files(folder)
            ranks.broadcast_flag(True)
            started = time.time()
            with nullcontext() if spread else ranks.single_process():
                make(folder)
            seconds = round(time.time() - started, 3)
            done = {**provenance(), "seconds": seconds, "files": _files(folder)}
            write_json(folder / DONE, done, indent=1)
        return False


@contextmanager
def _lock(folder: Path, waiting: Callable[[Path], None]) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting(folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_temporary_files(folder: Path) -> None:
    """Remove what a killed run was in the middle of writing; the caller holds the lock."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def provenance() -> dict[str, Any]:
    """The versions and the commit that a result was made with."""
    versions = {}
    for name in ("label2box", "torch", "torchvision", "opencv-python", "numpy", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": versions,
        "commit": git_commit(),
    }


@cache
def git_commit() -> str | None:
    """The project's git commit, with a + where the tree has changes; None outside a checkout."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=PACKAGE, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
