"""Room for copies of what object stores have: the least recently used are deleted after a run.

Copies are results and runs in working folders (remote_outputs.py) that were published, and
checkpoints that were fetched (remote_checkpoint.py). What is not published is never deleted, nor
what a process uses.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.data.folder_index import find_cache
from pipeline.engine import terminal
from pipeline.engine.inventory import is_locked
from pipeline.engine.remote_checkpoint import FOLDER, LEASE, STAMPS
from pipeline.engine.remote_locks import is_running, machine_id
from pipeline.engine.remote_outputs import WORKING
from pipeline.engine.remote_results import PUBLISHED
from pipeline.engine.sizes import format_size, parse_size
from pipeline.engine.store import DONE, LOCK, STORE_LOCK

LEASE_DAYS = 7  # of a process on another machine, of which nothing is known


@dataclass(frozen=True)
class Copy:
    """A folder that can be fetched again.

    Attributes:
        folder: where it is.
        size: of its files, in bytes.
        used: when it was last used, in seconds.
    """

    folder: Path
    size: int
    used: float


def limit_copies(options: Mapping[str, Any]) -> None:
    """Delete copies until the others fit into store.cache_limit; say how many were deleted.

    Args:
        options: `store` of the configuration.
    """
    limit = parse_size(options["cache_limit"]) if options["cache_limit"] is not None else None
    parent = options["working_folder"] or find_cache()
    if limit is None or parent is None:
        return
    places = [path for path in Path(parent, WORKING).glob("*") if path.is_dir()]
    copies = [copy for place in places for copy in _list_results(place)]
    copies += _list_checkpoints(Path(parent, FOLDER))
    over, deleted = sum(copy.size for copy in copies) - limit, list[Copy]()
    for copy in sorted(copies, key=lambda copy: copy.used):
        if over <= 0:
            break
        if _delete(copy):
            deleted.append(copy)
            over -= copy.size
    if deleted:
        size = format_size(sum(copy.size for copy in deleted))
        terminal.print_line(
            f"copies     {len(deleted)} deleted, {size}, the least recently used: "
            f"store.cache_limit={options['cache_limit']}; the object store has them"
        )


def _list_results(place: Path) -> Iterator[Copy]:
    """Yield the published results and runs of a working folder; none while a run goes on."""
    if any(is_locked(run) for run in place.glob("runs/*/*")):
        return
    for pattern, sign in ((f"*/*/{PUBLISHED}", DONE), (f"runs/*/*/{PUBLISHED}", PUBLISHED)):
        for path in place.glob(pattern):
            with suppress(OSError):
                used = path.with_name(sign).stat().st_mtime
                yield Copy(path.parent, _size(path.parent), used)


def _list_checkpoints(place: Path) -> Iterator[Copy]:
    """Yield the fetched checkpoints that no process uses."""
    for path in place.glob(f"*/{STAMPS}"):
        if not any(_is_leased(lease) for lease in path.parent.glob(f"{LEASE}*")):
            with suppress(OSError):
                yield Copy(path.parent, _size(path.parent), path.stat().st_mtime)


def _is_leased(lease: Path) -> bool:
    """Return whether the process that wrote a lease may still use the folder."""
    with suppress(OSError, ValueError):
        if lease.read_text(encoding="utf-8") == machine_id():
            return is_running(int(lease.name.removeprefix(LEASE)))
        return time.time() - lease.stat().st_mtime < LEASE_DAYS * 86400
    return False


def _delete(copy: Copy) -> bool:
    """Delete a copy unless a process works on it; return whether it was deleted."""
    outputs = copy.folder.parents[1]  # of a result; of others nothing is looked up there
    try:
        with FileLock(outputs / STORE_LOCK, timeout=0), FileLock(copy.folder / LOCK, timeout=0):
            (copy.folder / DONE).unlink(missing_ok=True)  # first: what is left is not complete
            (copy.folder / STAMPS).unlink(missing_ok=True)
            (copy.folder / PUBLISHED).unlink(missing_ok=True)
            shutil.rmtree(copy.folder)
    except (Timeout, OSError):
        return False
    return True


def _size(folder: Path) -> int:
    """Return the bytes of the files of a folder; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
