"""The result of a stage in an object store: fetched where it is complete, and published.

<stage>/<key>/...       the files of a result, as they are written
<stage>/<key>/DONE      written last: a result without it is work in progress
<stage>/<key>/.working  who works on it: the working folder that has all that was uploaded
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.engine.store import DONE, LOCK, LOGS, USES, is_temporary
from pipeline.formats.remote import RemoteFolder

WORKING = ".working"
PUBLISHED = ".published"  # in a folder here that the store has: it may be deleted
IMMUTABLE = "shard-"  # files whose names begin so, or `.shard-`, are never written again

Stamp = tuple[int, int]


class RemoteResult:
    """A result in a store, and its folder here.

    Args:
        outputs: the remote folder of outputs.
        name: of the result in it, as `train/0123456789abcdef`.
        folder: of the result here.
        place: an id of the working folder here.
    """

    def __init__(self, outputs: RemoteFolder, name: str, folder: Path, place: str) -> None:
        self._outputs, self._name, self._folder, self._place = outputs, name, folder, place
        self._uploaded: dict[str, Stamp] = {}
        self._remote: set[str] = set()

    def is_complete(self) -> bool:
        """Return whether the store has DONE, and all files that it lists."""
        done = self._outputs.read_record(f"{self._name}/{DONE}")
        return done is not None and _has_all(self._outputs.list(self._name), done)

    def fetch(self) -> bool:
        """Fetch the complete result; return whether there is one."""
        done = self._outputs.read(f"{self._name}/{DONE}")
        if done is None:
            return False
        listed = self._outputs.list(self._name)
        with suppress(ValueError):
            if _has_all(listed, json.loads(done)):
                self._download(listed)
                path = self._folder / DONE
                path.with_name(".DONE.tmp").write_bytes(done)
                os.replace(path.with_name(".DONE.tmp"), path)
                (self._folder / PUBLISHED).touch()
                return True
        return False

    def begin(self) -> None:
        """Take over what another working folder has uploaded of a result that is not complete.

        Where this working folder was the last one, it has all that was uploaded, and more.
        """
        listed = self._outputs.list(self._name)
        worker = self._outputs.read(f"{self._name}/{WORKING}")
        self._remote = {name for name in listed if name != WORKING}
        if DONE in listed:  # of a result of which files are missing
            self._outputs.delete([f"{self._name}/{DONE}"])
            self._remote.discard(DONE)
        if worker == self._place.encode():
            sizes = {name: listed[name][0] for name in self._remote}
            self._uploaded = {
                name: stamp
                for name, stamp in self._local_files()
                if sizes.get(name) == stamp[0]
                and os.path.basename(name).lstrip(".").startswith(IMMUTABLE)
            }
            return
        (self._folder / PUBLISHED).unlink(missing_ok=True)
        if self._remote:
            self._download(listed)
            self._uploaded = dict(self._local_files())
        self._outputs.write(f"{self._name}/{WORKING}", self._place.encode())

    def begin_again(self) -> None:
        """Prepare to upload all files of a result that is complete here."""
        self._remote = {*self._outputs.list(self._name)} - {WORKING, DONE}

    def upload_changes(self, is_final: bool = False) -> None:
        """Upload the files that were written since, and then delete those that are gone.

        Args:
            is_final: whether the result is complete; else files for watching wait.
        """
        files = {
            name: stamp
            for name, stamp in self._local_files()
            if is_final or name.split("/")[0] != LOGS
        }
        changed = [name for name, stamp in files.items() if self._uploaded.get(name) != stamp]
        # The oldest first: plan.json before the shards that are of this plan.
        for name in sorted(changed, key=lambda name: files[name][1]):
            with suppress(FileNotFoundError):  # its place has been taken by another file
                if (self._folder / name).is_file():
                    self._outputs.upload({f"{self._name}/{name}": self._folder / name})
                    self._uploaded[name] = files[name]
                    self._remote.add(name)
        gone = self._remote - {*files} if is_final or files else set[str]()
        self._outputs.delete([f"{self._name}/{name}" for name in gone])
        self._remote -= gone

    def publish(self) -> None:
        """Upload what is missing of a result that is complete here; DONE is written last."""
        self.upload_changes(is_final=True)
        done = (self._folder / DONE).read_bytes()
        self._outputs.write(f"{self._name}/{DONE}", done)
        self._outputs.delete([f"{self._name}/{WORKING}"])
        (self._folder / PUBLISHED).touch()

    def _download(self, listed: Mapping[str, Stamp]) -> None:
        """Download the files of a listing, and delete here what it does not have."""
        names = [name for name in listed if name not in (DONE, WORKING)]
        for name, _ in self._local_files():
            if name not in listed:
                (self._folder / name).unlink()
        local = {f"{self._name}/{name}": self._folder / name for name in names}
        self._outputs.download(local)

    def _local_files(self) -> Iterator[tuple[str, Stamp]]:
        """Yield name, and size and time of change, of each file that belongs to the result."""
        for path in list_files(self._folder):
            name = path.relative_to(self._folder).as_posix()
            with suppress(FileNotFoundError):
                stat = path.stat()
                yield name, (stat.st_size, stat.st_mtime_ns)


def list_files(folder: Path) -> list[Path]:
    """List the files of a result that are published, DONE not among them.

    Args:
        folder: of the result.
    """
    return [
        Path(place, name)
        for place, _, names in os.walk(folder)
        for name in sorted(names)
        if name not in (LOCK, USES, PUBLISHED) and not is_temporary(name)
        and not (name == DONE and Path(place) == folder)
    ]  # fmt: skip


def _has_all(listed: Mapping[str, Stamp], done: Mapping[str, Any]) -> bool:
    """Return whether a listing has all files that DONE names, in their sizes."""
    files = done.get("files", {})
    return all(name in listed and listed[name][0] == size for name, size in files.items())
