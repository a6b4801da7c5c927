"""Hashes of source code: of a module and of all that it imports from this project.

A source is hashed by its syntax tree (pipeline/engine/syntax.py), so that a changed comment or
message does not invalidate a result. Modules that cannot change a result are not hashed: those that
configure, distribute and store work (UNHASHED_MODULES), draw results (DRAWING_PACKAGES) and export
them (EXPORTER_PACKAGE). A stage whose result is a drawing passes `drawing=True`: then the modules
that draw are hashed, too, and it never shows a picture that older code drew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, resolve_name
from pathlib import Path
from pkgutil import get_importer

from pipeline.engine import syntax
from pipeline.engine.syntax import Source, parse_source
from pipeline.formats.files import atomic_write, is_settled

PACKAGE = Path(__file__).parents[1]
PROJECT = "pipeline"
# They configure, distribute and store work, and compute nothing; runtime is hashed, for autocast.
UNHASHED_MODULES = {
    "pipeline",
    "pipeline.api",
    "pipeline.engine",
    *(
        f"pipeline.engine.{name}"
        for name in (
            "choices",
            "config",
            "help",
            "options",
            "overrides",
            "progress",
            "ranks",
            "renamed",
            "run",
            "run_folder",
            "sources",
            "stage",
            "store",
            "syntax",
            "terminal",
        )
    ),
}
DRAWING_PACKAGES = ("pipeline.plotting", "pipeline.stages.report")
EXPORTER_PACKAGE = "pipeline.exporter"
# The libraries of the project. They are not hashed where our code imports them; of a target in a
# library, only its file is hashed (following the imports of torch would read 1,800 files).
LIBRARIES = {"PIL", "cv2", "numba", "numpy", "timm", "torch", "torchvision"}
INSTALL_FOLDERS = ("site-packages", "dist-packages")
NO_SOURCE = "built-in"


def hash_sources(modules: Iterable[str], drawing: bool = False) -> dict[str, str]:
    """Hash the sources of modules and of the modules of this project that they import, recursively.

    Sources are read as text, so that a run whose results all exist imports nothing. A module from
    outside the project (a user's method) is hashed in the same way, with the modules of its package
    and folder that it imports; where its source cannot be parsed, by its file's bytes.

    Args:
        modules: full names.
        drawing: whether the result is a drawing: DRAWING_PACKAGES are hashed, too.

    Returns:
        module -> 16 hex digits, or "built-in" where there is no file, sorted by name.
    """
    return dict(_hash_once(frozenset(modules), drawing))


@cache
def _hash_once(named: frozenset[str], drawing: bool) -> Mapping[str, str]:
    """Hash the sources of modules as hash_sources does; this process reads no source twice."""
    known = open_cache()
    hashes: dict[str, str] = {}
    todo = set(named)
    while todo:
        module = todo.pop()
        # A module in `modules` is hashed in any case: a stage that exports names its exporters.
        if module in hashes or (module not in named and _is_skipped(module, drawing)):
            continue
        path = find_source(module)
        if path is None:
            hashes[module] = NO_SOURCE
            continue
        source = known.read(path)
        hashes[module] = source.digest
        todo |= _list_followed(module, path, source)
    known.save()
    return dict(sorted(hashes.items()))


def hash_folder_source(path: Path) -> dict[str, str]:
    """Hash the source of a file, and of the files beside it that it imports, recursively.

    Args:
        path: of a Python file.

    Returns:
        file name -> 16 hex digits, or "built-in" where there is no such file, sorted by name.
    """
    known, hashes, todo = open_cache(), dict[str, str](), {path}
    while todo:
        file = todo.pop()
        name = os.path.relpath(file, path.parent)
        if name in hashes:
            continue
        if not file.is_file():
            hashes[name] = NO_SOURCE
            continue
        source = known.read(file.absolute())
        hashes[name] = source.digest
        for written in source.imports:
            parts = written.lstrip(".").split(".")
            places = (path.parent.joinpath(*parts[:n]) for n in range(1, len(parts) + 1))
            files = (
                f for place in places for f in (place.with_suffix(".py"), place / "__init__.py")
            )
            todo.update(f for f in files if f.is_file())
    known.save()
    return dict(sorted(hashes.items()))


def forget_sources() -> None:
    """Let sources that this process has read already be read anew."""
    for function in (_hash_once, open_cache, _list_project_modules, _find_foreign):
        function.cache_clear()


def _is_skipped(module: str, drawing: bool) -> bool:
    """Return whether an imported module is left out of the hashes."""
    packages = (EXPORTER_PACKAGE,) if drawing else (EXPORTER_PACKAGE, *DRAWING_PACKAGES)
    return module in UNHASHED_MODULES or any(
        module == package or module.startswith(f"{package}.") for package in packages
    )


def _list_followed(module: str, path: Path, source: Source) -> set[str]:
    """Return the modules that are hashed with a module: its package, and what it imports."""
    if module.partition(".")[0] in LIBRARIES | sys.stdlib_module_names:
        return set()
    parent = module.rpartition(".")[0]
    package = module if path.name == "__init__.py" else parent
    followed = {parent} if parent else set()
    for written in source.imports:
        name = _resolve_import(written, package)
        if name and _belongs_with(module, name) and find_source(name) is not None:
            followed.add(name)
    return followed


def _resolve_import(written: str, package: str) -> str:
    """Return the full name of an import; "" where it is relative to no package."""
    try:
        return resolve_name(written, package or None)
    except ImportError:
        return ""


def _belongs_with(module: str, name: str) -> bool:
    """Return whether a module that `module` imports is of this project, or beside `module`."""
    top, of_module = name.partition(".")[0], module.partition(".")[0]
    if top in (PROJECT, of_module):
        return True
    if of_module == PROJECT:
        return False
    folder = _find_import_folder(of_module)
    if folder is None or folder.name in INSTALL_FOLDERS:  # modules there are unrelated
        return False
    return folder == _find_import_folder(top)


# -- where sources are ---------------------------------------------------------------------------


def find_source(module: str) -> Path | None:
    """Return the source file of a module, which is not imported; None where there is none."""
    if module.partition(".")[0] == PROJECT:
        return _list_project_modules(PACKAGE).get(module)
    return _find_foreign(module)


@cache
def _list_project_modules(package: Path) -> Mapping[str, Path]:
    """Return the file of each module of the project."""
    files = {}
    for folder, _, names in os.walk(package):
        parts = (PROJECT, *Path(folder).relative_to(package).parts)
        for name in names:
            if name.endswith(".py"):
                module = ".".join((*parts, name.removesuffix(".py")))
                files[module.removesuffix(".__init__")] = Path(folder, name)
    return files


@cache
def _find_foreign(module: str) -> Path | None:
    """Return the file of a module from outside the project; of one in a zip file, the zip file."""
    spec = _find_spec(module)
    if spec is not None:
        origin = spec.origin if spec.has_location else None
    else:  # a script, or a module that was created at run time
        origin = vars(sys.modules[module]).get("__file__") if module in sys.modules else None
    if origin is None:
        return None
    path = Path(origin).absolute()
    return next((place for place in (path, *path.parents) if place.is_file()), None)


def _find_spec(module: str) -> ModuleSpec | None:
    """Find a module without importing its packages."""
    top, *parts = module.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # __main__ has none
        return None
    name = top
    for part in parts:
        if spec is None:
            return None
        name = f"{name}.{part}"
        spec = _find_within(name, spec.submodule_search_locations or ())
    return spec


def _find_within(module: str, folders: Iterable[str]) -> ModuleSpec | None:
    """Find a module in the folders of its package.

    importlib's PathFinder would import the parent of folders without __init__.py.
    """
    finders = [get_importer(folder) for folder in folders]
    specs = [finder.find_spec(module) for finder in finders if finder is not None]
    return next((spec for spec in specs if spec is not None), None)


def _find_import_folder(top: str) -> Path | None:
    """Return the folder from which a module or package of the top level is imported."""
    path = _find_foreign(top)
    if path is not None:
        return path.parents[1] if path.name == "__init__.py" else path.parent
    spec = _find_spec(top)  # a package without __init__.py
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]).absolute().parent if places else None


# -- the cache of parsed sources -----------------------------------------------------------------

Stamp = tuple[int, int, int]  # size, st_mtime_ns and st_ctime_ns of a file


class SourceCache:
    """Parsed sources: in the memory of this process, and in a file for later processes.

    A process reads a source once, as its results are computed by the code that it imported, even if
    files are edited meanwhile. Later processes parse only sources whose size or time stamps have
    changed. If the cache's file cannot be read or written, it is ignored.

    Args:
        file: the cache's file; None: the cache is only in memory.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._records = dict(_load_records(file)) if file is not None else {}
        self._read: dict[Path, Source] = {}
        self._changed = False

    def read(self, path: Path) -> Source:
        """Return the hash and the imports of a source file.

        Raises:
            OSError: the file cannot be read.
        """
        if path not in self._read:
            self._read[path] = self._look_up(path)
        return self._read[path]

    def _look_up(self, path: Path) -> Source:
        """Return the record of a source file if it is up to date; else parse the file."""
        stat = path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        record = self._records.get(str(path))
        if record is not None and record[0] == stamp:
            return record[1]
        source = parse_source(path.read_bytes())
        if is_settled(max(stat.st_mtime_ns, stat.st_ctime_ns)):
            self._records[str(path)] = stamp, source
            self._changed = True
        return source

    def save(self) -> None:
        """Write the records of parsed sources for later processes, if there are new ones."""
        if self._file is None or not self._changed:
            return
        self._changed = False
        records = {
            path: [stamp, source.digest, source.imports]
            for path, (stamp, source) in list(self._records.items())
            if os.path.exists(path)
        }
        try:
            with atomic_write(self._file) as temporary:
                temporary.write_text(json.dumps(records), encoding="ascii")
        except OSError:
            pass  # later processes parse the sources again


def _load_records(file: Path) -> Iterator[tuple[str, tuple[Stamp, Source]]]:
    """Yield path, stamp and source of each record in a cache's file, up to an invalid record."""
    try:
        for path, (stamp, digest, imports) in json.loads(file.read_bytes()).items():
            size, changed, recorded = map(int, stamp)
            yield path, ((size, changed, recorded), Source(str(digest), tuple(map(str, imports))))
    except (OSError, ValueError, TypeError, AttributeError):
        return


@cache
def open_cache() -> SourceCache:
    """Return the cache of this process; its file is for this folder, Python and parser."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(folder):
        return SourceCache(None)
    parts = (str(PACKAGE), platform.python_version(), Path(syntax.__file__).read_text("utf-8"))
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return SourceCache(Path(folder, "label2box", f"sources-{name}.json"))
