"""A single file in an object store and its copy here, which runs change: the boxes of a person."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.formats.files import read_json, write_json
from pipeline.formats.remote import RemoteFolder


class RemoteFile:
    """A file beside the results, which is fetched before a run, and published where it changed.

    What was last the same here and there is recorded, so that no change is overwritten.

    Args:
        outputs: the remote folder of outputs.
        name: of the file in it.
        working: the working folder.
    """

    def __init__(self, outputs: RemoteFolder, name: str, working: Path) -> None:
        self._outputs, self._name, self._path = outputs, name, working / name
        self._record = working / f".{name}.published"

    def fetch(self) -> None:
        """Fetch the file where it was changed there.

        Raises:
            UserError: it was changed here, too.
        """
        stamp = self._remote_stamp()
        if stamp is None or stamp == self._known().get("there"):
            return
        if self._is_changed_here():
            raise self._conflict()
        self._outputs.download({self._name: self._path})
        self._note(stamp)

    def publish(self) -> None:
        """Publish the file where it was changed here.

        Raises:
            UserError: it was changed there, too.
        """
        if not self._is_changed_here():
            return
        if self._remote_stamp() != self._known().get("there"):
            raise self._conflict()
        self._outputs.upload({self._name: self._path})
        self._note(self._remote_stamp())

    def _remote_stamp(self) -> int | None:
        """Return a number that changes with the file in the store; None where it is not there."""
        entry = self._outputs.list(self._name).get("")
        return None if entry is None else entry[1]

    def _known(self) -> dict[str, int | None]:
        """Return when the file here, and the stamp of that there, were last of the same content."""
        return dict(read_json(self._record)) if self._record.is_file() else {}

    def _is_changed_here(self) -> bool:
        if not self._path.is_file():
            return False
        return self._path.stat().st_mtime_ns != self._known().get("here")

    def _note(self, stamp: int | None) -> None:
        write_json(self._record, {"here": self._path.stat().st_mtime_ns, "there": stamp})

    def _conflict(self) -> UserError:
        return UserError(
            f"{self._outputs.address_of(self._name)}: changed by somebody else, and in {self._path}"
            ", too; put together what both have, or delete one of them, and run again"
        )
