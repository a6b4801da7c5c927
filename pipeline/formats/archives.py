"""Lists of the files in tar and zip archives, with the place of each, so that it is read alone.

A tar archive is read header by header; one that ends early gives the files before the damage, and a
note that names the byte. The list of a zip archive stands at its end; where it is not there, the
headers of its files are read one after the other, too.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pipeline.errors import UserError
from pipeline.formats import stored
from pipeline.formats.stored import RAW, ZIP_DEFLATED, ZIP_HEADER, ZIP_STORED
from pipeline.ops.text import printable
from pipeline.types import Loss, Note

if TYPE_CHECKING:
    from jaxtyping import Int64

RECORD = 512
ENDINGS = (".tar", ".zip")
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd"}  # of zip members, not read
ENCRYPTED, SIZES_BEHIND, IS_UTF8 = 1, 8, 1 << 11  # flags of a zip member
LOCAL_HEADER, ZIP64 = b"PK\3\4", 0xFFFFFFFF
READ_METHODS = {zipfile.ZIP_STORED: ZIP_STORED, zipfile.ZIP_DEFLATED: ZIP_DEFLATED}
MAX_CONTENT = 1 << 20  # bytes of a member that is read while the archive is indexed
REGULAR, LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, FOLDER = b"0\0" + b"7", b"L", b"K", b"x", b"g", b"5"
LINKS = b"12"


@dataclass
class Contents:
    """The files in an archive.

    Attributes:
        names: Of each file, as the archive spells it.
        offsets: Where the bytes of each begin; in a zip archive, where its header begins.
        lengths: How many bytes each takes, as they are stored.
        methods: How each is stored.
        notes: What cannot be read, a line each.
        contents: The bytes of those that were wanted, by their position.
    """

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    methods: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)

    def add(self, name: str, offset: int, length: int, method: int = RAW) -> None:
        """Add a file.

        Args:
            name: As the archive spells it.
            offset: Where its bytes, or in a zip archive its header, begin.
            length: How many bytes it takes, as they are stored.
            method: How it is stored.
        """
        self.names.append(name)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.methods.append(method)

    def numbers(self) -> Int64[np.ndarray, "n 3"]:
        """Return offset, length and method of each file."""
        rows = [self.offsets, self.lengths, self.methods]
        return np.array(rows, np.int64).reshape(3, -1).T


def is_archive_name(location: str) -> bool:
    """Return whether a name ends as that of a tar or zip archive does.

    Args:
        location: A path or an address.
    """
    return location.lower().endswith(ENDINGS)


def is_archive(location: str) -> bool:
    """Return whether a file is a tar or zip archive by its content; by its name at an address.

    Args:
        location: A path or an address.
    """
    if stored.is_address(location):
        return is_archive_name(location)
    if not os.path.isfile(location):
        return False
    try:
        head = stored.read_range(location, 0, min(RECORD, os.path.getsize(location)))
    except OSError:
        return False
    return is_archive_name(location) or head[:2] == b"PK" or head[257:262] == b"ustar"


def read_archive(location: str, is_wanted: Callable[[str], bool] | None = None) -> Contents:
    """List the files of an archive.

    Args:
        location: A path or an address.
        is_wanted: Whether the content of a file of this name is read, too.

    Raises:
        UserError: It cannot be read, is compressed as a whole, or is no archive.
    """
    try:
        with stored.open_seekable(location) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(RECORD)
            for start, name in COMPRESSED.items():
                if head.startswith(start):
                    raise UserError(
                        f"{location}: compressed by {name} as a whole, so no image of it can be "
                        "read alone; unpack it once into a plain .tar, or into a folder"
                    )
            if head[:2] == b"PK":
                return _read_zip(file, location, is_wanted)
            if size and (len(head) < RECORD or not _is_header(head)) and any(head):
                raise UserError(f"{location}: no tar or zip archive: its first bytes are others")
            return _read_tar(file, size, location, is_wanted)
    except FileNotFoundError:
        raise UserError(f"{location}: no such file") from None
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{location}: cannot be read ({reason}); get the archive again") from None


# -- tar


def _read_tar(
    file: BinaryIO, size: int, location: str, is_wanted: Callable[[str], bool] | None
) -> Contents:
    result, others, name = Contents(), Counter[str](), os.path.basename(location)
    given: dict[str, str] = {}  # what an extended header says of the next file
    place = 0
    while True:
        file.seek(place)
        header = file.read(RECORD)
        if len(header) == RECORD and not any(header):
            break
        damage = _find_damage(header, place, size, given)
        if damage is not None:
            result.notes.append(_describe_cut(name, damage, len(result.names)))
            break
        kind, length = header[156:157], _find_length(header, given)
        start, place = place + RECORD, place + RECORD + -(-length // RECORD) * RECORD
        if kind in (PAX, LONG_NAME):
            given = {**given, **_parse_extended(kind, file.read(length))}
            continue
        if kind in REGULAR:
            path = given.get("path") or _parse_name(header)
            if is_wanted is not None and is_wanted(path):
                result.contents[len(result.names)] = file.read(min(length, MAX_CONTENT))
            result.add(path, start, length)
        elif kind not in (FOLDER, LONG_LINK, PAX_GLOBAL):
            others["link" if kind in LINKS else f"of kind {kind!r}"] += 1
        if kind not in (LONG_LINK, PAX_GLOBAL):
            given = {}
    result.notes += _describe_others(name, others)
    return result


def _find_length(header: bytes, given: Mapping[str, str]) -> int:
    """Return how many bytes follow a header."""
    is_extended = header[156:157] in (PAX, LONG_NAME, LONG_LINK, PAX_GLOBAL)
    if "size" in given and not is_extended:
        return int(given["size"])
    return _parse_number(header[124:136])


def _parse_extended(kind: bytes, data: bytes) -> dict[str, str]:
    """Return what an extended header says of the file that follows it."""
    if kind == LONG_NAME:
        return {"path": os.fsdecode(data.rstrip(b"\0"))}
    return dict(_parse_pax(data))


def _find_damage(header: bytes, place: int, size: int, given: Mapping[str, str]) -> str | None:
    """Return what is wrong with what stands where a header should be; None if nothing is.

    Args:
        header: What stands there.
        place: Where it stands.
        size: Of the archive, in bytes.
        given: What an extended header says of the file.
    """
    if not header:
        return f"ends early, at byte {size}, without the mark of its end"
    if len(header) < RECORD:
        return f"ends early, at byte {size}, within a header"
    if not _is_header(header):
        return f"damaged at byte {place}: no header of a file stands there"
    try:
        length = _find_length(header, given)
    except ValueError:
        return f"damaged at byte {place}: a header without a length stands there"
    left = size - place - RECORD
    if length > left:
        spelled = printable(given.get("path") or _parse_name(header))
        return (
            f"ends early, at byte {size}: {spelled!r}, from byte {place} on, has {length} bytes, "
            f"of which {left} are there"
        )
    return None


def _is_header(header: bytes) -> bool:
    """Return whether a record has the sum that it says."""
    try:
        said = _parse_number(header[148:156])
    except ValueError:
        return False
    return said == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _parse_number(text: bytes) -> int:
    """Return a number in octal digits, or in binary where its first bit is set."""
    if text[0] & 0x80:
        return int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
    return int(text.split(b"\0")[0].strip() or b"0", 8)


def _parse_name(header: bytes) -> str:
    """Return the path of a file as its header has it."""
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return os.fsdecode(b"/".join([prefix, name]) if prefix else name)


def _parse_pax(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the entries of an extended header: `length key=value` and a line end each."""
    place = 0
    while place < len(data) and (space := data.find(b" ", place)) > 0:
        try:
            end = place + int(data[place:space])
        except ValueError:
            return
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        yield key.decode("utf-8", "replace"), os.fsdecode(value)
        place = max(end, space)


def _describe_cut(name: str, damage: str, good: int) -> Note:
    """Return the note on an archive that ends early or is damaged."""
    files = f"{good} file{'s' * (good != 1)} before it {'are' if good != 1 else 'is'}"
    remedy = "get the archive again to have all"
    text = f"{name}: {damage}; {files} good and used; {remedy}"
    return Note(text, [name], loss=Loss("cut", remedy=remedy))


def _describe_others(name: str, others: Counter[str]) -> Iterator[str]:
    """Yield a note on what is neither a file nor a folder."""
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
        total = others.total()
        what = "entry is" if total == 1 else "entries are"
        yield f"{name}: {total} {what} no plain file, not read: {kinds}"


# -- zip


def _read_zip(file: BinaryIO, location: str, is_wanted: Callable[[str], bool] | None) -> Contents:
    result, others, name = Contents(), Counter[str](), os.path.basename(location)
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        return _scan_zip(file, location, is_wanted)
    for entry in archive.infolist():
        if entry.is_dir():
            continue
        if (odd := _find_unreadable(entry.flag_bits, entry.compress_type)) is not None:
            others[odd] += 1
        else:
            if is_wanted is not None and is_wanted(entry.filename):
                result.contents[len(result.names)] = archive.read(entry)[:MAX_CONTENT]
            result.add(
                entry.filename, entry.header_offset, entry.compress_size,
                READ_METHODS[entry.compress_type],
            )  # fmt: skip
    result.notes += _describe_others(name, others)
    return result


def _find_unreadable(flags: int, method: int) -> str | None:
    """Return why a member of a zip archive is not read; None where it is."""
    if flags & ENCRYPTED:
        return "with a password"
    if method not in READ_METHODS:
        return f"compressed by {METHODS.get(method, f'method {method}')}"
    return None


def _scan_zip(file: BinaryIO, location: str, is_wanted: Callable[[str], bool] | None) -> Contents:
    """List the files of a zip archive whose list is not there, header by header.

    Raises:
        UserError: No file is whole.
    """
    result, others, name = Contents(), Counter[str](), os.path.basename(location)
    size, place = file.seek(0, os.SEEK_END), 0
    damage = (
        f"ends early, at byte {size}: the list of its files, which stands at the end of a zip "
        "archive, is not there"
    )
    while (header := _read_local(file, place)) is not None:
        path, flags, method, length, start = header
        if flags & SIZES_BEHIND or length == ZIP64:
            damage += f", and the size of {printable(path)!r}, at byte {place}, neither"
            break
        if start + length > size:
            damage = (
                f"ends early, at byte {size}: {printable(path)!r}, from byte {place} on, has "
                f"{length} bytes, of which {max(0, size - start)} are there"
            )
            break
        odd = _find_unreadable(flags, method)
        if odd is not None:
            others[odd] += 1
        elif not path.endswith("/"):
            if is_wanted is not None and is_wanted(path):
                file.seek(start)
                data = file.read(length)
                data = data if method == zipfile.ZIP_STORED else zlib.decompress(data, -15)
                result.contents[len(result.names)] = data[:MAX_CONTENT]
            result.add(path, place, length, READ_METHODS[method])
        place = start + length
    if not result.names:
        raise UserError(f"{location}: {damage}; get the archive again")
    cut = _describe_cut(name, damage, len(result.names))
    result.notes += [cut, *_describe_others(name, others)]
    return result


def _read_local(file: BinaryIO, place: int) -> tuple[str, int, int, int, int] | None:
    """Return name, flags, method, length and start of the member at a place; None: none is."""
    file.seek(place)
    header = file.read(ZIP_HEADER)
    if len(header) < ZIP_HEADER or not header.startswith(LOCAL_HEADER):
        return None
    flags, method = struct.unpack_from("<HH", header, 6)
    length, _, of_name, of_extra = struct.unpack_from("<IIHH", header, 18)
    name = file.read(of_name)
    path = name.decode("utf-8" if flags & IS_UTF8 else "cp437", "replace")
    return path, flags, method, length, place + ZIP_HEADER + of_name + of_extra
