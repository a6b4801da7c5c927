"""A folder at an address of fsspec that files are written to: s3://, gs://, memory://, file://.

Each request is sent again where network or server fail (pipeline/formats/retries.py). Files are
replaced whole; nothing is renamed, as object stores cannot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.formats.files import atomic_write
from pipeline.formats.remote_errors import describe_failure
from pipeline.formats.retries import send
from pipeline.formats.stored import open_address, stamp_of_entry

TRANSFERS = 8  # at a time
LOCAL = ("file", "local")  # protocols of fsspec

Answer = TypeVar("Answer")


class RemoteFolder:
    """A folder at an address. Names are relative to it, with `/`.

    Args:
        address: As s3://bucket/outputs.

    Raises:
        UserError: Its file system is not known or not installed, or the address holds a password.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._system, top = open_address(self.address, is_fresh=True)
        self._top = top.rstrip("/")
        protocols = self._system.protocol
        self._is_local = any(
            each in LOCAL for each in ([protocols] if isinstance(protocols, str) else protocols)
        )
        self._is_patient = True

    def address_of(self, name: str) -> str:
        """Return the address of a file or folder in it.

        Args:
            name: Relative to the folder; empty: the folder itself.
        """
        return f"{self.address}/{name}".rstrip("/")

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Let requests of the block fail soon where the server cannot be reached."""
        before, self._is_patient = self._is_patient, False
        try:
            yield
        finally:
            self._is_patient = before

    def list(self, below: str = "") -> dict[str, tuple[int, int]]:
        """Return size and stamp of each file below a folder, by name; none where there is none.

        A stamp is a number that changes with the file. Where `below` is a file, its name is empty.

        Args:
            below: The folder, from which names are relative.
        """
        top = self._path(below)
        try:
            entries = self._send(below, lambda: self._system.find(top, detail=True))
        except FileNotFoundError:
            return {}
        return {
            str(path).removeprefix(top).lstrip("/"): stamp_of_entry(entry)
            for path, entry in entries.items()
            if entry.get("type") == "file" and not str(path).endswith("/")
        }

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None where there is none.

        Args:
            name: Of the file.
        """
        try:
            return bytes(self._send(name, lambda: self._system.cat_file(self._path(name))))
        except FileNotFoundError:
            return None

    def read_record(self, name: str) -> dict[str, Any] | None:
        """Return the JSON object in a file; None where there is none, or it is damaged.

        Args:
            name: Of the file.
        """
        try:
            value = json.loads(self.read(name) or b"")
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file.

        Args:
            name: Of the file.
            content: Its bytes.
        """
        path = self._prepare(name)
        self._send(name, lambda: self._system.pipe_file(path, content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file unless there is one of that name, in one step of the server.

        Args:
            name: Of the file.
            content: Its bytes, unlike those that others create.

        Returns:
            Whether the file is the one that was given here.
        """
        path = self._prepare(name)

        def request() -> None:
            if self._is_local:
                with open(path, "xb") as file:
                    file.write(content)
            else:
                self._system.pipe_file(path, content, mode="create")

        try:
            self._send(name, request)
        except FileExistsError:  # perhaps by a request of ours whose answer was lost
            return self.read(name) == content
        return True

    def modified(self, name: str) -> float | None:
        """Return when a file was written, in seconds of the server's clock; None: there is none.

        Args:
            name: Of the file.
        """
        try:
            when = self._send(name, lambda: self._system.modified(self._path(name)))
        except FileNotFoundError:
            return None
        return float(when.timestamp())

    def delete(self, names: Collection[str]) -> None:
        """Delete files; those that are not there are none the less gone.

        Args:
            names: Of the files.
        """

        def delete(name: str) -> None:
            with suppress(FileNotFoundError):
                self._send(name, lambda: self._system.rm_file(self._path(name)))

        _each_in_threads(delete, names)

    def upload(self, files: Mapping[str, Path]) -> None:
        """Upload files, several at a time.

        Args:
            files: Local paths by name.
        """

        def upload(name: str) -> None:
            path = self._prepare(name)
            self._send(name, lambda: self._system.put_file(str(files[name]), path))

        _each_in_threads(upload, files)

    def download(self, files: Mapping[str, Path]) -> None:
        """Download files, several at a time, each whole or not at all.

        Args:
            files: Local paths by name.

        Raises:
            FileNotFoundError: One is not there any more.
        """

        def download(name: str) -> None:
            with atomic_write(files[name]) as temporary:
                self._send(name, lambda: self._system.get_file(self._path(name), str(temporary)))

        _each_in_threads(download, files)

    def check_writable(self, option: str, name: str) -> None:
        """Write and delete a file, so that a folder that cannot be written to is refused at start.

        Args:
            option: That named the folder, for the message.
            name: Of the file.

        Raises:
            UserError: It cannot be written to.
        """
        try:
            with self.impatient():
                self.write(name, b"")
                self.delete([name])
        except UserError:
            raise
        except Exception as error:  # each file system has errors of its own
            reason = describe_failure(self.address, error)
            raise UserError(f"{option}={self.address}: cannot be written to ({reason})") from error

    def _path(self, name: str) -> str:
        """Return the path of a file in its file system."""
        return f"{self._top}/{name}".rstrip("/")

    def _prepare(self, name: str) -> str:
        """Return the path of a file that is to be written, in a folder that is there."""
        path = self._path(name)
        if self._is_local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def _send(self, name: str, request: Callable[[], Answer]) -> Answer:
        """Send a request about a file."""
        return send(self.address_of(name), request, self._is_patient)


def _each_in_threads(work: Callable[[str], None], names: Collection[str]) -> None:
    """Call a function for each name, several at a time; raise the first error."""
    if len(names) < 2:
        for name in names:
            work(name)
        return
    with ThreadPoolExecutor(min(TRANSFERS, len(names))) as threads:
        for _ in threads.map(work, list(names)):
            pass
