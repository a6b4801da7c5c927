"""Remove runs and results that nothing needs, safely beside runs that go on.

What is removed is chosen and renamed under the lock of the store, under which runs look up results,
and deleted after that. `store.limit` removes the least recently used results that no run links to.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.engine.inventory import (
    DELETED,
    LAUNCHED,
    RUNS,
    Inventory,
    Result,
    RunFiles,
    read_inventory,
)
from pipeline.engine.latest import LATEST
from pipeline.engine.sizes import format_size, parse_size
from pipeline.engine.store import LOCK, Store
from pipeline.engine.sweep import FOLDER as SWEEPS
from pipeline.formats.files import find_below


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be removed.

    Attributes:
        runs: whole runs.
        results: results that no run links to, or none but `runs`.
        leftovers: files in other places that no run reads, with their bytes.
        sweeps: logs and records that sweeps left, with their bytes.
        kept_for: runs that were chosen, but that a kept run needs, with that run.
        kept_marks: runs that were chosen, but have marks of a person that are nowhere else.
        takes_marks: whether runs are removed with such marks.
    """

    runs: tuple[RunFiles, ...]
    results: tuple[Result, ...]
    leftovers: dict[Path, int]
    sweeps: dict[Path, int]
    kept_for: tuple[tuple[RunFiles, RunFiles], ...]
    kept_marks: tuple[RunFiles, ...] = ()
    takes_marks: bool = False

    @property
    def size(self) -> int:
        """The bytes that are freed."""
        items: tuple[RunFiles | Result, ...] = (*self.runs, *self.results)
        files = (*self.leftovers.values(), *self.sweeps.values())
        return sum(item.size for item in items) + sum(files)


@dataclass(frozen=True)
class Removed:
    """What was removed: the number of runs, results and others, and the bytes freed.

    Attributes:
        refused: paths that the system did not let be removed.
    """

    runs: int
    results: int
    leftovers: int
    size: int
    refused: tuple[Path, ...]


def plan_removal(
    inventory: Inventory,
    chosen: Collection[RunFiles],
    unfinished: bool,
    takes_marks: bool = False,
) -> Plan:
    """Plan to remove chosen runs, and all that no other run links to.

    Args:
        inventory: what is there.
        chosen: the runs to remove; those that go on, or that a kept run needs, are kept.
        unfinished: whether the unfinished results of killed runs are removed, too, and those that
            they are created from. The same command would go on from them.
        takes_marks: whether runs are removed that have marks of a person which are nowhere else.
    """
    kept_marks = [run for run in chosen if run.marks and not run.goes_on and not takes_marks]
    selected = {run.folder for run in chosen if not run.goes_on and run not in kept_marks}
    kept_for: list[tuple[RunFiles, RunFiles]] = []
    todo = [run for run in inventory.runs if run.folder not in selected]
    while todo:
        kept = todo.pop()
        for run in inventory.runs:
            if run.folder in selected and _needs(kept, run):
                selected.remove(run.folder)
                kept_for.append((run, kept))
                todo.append(run)
    candidates = [
        result
        for result in inventory.results
        if not result.is_in_use
        and (result.is_done or unfinished)
        and selected.issuperset(result.runs)
    ]
    needed = _find_needed(inventory.results, {result.folder for result in candidates})
    results = tuple(result for result in candidates if result.folder not in needed)
    runs = tuple(run for run in inventory.runs if run.folder in selected)
    items: tuple[RunFiles | Result, ...] = (*inventory.results, *inventory.runs)
    removed = {*(run.folder for run in runs), *(result.folder for result in results)}
    leftovers = dict(inventory.leftovers)
    for item in items:
        if item.folder not in removed:
            leftovers |= item.leftovers
    return Plan(
        runs=runs,
        results=results,
        leftovers=leftovers,
        sweeps={each.path: each.size for each in inventory.sweeps if not each.is_in_use},
        kept_for=tuple(kept_for),
        kept_marks=tuple(kept_marks),
        takes_marks=takes_marks,
    )


def _find_needed(results: Iterable[Result], candidates: Collection[Path]) -> set[Path]:
    """Return the candidates that an unfinished result is created from, if that is none itself."""
    by_folder = {result.folder: result for result in results}
    todo = [r for r in by_folder.values() if not r.is_done and r.folder not in candidates]
    needed: set[Path] = set()
    while todo:
        for folder in todo.pop().uses - needed:
            needed.add(folder)
            if folder in by_folder:
                todo.append(by_folder[folder])
    return needed


def _needs(run: RunFiles, other: RunFiles) -> bool:
    """Return whether the configuration of a run names another, or a file in it."""
    return any(path.is_relative_to(other.folder) for path in run.runs)


def remove(outputs: Path, plan: Plan) -> Removed:
    """Remove what a plan names, except what a run has begun to use since.

    Args:
        outputs: the folder of outputs.
        plan: of the same folder.
    """
    root, refused = outputs.resolve(), []
    doomed: list[Path] = []
    with Store(root).lock():
        present = read_inventory(root)
        chosen = {run.folder for run in plan.runs}
        again = plan_removal(
            present,
            [run for run in present.runs if run.folder in chosen],
            unfinished=True,
            takes_marks=plan.takes_marks,
        )
        wanted = {result.folder for result in plan.results}
        runs = [run for run in again.runs if run.folder in chosen]
        results = [result for result in again.results if result.folder in wanted]
        leftovers = {p: size for p, size in again.leftovers.items() if p in plan.leftovers}
        leftovers |= {p: size for p, size in again.sweeps.items() if p in plan.sweeps}
        removed: list[RunFiles | Result] = []
        items: tuple[RunFiles | Result, ...] = (*runs, *results)
        for item in items:
            place = root / RUNS if isinstance(item, RunFiles) else item.folder.parent
            try:
                doomed.append(_put_aside(item.folder, place))
                removed.append(item)
            except OSError:
                refused.append(item.folder)
        for path in leftovers:
            _delete(path)
        for folder in (root / SWEEPS / LAUNCHED, root / SWEEPS):
            with suppress(OSError):  # there is none, or others are in it
                folder.rmdir()
        _relink_latest(root)
    for path in doomed:
        _delete(path)
    for item in removed:
        with suppress(OSError):  # others are in it
            item.folder.parent.rmdir()
    refused += [path for path in (*leftovers, *doomed) if os.path.lexists(path)]
    runs_removed = sum(isinstance(item, RunFiles) for item in removed)
    return Removed(
        runs=runs_removed,
        results=len(removed) - runs_removed,
        leftovers=sum(not os.path.lexists(path) for path in leftovers),
        size=sum(item.size for item in removed) + sum(leftovers.values()),
        refused=tuple(refused),
    )


def _put_aside(folder: Path, place: Path) -> Path:
    """Rename a folder, whose lock nobody may hold, to a hidden one; return its path."""
    aside = place / f"{DELETED}{folder.parent.name}-{folder.name}-{os.getpid()}"
    with _locked(folder):
        folder.rename(aside)
    return aside


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        OSError: another process holds it.
    """
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            yield
    except Timeout:
        raise OSError(f"{folder}: in use") from None


def _delete(path: Path) -> None:
    """Delete a file, a link or a folder, as far as the system lets."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _relink_latest(root: Path) -> None:
    """Let `outputs/latest` link to the newest run that is left, where its run was removed."""
    latest = root / LATEST
    if not latest.is_symlink() or latest.exists():
        return
    with suppress(OSError):
        runs = [path for path in find_below(root / RUNS, "*/*") if path.is_dir()]
        newest = max(runs, key=lambda run: run.stat().st_mtime_ns, default=None)
        latest.unlink()
        if newest is not None:
            latest.symlink_to(os.path.relpath(newest, root))


def limit_store(outputs: Path, limit: str) -> str | None:
    """Remove the least recently used results that no run links to, until the others fit.

    Args:
        outputs: the folder of outputs.
        limit: the room that results may take, as 20G.

    Returns:
        A line on what was removed, or why the rest does not fit; None where all fits.
    """
    bound = parse_size(limit)
    assert bound is not None  # checked at start
    inventory = read_inventory(outputs)
    total = sum(result.size for result in inventory.results)
    if total <= bound:
        return None
    plan = plan_removal(inventory, (), unfinished=False)
    oldest = _select_oldest(plan.results, total - bound)
    removed = remove(outputs, replace(plan, results=oldest, leftovers={}, sweeps={}))
    left = total - removed.size
    line = (
        f"store      {count_of(removed.results, 'result')} removed, the least recently used that "
        f"no run links to: {format_size(removed.size)}; {format_size(left)} left"
    )
    if left > bound:
        line += (
            f", more than store.limit={limit}: runs link to these or use them; "
            "`python -m pipeline clean` lists them"
        )
    return line


def _select_oldest(results: Iterable[Result], excess: int) -> tuple[Result, ...]:
    """Return the least recently used results that together have so many bytes, or all."""
    selected: list[Result] = []
    for result in sorted(results, key=lambda result: result.used):
        if excess <= 0:
            break
        if result.size:
            selected.append(result)
            excess -= result.size
    return tuple(selected)


def count_of(count: int, noun: str) -> str:
    """Return a number with its noun.

    Examples:
        >>> count_of(1, "result"), count_of(1200, "run")
        ('1 result', '1,200 runs')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"
