"""The store of results: where a stage's result is on disk, and whether it is complete.

`outputs/<stage>/<key>/`, key = hash of all that can change the result. DONE is written last, so a
folder without it is work in progress, which the next run continues. Of two runs that need the same
folder, one waits for the other by a lock, which the system releases when its process dies.
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
from pipeline.formats import results_folder
from pipeline.formats.files import read_json, write_json
from pipeline.ops.hashing import hash_of

DONE = "DONE"
LOGS = "logs"  # a folder within a result for watching the progress; not part of the result


def is_done(folder: Path) -> bool:
    """Return whether a result is complete: DONE exists, and all files that it lists are intact."""
    done = _read_done(folder)
    return done is not None and not _list_broken_files(folder, done)


def _read_done(folder: Path) -> dict[str, Any] | None:
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

    def folder(self, stage: str, cache_key: Mapping[str, Any]) -> Path:
        """Return the folder of a result, which may not exist yet."""
        return self.root / stage / hash_of({"stage": stage, **cache_key})

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
        if ranks.current_world().rank == 0:
            kept = is_done(folder)
            if kept:
                ranks.broadcast_flag(False)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                with _lock(folder, on_wait):
                    key = {"stage": stage, **cache_key}
                    kept = _create_unless_done(folder, key, create, distributed)
        else:
            kept = not ranks.broadcast_flag(False)
            if distributed and not kept:
                create(folder)
        ranks.barrier()
        return folder, kept


def _create_unless_done(
    folder: Path, key: Mapping[str, Any], create: Callable[[Path], None], distributed: bool
) -> bool:
    """Create a result unless it is complete; return whether it was. The caller holds the lock."""
    if is_done(folder):
        ranks.broadcast_flag(False)
        return True
    for path in _list_broken_files(folder, _read_done(folder) or {}):
        path.unlink(missing_ok=True)
    (folder / DONE).unlink(missing_ok=True)
    write_json(folder / "cache_key.json", key, indent=1)
    results_folder.mark(folder)
    remove_temporary_files(folder)
    ranks.broadcast_flag(True)
    started = time.time()
    with nullcontext() if distributed else ranks.single_process():
        create(folder)
    results_folder.mark(folder)  # the folders in it, too, so that a copy of them is known as well
    seconds = round(time.time() - started, 3)
    done = {**provenance(), "seconds": seconds, "files": _file_sizes(folder)}
    write_json(folder / DONE, done, indent=1)
    return False


@contextmanager
def _lock(folder: Path, on_wait: Callable[[Path], None]) -> Iterator[None]:
    """Hold the lock of a folder; call `on_wait` first where another process holds it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait(folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_temporary_files(folder: Path) -> None:
    """Remove files that a killed run had not finished writing; the caller holds the lock."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


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
    versions = {}
    for name in ("label2box", "torch", "torchvision", "opencv-python", "numpy", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


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
