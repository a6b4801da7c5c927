"""Where a stage's result lives on disk, and whether it is whole.

`outputs/<stage>/<key>/`, key = hash of all that can change the result. DONE is written last, so a
folder without it is work in progress that the next run goes on with; a lock, which the system
frees when its process dies, makes two runs that want the same folder wait for one another.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline import ranks
from pipeline.records import Problem

DONE = "DONE"
LOGS = "logs"  # within a result: for whoever watches it being made, no part of it
PACKAGE = Path(__file__).parent
# How work is asked for, spread and kept, never what it computes.
WITHOUT_INFLUENCE = {
    "pipeline",
    *(
        f"pipeline.{n}"
        for n in ("store", "runtime", "ranks", "config", "run", "runs", "show", "predict")
    ),
}


def hash_of(value: Any) -> str:
    """16 hex digits that stand for a JSON-like value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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

    def folder(self, stage: str, made_of: Mapping[str, Any]) -> Path:
        return self.root / stage / hash_of({"stage": stage, **made_of})

    def obtain(
        self,
        stage: str,
        made_of: Mapping[str, Any],
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
        folder = self.folder(stage, made_of)
        if ranks.world().rank == 0:
            kept = self._obtain(folder, stage, made_of, make, waiting, spread)
        else:
            kept = not ranks.agreed(False)
            if spread and not kept:
                make(folder)
        ranks.barrier()
        return folder, kept

    def _obtain(
        self,
        folder: Path,
        stage: str,
        made_of: Mapping[str, Any],
        make: Callable[[Path], None],
        waiting: Callable[[Path], None],
        spread: bool,
    ) -> bool:
        """Whether the result was whole already; if not, it is now."""
        if is_done(folder):
            ranks.agreed(False)
            return True
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder, waiting):
            if is_done(folder):
                ranks.agreed(False)
                return True
            for path in _broken(folder, _read_done(folder) or {}):
                path.unlink(missing_ok=True)
            (folder / DONE).unlink(missing_ok=True)
            write_json(folder / "made_of.json", {"stage": stage, **made_of}, indent=1)
            sweep_temporary(folder)
            ranks.agreed(True)
            started = time.time()
            with nullcontext() if spread else ranks.alone():
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


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name only when the block ends well.

    Raises OSError with the file's name for whatever a disk does, also where a library that writes
    has an error of its own for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{cut_name(path.name, 100)}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except Exception as error:
        if code := _of_the_disk(error, temporary):
            raise OSError(code, os.strerror(code), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _of_the_disk(error: Exception, file: Path) -> int | None:
    """The system's number of what a library says in its own words; None if the disk is well."""
    if told := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return int(told[1])
    try:  # torch says nothing of use: ask the disk again
        with open(file, "ab") as same:
            same.write(bytes(1 << 20))
    except OSError as again:
        return again.errno
    return None


def cut_name(name: str, most: int) -> str:
    """A file's name of at most so many bytes: that is what systems count, not letters."""
    return name.encode()[:most].decode(errors="ignore")


def sweep_temporary(folder: Path) -> None:
    """Remove what a killed run was in the middle of writing; the caller holds the lock."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def file_safe(name: str, most: int = 80) -> str:
    """A name as a file's, with nothing in it that a system could stumble over; perhaps empty."""
    return cut_name(re.sub(r"[^\w.-]+", "_", name), most).strip(".")


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_arrays(path: Path, arrays: Mapping[str, Any], **notes: Any) -> None:
    """NumPy arrays and JSON-like notes in one safetensors file, whole or not at all."""
    import numpy as np
    from safetensors.numpy import save_file

    # safetensors writes memory as it lies: an array in another order would come back scrambled.
    in_order = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with whole_file(path) as temporary:
        save_file(in_order, str(temporary), {name: json.dumps(n) for name, n in notes.items()})


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What write_arrays wrote: the arrays, and the notes. Raises Problem where it is not whole."""
    with _opened(path) as file:
        notes = {name: json.loads(note) for name, note in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118


def read_rows(path: Path, names: Iterable[str], rows: slice = slice(None)) -> dict[str, Any]:
    """Some rows of those of the named arrays that are there: nothing else of the file is read."""
    with _opened(path) as file:
        there = set(file.keys())
        return {name: file.get_slice(name)[rows] for name in names if name in there}


def read_notes(path: Path) -> dict[str, Any]:
    """The notes alone."""
    with _opened(path) as file:
        return {name: json.loads(note) for name, note in (file.metadata() or {}).items()}


def mapped_arrays(path: Path) -> dict[str, Any]:
    """The arrays that write_arrays wrote, read-only through the memory map: what is never looked
    at is never read. Raises Problem where the file is not whole."""
    import numpy as np

    with _opened(path) as file:
        names = list(file.keys())
        shapes = {name: file.get_slice(name).get_shape() for name in names}
    if not names:
        return {}
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    kinds = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64,
             "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}  # fmt: skip
    found = {}
    for name in names:
        first, last = header[name]["data_offsets"]
        kind = kinds[header[name]["dtype"]]
        found[name] = content[start + first : start + last].view(kind).reshape(shapes[name])
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            yield file
    except (SafetensorError, ValueError) as error:
        raise Problem(
            f"{path}: not as it was written ({error}); delete the folder {path.parent}, and the "
            "same command makes it again"
        ) from error


@cache
def _imports(module: str) -> tuple[str, frozenset[str]]:
    """The hash of a module's source, and the pipeline modules it imports."""
    source = _source_path(module).read_bytes()
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(a.name for a in node.names if a.name.split(".")[0] == "pipeline")
    modules = frozenset(name for name in found if _exists(name))
    return hashlib.sha256(source).hexdigest()[:16], modules


def _source_path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(module: str) -> bool:
    return _source_path(module).is_file()


def source_of(modules: Iterable[str]) -> dict[str, str]:
    """Hashes of the sources of `modules` and of the pipeline modules that these import in turn.

    Read as text, so that finding that all is done already imports nothing. A module from outside
    the project (a user's own method) is hashed by its file.
    """
    hashes: dict[str, str] = {}
    todo = set(modules)
    while todo:
        module = todo.pop()
        if module in hashes or module in WITHOUT_INFLUENCE:
            continue
        if module.split(".")[0] != "pipeline":
            hashes[module] = _foreign_source(module)
            continue
        hashes[module], imported = _imports(module)
        todo |= imported | {module.rpartition(".")[0] or module}  # a package runs first
    return dict(sorted(hashes.items()))


def _foreign_source(module: str) -> str:
    from importlib.util import find_spec

    spec = find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return "built-in"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """The content of a file that is read whole anyway, as a hash (a weight file, annotations)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


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
        "commit": commit(),
    }


@cache
def commit() -> str | None:
    """The project's git commit, with a + where the tree has changes; None outside a checkout."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=PACKAGE, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
