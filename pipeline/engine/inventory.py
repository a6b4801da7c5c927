"""What lies in a folder of outputs: results, runs, and files that killed runs left behind.

A result is in use where its lock is held, or where a run goes on that may have used it: its last
use is not before the run began. A run goes on while its process holds the lock of its folder.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from pipeline.engine.completion import CONFIG_FILE
from pipeline.engine.store import DONE, LOCK, LOGS, USES, is_temporary, read_done
from pipeline.engine.sweep import FOLDER as SWEEPS
from pipeline.formats import results_folder
from pipeline.formats.files import find_below
from pipeline.results.human import FILE as HUMAN_BOXES
from pipeline.results.marks import FILE as MARKS
from pipeline.results.marks import describe_unsaved

RUNS = "runs"
DELETED = ".deleted-"  # begins the name of a folder that is being deleted
USERS = (
    ".linked_by"  # in a result: the runs in other folders of outputs that link to it, a line each
)
STALE = 3600.0  # seconds after which a temporary file counts as left behind by a killed run
LAUNCHED = ".submitit"  # in the folder of sweeps: what submitit's launchers write, a folder a job
CLOCK_SLACK = 60.0  # seconds by which the clocks of two machines may differ
KEY_PATTERN = re.compile(r"[0-9a-f]{16}")
NEEDED_RUNS = re.compile(r"^(?:checkpoint|against|run): (.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a stage.

    Attributes:
        folder: its folder, resolved.
        size: the bytes that deleting it frees.
        used: the time of its last use.
        is_done: whether it is complete; else the same command goes on from it.
        is_in_use: whether a run makes it, or may use it.
        runs: the folders of runs that link to it.
        uses: the results that were looked up to create it.
        leftovers: files in it that no run reads, with their bytes.
    """

    folder: Path
    size: int
    used: float
    is_done: bool
    is_in_use: bool
    runs: tuple[Path, ...]
    uses: frozenset[Path] = frozenset()
    leftovers: Mapping[Path, int] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """The stage, or the part of one, that the result is of."""
        return self.folder.parent.name


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The folder of a run.

    Attributes:
        folder: the folder, resolved.
        size: the bytes of its own files.
        began: the time at which it began.
        goes_on: whether its process is still there.
        results: the results that it links to.
        runs: the paths of runs that its configuration names.
        leftovers: files in it that no run reads, with their bytes.
        marks: the marks of a person in it that are nowhere else, in words; empty: there are none.
    """

    folder: Path
    size: int
    began: float
    goes_on: bool
    results: frozenset[Path]
    runs: frozenset[Path]
    leftovers: Mapping[Path, int] = field(default_factory=dict)
    marks: str = ""

    @property
    def name(self) -> str:
        """Experiment and time, as `cam/2026-01-31_12-00-00`."""
        return f"{self.folder.parent.name}/{self.folder.name}"


@dataclass(frozen=True)
class SweepFiles:
    """Logs and records of the jobs of a sweep, or what launchers left of one.

    Attributes:
        path: a folder or a file.
        size: the bytes that deleting it frees.
        is_in_use: whether the sweep goes on, or its jobs may do so without it.
    """

    path: Path
    size: int
    is_in_use: bool


@dataclass(frozen=True)
class Inventory:
    """All that runs wrote into a folder of outputs."""

    results: tuple[Result, ...]
    runs: tuple[RunFiles, ...]
    leftovers: Mapping[Path, int]
    sweeps: tuple[SweepFiles, ...] = ()


def read_inventory(outputs: Path) -> Inventory:
    """List the results and runs in a folder of outputs, and what is left of killed runs.

    Only folders that a run made are listed, whatever else lies there.
    """
    root = outputs.resolve()
    runs = tuple(_read_run(folder) for folder in _list_run_folders(root))
    began = min((run.began for run in runs if run.goes_on), default=None)
    linked: dict[Path, list[Path]] = {}
    for run in runs:
        for result in run.results:
            linked.setdefault(result, []).append(run.folder)
    results = tuple(
        _read_result(folder, (*linked.get(folder, ()), *_read_users(folder)), began)
        for folder in _list_result_folders(root)
    )
    return Inventory(results, runs, _list_leftovers(root), tuple(_list_sweeps(root / SWEEPS)))


def _list_run_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of runs: those with a configuration, or with the marker alone."""
    for folder in sorted(_list_folders(root / RUNS)):
        if (folder / CONFIG_FILE).is_file() or (folder / results_folder.MARKER).is_file():
            yield folder


def _list_result_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of results: named by a key, with a record of it or empty."""
    for folder in sorted(_list_folders(root)):
        if folder.parent.name == RUNS or not KEY_PATTERN.fullmatch(folder.name):
            continue
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # another process has removed it
        is_empty = all(name in (LOCK, USES, results_folder.MARKER) for name in names)
        if is_empty or any(name in results_folder.STORE_KEYS for name in names):
            yield folder


def _list_folders(root: Path) -> Iterator[Path]:
    """Yield the folders two levels below a folder; neither links nor hidden ones."""
    for path in find_below(root, "*/*"):
        steps = (path.parent, path)
        is_hidden = any(step.is_symlink() or step.name.startswith(".") for step in steps)
        if not is_hidden and path.is_dir():
            yield path


def _read_run(folder: Path) -> RunFiles:
    """Read the size and the links of a run's folder."""
    files, links = _walk(folder)
    config = folder / CONFIG_FILE
    goes_on = is_locked(folder)
    return RunFiles(
        folder=folder,
        size=sum(files.values()),
        began=_modified(config if config.exists() else folder),
        goes_on=goes_on,
        results=frozenset(_find_result(link) for link in links),
        runs=frozenset(_list_needed_runs(config)),
        leftovers={} if goes_on else _select_temporary(files, older_than=STALE),
        marks=describe_unsaved(folder / MARKS, folder.parents[2] / HUMAN_BOXES),
    )


def _find_result(link: Path) -> Path:
    """Return the folder of the result that a link leads to or into."""
    target = Path(os.path.realpath(link))
    steps = (target, *target.parents)
    return next((step for step in steps if KEY_PATTERN.fullmatch(step.name)), target)


def _list_needed_runs(config: Path) -> Iterator[Path]:
    """Yield the paths that checkpoint=, against= and run= of a run's configuration name."""
    with suppress(OSError):
        for text in NEEDED_RUNS.findall(config.read_text(encoding="utf-8", errors="replace")):
            value = yaml.safe_load(text)
            if isinstance(value, str):
                yield Path(value).resolve()


def _read_result(folder: Path, runs: Iterable[Path], began: float | None) -> Result:
    """Read the size, the state and the last use of a result.

    Args:
        folder: of the result.
        runs: that link to it.
        began: when the oldest of the runs that go on began; None: there is none.
    """
    files, _ = _walk(folder)
    done = read_done(folder)
    used = _modified(folder / DONE) if done is not None else max(
        (_modified(path) for path in (folder, *files)), default=0.0
    )  # fmt: skip
    is_in_use = is_locked(folder) or (began is not None and used > began - CLOCK_SLACK)
    leftovers = {} if is_in_use else _select_temporary(files)
    if not is_in_use and done is not None and "files" in done:
        leftovers |= _select_superseded(folder, files, done["files"])
    return Result(
        folder=folder,
        size=sum(files.values()),
        used=used,
        is_done=done is not None,
        is_in_use=is_in_use,
        runs=tuple(runs),
        uses=frozenset(folder.parents[1] / line for line in _read_lines(folder / USES)),
        leftovers=leftovers,
    )


def _read_users(result: Path) -> Iterator[Path]:
    """Yield the runs in other folders of outputs that link to a result, and are still there."""
    for line in _read_lines(result / USERS):
        if (Path(line) / "stages").is_dir():
            yield Path(line)


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a file; none where there is no such file."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def add_user(result: Path, run: Path) -> None:
    """Record in a result that a run in another folder of outputs links to it."""
    with suppress(OSError), (result / USERS).open("a", encoding="utf-8") as file:
        file.write(f"{run.resolve()}\n")


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def _walk(folder: Path) -> tuple[dict[Path, int], list[Path]]:
    """Return the bytes that deleting each file of a folder frees, and its symbolic links.

    Deleting one of several hard links, as to a photograph, frees nothing.
    """
    files: dict[Path, int] = {}
    links: list[Path] = []
    todo = [os.fspath(folder)]
    while todo:
        with suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    links.append(Path(entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    stat = entry.stat(follow_symlinks=False)
                    files[Path(entry.path)] = stat.st_size if stat.st_nlink == 1 else 0
    return files, links


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 where it is gone."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _modified(path: Path) -> float:
    """Return the time at which a file was modified; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _select_temporary(files: Mapping[Path, int], older_than: float = 0.0) -> dict[Path, int]:
    """Return the files that were being written when a run was killed."""
    latest = time.time() - older_than
    return {
        path: size
        for path, size in files.items()
        if is_temporary(path.name) and _modified(path) <= latest
    }


def _select_superseded(
    folder: Path, files: Mapping[Path, int], recorded: Collection[str]
) -> dict[Path, int]:
    """Return the files of a complete result that its DONE does not list, and so no run reads."""
    selected = {}
    for path, size in files.items():
        name = path.relative_to(folder)
        is_hidden = path.name.startswith(".")
        if name.as_posix() not in recorded and not is_hidden and name.parts[0] not in (DONE, LOGS):
            selected[path] = size
    return selected


def _list_sweeps(place: Path) -> Iterator[SweepFiles]:
    """Yield what sweeps left: a folder each, and what a launcher wrote beside them.

    Jobs on other machines may go on after the command of their sweep has ended, and write into
    their log each half minute.
    """
    paths = sorted((*find_below(place, "*"), *find_below(place / LAUNCHED, "*")))
    locked = {path for path in paths if is_locked(path)}
    latest = time.time() - STALE
    for path in paths:
        is_folder = path.is_dir() and not path.is_symlink()
        files = _walk(path)[0] if is_folder else {path: _size(path)}
        is_recent = max(map(_modified, (path, *files))) > latest
        is_of_sweep = is_folder and path.parent == place
        goes_on = path in locked if is_of_sweep else bool(locked)
        yield SweepFiles(path, sum(files.values()), goes_on or is_recent)


def _list_leftovers(root: Path) -> dict[Path, int]:
    """Return folders and links that a killed process was deleting or making."""
    leftovers = {}
    for folder in (*find_below(root, f"*/{DELETED}*"), *find_below(root, f"{DELETED}*")):
        leftovers[folder] = sum(_walk(folder)[0].values())
    for link in root.glob(".latest.*.tmp"):
        with suppress(OSError):  # it is gone by now
            if link.is_symlink() and link.lstat().st_mtime <= time.time() - STALE:
                leftovers[link] = 0
    return leftovers
