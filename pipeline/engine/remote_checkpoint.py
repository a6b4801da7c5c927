"""`checkpoint=s3://bucket/outputs/latest`: a network in an object store, fetched into the caches.

It is a run that was published (remote_outputs.py), or copied there by another tool; `latest`, the
file that names the newest run; the result of stage train or refine; or a file of it. Of a run, the
networks and the thresholds are fetched, and not the maps. A file is fetched again where its ETag,
or what else the store says of it, has changed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path

from filelock import FileLock

from pipeline.data.folder_index import find_cache
from pipeline.engine import terminal
from pipeline.engine.checkpoint import CARD, WEIGHTS
from pipeline.engine.completion import CONFIG_FILE
from pipeline.engine.latest import LATEST
from pipeline.engine.remote_locks import machine_id
from pipeline.engine.store import LOGS
from pipeline.errors import UserError
from pipeline.formats.files import read_json, write_json, write_text
from pipeline.formats.remote import RemoteFolder
from pipeline.ops.hashing import hash_of

FOLDER = "checkpoints"  # in the folder of caches
STAMPS = ".stamps.json"  # in a fetched folder: the stamp of each file
LINK = ".link"  # ends the names of files that stand for links to results
WHOLE = ("train", "refine", "calibrate")  # results that are fetched with all their files
KEY = "cache_key.json"  # of all other results: what the thresholds were chosen for
LEASE = ".lease-"  # begins the name of a file of a process that uses the folder
MAX_NAME = 4096  # bytes of the file `latest`

_fetched: dict[str, str] = {}  # the address by the folder here


def address_of(checkpoint: str) -> str | None:
    """Return the address that a folder was fetched from; None where it was not.

    Args:
        checkpoint: the folder.
    """
    return _fetched.get(checkpoint)


def fetch_checkpoint(address: str, working_folder: str | None) -> Path:
    """Fetch what is needed of a checkpoint, and return its folder here.

    Args:
        address: of a run, a network, or `latest`.
        working_folder: of store.working_folder; None: the folder of caches.

    Raises:
        UserError: there is no checkpoint at the address, or it cannot be reached.
    """
    place = _find(address)
    parent = find_cache() if working_folder is None else Path(working_folder)
    if parent is None:
        raise UserError(f"checkpoint={address}: no folder of caches; give store.working_folder=DIR")
    try:
        folder = _fetch(place, parent.absolute() / FOLDER)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"checkpoint={address}: cannot be fetched ({error})") from error
    _fetched[str(folder)] = place
    terminal.print_line(f"{'checkpoint':<10} {place}, fetched into {folder}")
    return folder


@cache
def _find(address: str) -> str:
    """Return the address of the folder that an address names, the same in all jobs of a sweep."""
    try:
        names = RemoteFolder(address).list()
        if "" not in names:
            return address.rstrip("/")
        above, _, name = address.rstrip("/").rpartition("/")
        if name in (WEIGHTS, CARD):
            return above
        if name == LATEST and names[""][0] <= MAX_NAME:
            content = RemoteFolder(above).read(LATEST) or b""
            return f"{above}/{content.decode(errors='replace').strip()}"
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"checkpoint={address}: cannot be read ({error})") from error
    raise UserError(f"checkpoint={address}: expected a run, a train folder, or latest")


def _fetch(address: str, parent: Path) -> Path:
    """Fetch a run or a network into its folder below a parent."""
    remote = RemoteFolder(address)
    names = remote.list()
    if CARD in names:
        return _mirror(remote, names, _choose_whole(names), parent)
    stages = [name for name in names if name.startswith("stages/")]
    if CONFIG_FILE not in names or not stages:
        shown = ", ".join(sorted(names)[:5]) or "nothing"
        raise UserError(
            f"checkpoint={address}: no checkpoint there; expected {WEIGHTS} and {CARD}, or a run's "
            f"folder with {CONFIG_FILE} and stages/; there is {shown}"
        )
    copied = [name for name in stages if not name.endswith(LINK) and _is_needed(name)]
    folder = _mirror(remote, names, [CONFIG_FILE, *copied], parent)
    for name in stages:
        if name.endswith(LINK):
            _fetch_link(remote, name, folder, parent)
    return folder


def _fetch_link(remote: RemoteFolder, name: str, folder: Path, parent: Path) -> None:
    """Fetch the result that a file of a run names, and link it."""
    within = (remote.read(name) or b"").decode(errors="replace").strip()
    stage, _, key = within.partition("/")
    if not stage.isidentifier() or not key.isalnum():  # it must not lead out of the outputs
        raise UserError(f"{remote.address_of(name)}: expected STAGE/KEY, found {within[:80]!r}")
    outputs = remote.address.rsplit("/", 3)[0]
    result = RemoteFolder(f"{outputs}/{within}")
    names = result.list()
    chosen = _choose_whole(names) if stage in WHOLE else [each for each in names if each == KEY]
    target = _mirror(result, names, chosen, parent)
    link = folder / name.removesuffix(LINK)
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    os.replace(temporary, link)


def _is_needed(name: str) -> bool:
    """Return whether a file of a run, whose results were copied into it, is needed."""
    _, stage, *rest = name.split("/")
    is_whole = stage.partition("-")[0] in WHOLE and LOGS not in rest
    return is_whole or rest == [KEY]


def _choose_whole(names: Iterable[str]) -> list[str]:
    """Return the files of a result that are needed to use it."""
    return [name for name in names if name.split("/")[0] != LOGS]


def _mirror(
    remote: RemoteFolder,
    listed: Mapping[str, tuple[int, int]],
    names: Collection[str],
    parent: Path,
) -> Path:
    """Fetch files whose stamp has changed, delete those that are gone; return the folder."""
    folder = parent / hash_of({"address": remote.address})
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f".{folder.name}.lock"):
        known = read_json(folder / STAMPS) if (folder / STAMPS).is_file() else {}
        chosen = {name: list(listed[name]) for name in names}
        for name in {*known} - {*chosen}:
            (folder / name).unlink(missing_ok=True)
        missing = {
            name: folder / name
            for name, stamp in chosen.items()
            if known.get(name) != stamp or not (folder / name).is_file()
        }
        if missing:
            write_json(folder / STAMPS, {n: s for n, s in known.items() if n not in missing})
            remote.download(missing)
        write_json(folder / STAMPS, chosen)  # its time is that of the last use
        write_text(folder / f"{LEASE}{os.getpid()}", machine_id())
    return folder
