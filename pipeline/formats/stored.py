"""Bytes of a file by its location: a local file, an address of fsspec, a member of an archive.

    /data/a.jpg             a local file, opened as ever
    s3://bucket/a.jpg       an address of fsspec: s3://, gs://, https://, memory://
    a location of `Member`  a part of a tar or zip archive, itself local or at an address

Each read opens what it reads and closes it: processes and threads share no handle, and an archive
that was replaced is noticed. Credentials are those that fsspec finds in the environment.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.errors import UserError
from pipeline.formats.file_cache import current_file_cache
from pipeline.formats.remote_errors import has_secrets, hide_secrets
from pipeline.formats.retries import send
from pipeline.ops.hashing import hash_file

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
MARK = "\0"  # no path of a file system holds it
BLOCK = 1 << 16  # bytes that are read at once where only the head of a file is needed
ZIP_HEADER = 30  # bytes before the name of a member
RAW, ZIP_STORED, ZIP_DEFLATED, ARROW_ROW = 0, 1, 2, 3
OPEN_TABLES = 64  # Arrow files that stay mapped in memory
EXTRA = "pip install 'label2box[remote]'"


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        archive: The location of the archive.
        name: Of the file in it.
        offset: Where its bytes begin; in a zip archive, where its header begins; in an Arrow file,
            its row.
        length: How many bytes it takes, as they are stored.
        method: RAW, ZIP_STORED, ZIP_DEFLATED, or ARROW_ROW.
        stamp: Size and time of change of the archive when it was indexed.
    """

    archive: str
    name: str
    offset: int
    length: int
    method: int
    stamp: tuple[int, int]

    def to_location(self) -> str:
        """Return the text that stands for it where a path is expected; it ends as the name does."""
        size, changed = self.stamp
        numbers = f"{self.offset} {self.length} {self.method} {size} {changed}"
        return MARK.join(("", numbers, self.archive, self.name))

    @classmethod
    def from_location(cls, location: str) -> Member:
        """Return the member that a location stands for.

        Args:
            location: As `to_location` returns it.
        """
        _, numbers, archive, name = location.split(MARK, 3)
        offset, length, method, size, changed = map(int, numbers.split())
        return cls(archive, name, offset, length, method, (size, changed))


def is_address(path: Path | str) -> bool:
    """Return whether a path is an address of fsspec, as s3://bucket/photos.

    Args:
        path: Any text.
    """
    return isinstance(path, str) and ADDRESS.match(path) is not None


def is_local(location: Path | str) -> bool:
    """Return whether a location is the path of a local file.

    Args:
        location: Of a file.
    """
    return not isinstance(location, str) or (
        location[:1] != MARK and ADDRESS.match(location) is None
    )


def is_member(location: Path | str) -> bool:
    """Return whether a location is that of a member of an archive.

    Args:
        location: Of a file.
    """
    return isinstance(location, str) and location[:1] == MARK


def open_file(location: Path | str, *, is_whole: bool = False) -> BinaryIO:
    """Open a file for reading.

    Args:
        location: Of the file.
        is_whole: Whether all of it will be read, which then takes one request over a network.

    Raises:
        OSError: There is no such file, or it cannot be read.
    """
    if is_local(location):
        return open(location, "rb")
    text = str(location)
    if is_whole or (is_member(text) and Member.from_location(text).method != RAW):
        return io.BytesIO(read_bytes(text))
    return cast(BinaryIO, io.BufferedReader(_Range(text), BLOCK))


def read_bytes(location: Path | str) -> bytes:
    """Return the bytes of a file.

    Args:
        location: Of the file.

    Raises:
        OSError: There is no such file, or it cannot be read, or its archive has changed.
    """
    if is_local(location):
        return Path(location).read_bytes()
    text = str(location)
    archive = Member.from_location(text).archive if is_member(location) else text
    cache = current_file_cache() if is_address(archive) else None
    if cache is None:
        return _read_stored(text)
    # The location of a member has the stamp of its archive; a file's is asked for each time.
    name = text if is_member(text) else f"{text} {stamp_of(text)}"
    return cache.read(name, lambda: _read_stored(text))


def _read_stored(location: str) -> bytes:
    """Return the bytes of a file at an address, or of a member of an archive."""
    if not is_member(location):
        return read_range(location)
    member = Member.from_location(location)
    if member.method == ARROW_ROW:
        return _read_row(member)
    if member.method != RAW:
        return _read_zipped(member)
    return read_range(member.archive, member.offset, member.length, member.stamp)


def hash_content(location: Path | str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a file's bytes.

    Args:
        location: Of the file.

    Raises:
        OSError: It cannot be read.
    """
    if is_local(location):
        return hash_file(Path(location))
    return hashlib.sha256(read_bytes(location)).hexdigest()[:16]


def size_of(location: Path | str) -> int:
    """Return how many bytes a file has; in a zip archive, how many it takes there.

    Args:
        location: Of the file.

    Raises:
        OSError: There is no such file.
    """
    if is_member(location):
        return Member.from_location(str(location)).length
    return stamp_of(location)[0]


def is_file(location: Path | str) -> bool:
    """Return whether there is a file; members of archives are taken as there.

    Args:
        location: Of the file.
    """
    if is_local(location):
        return os.path.isfile(location)
    return is_member(location) or exists(str(location))


class _Range(io.RawIOBase):
    """The bytes of a file that is read in parts: only its head is needed."""

    def __init__(self, location: str) -> None:
        self._location, self._place, self._end = location, 0, size_of(location)

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Read what follows into a buffer."""
        length = max(0, min(len(buffer), self._end - self._place))
        if length:
            buffer[:length] = _read_part(self._location, self._place, length)
            self._place += length
        return length


def _read_part(location: str, start: int, length: int) -> bytes:
    """Return some bytes of a remote file, or of a member that is stored as it is."""
    if not is_member(location):
        return read_range(location, start, length)
    member = Member.from_location(location)
    return read_range(member.archive, member.offset + start, length, member.stamp)


def _read_zipped(member: Member) -> bytes:
    """Return the content of a member of a zip archive, whose header has a length of its own."""
    about = ZIP_HEADER + 2 * len(os.fsencode(member.name)) + 64  # with the usual extra fields
    size = member.stamp[0]
    length = min(about + member.length, size - member.offset)
    data = read_range(member.archive, member.offset, length, member.stamp)
    if data[:4] != b"PK\x03\x04":
        raise OSError("its header in the zip archive is damaged")
    start = ZIP_HEADER + sum(int.from_bytes(data[n : n + 2], "little") for n in (26, 28))
    if start + member.length > len(data):
        data = read_range(member.archive, member.offset, start + member.length, member.stamp)
    content = data[start : start + member.length]
    if member.method == ZIP_STORED:
        return content
    try:
        return zlib.decompress(content, -zlib.MAX_WBITS)
    except zlib.error as error:
        raise OSError(f"its part of the zip archive is damaged ({error})") from None


def _read_row(member: Member) -> bytes:
    """Return the image in a row of an Arrow file, or in the file whose path stands there."""
    stamp = stamp_of(member.archive)
    if stamp != member.stamp:
        raise OSError(f"{member.archive} was changed after it was read: run again")
    column = member.name.rpartition("/")[0]
    value = open_arrow(member.archive, *stamp).column(column)[member.offset].as_py()
    content = value["bytes"]
    return Path(value["path"]).read_bytes() if content is None else bytes(content)


@lru_cache(maxsize=OPEN_TABLES)
def open_arrow(path: str, size: int, changed: int) -> Any:
    """Return the table of an Arrow file, mapped into memory.

    Args:
        path: The file.
        size: Its size in bytes, so that a file that was replaced is opened again.
        changed: Its time of change in ns.

    Raises:
        OSError: It cannot be read.
    """
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.memory_map(path)).read_all()


def read_range(
    location: str, start: int = 0, length: int | None = None, stamp: tuple[int, int] | None = None
) -> bytes:
    """Return some bytes of a file.

    Args:
        location: A local path, or an address.
        start: Where they begin.
        length: How many; None: to the end.
        stamp: Size and time of change that a local file must have; None: any.

    Raises:
        OSError: It cannot be read, is shorter, or has another stamp.
    """
    if is_address(location):
        data = _fetch(location, start, length)
    else:
        data = _read_local(location, start, length, stamp)
    if length is not None and len(data) != length:
        raise OSError(f"{len(data)} of {length} bytes are there: the file ends early")
    return data


def _read_local(path: str, start: int, length: int | None, stamp: tuple[int, int] | None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if stamp is not None or length is None:
            stat = os.fstat(descriptor)
            if stamp is not None and (stat.st_size, stat.st_mtime_ns) != stamp:
                name = os.path.basename(path)
                raise OSError(f"the archive {name} was changed after it was indexed: run again")
            length = stat.st_size - start if length is None else length
        data = os.pread(descriptor, length, start)
        while 0 < len(data) < length:  # a read may return less, of more than 2 GiB for one
            more = os.pread(descriptor, length - len(data), start + len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(descriptor)


# -- addresses


def open_address(address: str, is_fresh: bool = False) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    fsspec makes one for each process, so this is safe after a fork.

    Args:
        address: As s3://bucket/photos.
        is_fresh: Whether folders are listed anew each time, as others write to them meanwhile.

    Raises:
        UserError: No file system is known by this name, or its package is not installed; or the
            address holds a password.
    """
    if has_secrets(address):
        raise UserError(
            f"{hide_secrets(address)}: an address must not hold a user, a password or a signature, "
            "as it is written to files; credentials come from the environment"
        )
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{address}: fsspec is not installed; {EXTRA}") from None
    try:
        options = {"use_listings_cache": False} if is_fresh else {}
        system, path = fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        raise UserError(f"{address}: {error}; {EXTRA}") from None
    except ValueError as error:
        raise UserError(f"{address}: {error}; expected s3://, gs://, https:// or file://") from None
    return system, str(path)


def _fetch(address: str, start: int, length: int | None) -> bytes:
    """Return some bytes of a remote file; try again where the network fails."""
    system, path = open_address(address)
    if start == 0 and length is None:
        return send(address, lambda: bytes(system.cat_file(path)))
    end = None if length is None else start + length
    return send(address, lambda: bytes(system.cat_file(path, start=start, end=end)))


def exists(location: str) -> bool:
    """Return whether there is a file or folder.

    Args:
        location: A local path, or an address.
    """
    if not is_address(location):
        return os.path.exists(location)
    system, path = open_address(location)
    return bool(send(location, lambda: system.exists(path), is_patient=False))


def stamp_of(location: Path | str, is_patient: bool = True) -> tuple[int, int]:
    """Return the size of a file in bytes, and its time of change in ns, or a hash in its place.

    Args:
        location: A local path, or an address.
        is_patient: Whether a server that cannot be reached is waited for.

    Raises:
        OSError: There is no such file.
    """
    if not is_address(location):
        stat = os.stat(location)
        return stat.st_size, stat.st_mtime_ns
    system, path = open_address(str(location))
    return stamp_of_entry(send(str(location), lambda: system.info(path), is_patient))


VERSION_KEYS = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "last_modified", "created")


def stamp_of_entry(entry: dict[str, Any]) -> tuple[int, int]:
    """Return the size of a remote file, and a number that changes with what its server says of it.

    Args:
        entry: As fsspec lists it.
    """
    said = [f"{key}={entry[key]}" for key in VERSION_KEYS if entry.get(key) is not None]
    digest = hashlib.sha256("\0".join(said).encode()).digest()
    return int(entry.get("size") or 0), int.from_bytes(digest[:8], "big") >> 1


def open_seekable(location: str) -> BinaryIO:
    """Open a file that is read mostly forwards, with gaps: an archive that is indexed.

    Args:
        location: A local path, or an address.

    Raises:
        OSError: There is no such file.
    """
    if not is_address(location):
        return open(location, "rb")
    system, path = open_address(location)
    block = 4 << 20
    return cast(BinaryIO, system.open(path, "rb", block_size=block, cache_type="readahead"))
