"""Download a file: resumed where it broke off, checked, and there under its name once it is whole.

    NAME.part       what has come so far; a later call goes on at its end (HTTP Range)
    NAME.part.tag   by which the server knows the version of the file that the part is of

A server that does not know ranges, or has another version of the file now, sends it from its
beginning.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, cast

from filelock import FileLock

BLOCK = 1 << 18  # bytes that are read at once
TRIES = 5  # in a row that bring nothing new
WAIT = 1.0  # seconds before the second of them, doubled each time
TIMEOUT = 60.0  # seconds without a byte
REPORT_EVERY = 5.0  # seconds

Report = Callable[[int, int | None], None]
"""Is told how many bytes have come, and of how many if the server says so."""


def fetch(
    url: str,
    target: Path,
    md5: str | None = None,
    report: Report | None = None,
    wait: float | None = None,
) -> None:
    """Download a file unless it is there; go on where an earlier call was broken off.

    Args:
        url: Where it is, http or https.
        target: Where it goes. Missing parent folders are made.
        md5: The MD5 of its content; None: it is not known, and the length alone is compared.
        report: Is told of the progress; None: a line every few seconds on stderr.
        wait: Seconds before a broken connection is tried again, doubled each time; None: WAIT.

    Raises:
        OSError: It cannot be downloaded, or is another file than expected.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(
        target.with_name(f".{target.name}.lock")
    ):  # of several runs one downloads, and the others wait
        if not target.is_file() or (md5 is not None and _hash(target) != md5):
            pause = WAIT if wait is None else wait
            _fetch(url, target, md5, report or _Printed(target.name), pause)


def _fetch(url: str, target: Path, md5: str | None, report: Report, wait: float) -> None:
    """Download into the part until it is whole, check it, and give it its name."""
    part = target.with_name(f"{target.name}.part")
    failures = 0
    while True:
        before = _size(part)
        try:
            total = _receive(url, part, report)
            if total is None or _size(part) == total:
                break
            reason = f"the connection was closed after {_size(part)} of {total} bytes"
        except (OSError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500:
                raise OSError(f"{url}: the server answers {error.code} {error.reason}") from None
            reason = str(error) or type(error).__name__
        size = _size(part)
        failures = 1 if size > before else failures + 1
        if failures >= TRIES:
            kept = f"; {size} bytes are kept in {part}, and the same command goes on from there"
            raise OSError(f"{url}: {reason}{kept if size else ''}")
        time.sleep(wait * 2 ** (failures - 1))
    if md5 is not None and (found := _hash(part)) != md5:
        _forget(part)
        raise OSError(
            f"{url}: its MD5 is {found} and not {md5}: removed; give the command again, and if it "
            "stays so, the file is another one than it was"
        )
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    _forget(part)


def _receive(url: str, part: Path, report: Report) -> int | None:
    """Append what the server sends to the part; return how long the whole file is, if it says so.

    Raises:
        OSError: The connection broke, or the server refuses.
    """
    tag_file, have = part.with_name(f"{part.name}.tag"), _size(part)
    tag = tag_file.read_text(encoding="utf-8") if have and tag_file.is_file() else ""
    headers = {"User-Agent": "label2box", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": tag} if tag else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        response = cast(HTTPResponse, urllib.request.urlopen(request, timeout=TIMEOUT))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file, or as long
            total = _parse_total(error.headers.get("Content-Range"))
            if total != have:
                _forget(part)
                return -1  # it is tried again from the beginning
            return total
        raise
    with response:
        is_rest = response.status == 206
        length = response.headers.get("Content-Length")
        begin = have if is_rest else 0
        total = None if length is None else begin + int(length)
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        tag_file.write_text("" if tag.startswith("W/") else tag, encoding="utf-8")
        with part.open("ab" if is_rest else "wb") as file:
            _copy(response, file, begin, total, report)
    return total


def _copy(
    source: HTTPResponse, file: IO[bytes], begin: int, total: int | None, report: Report
) -> None:
    """Copy all bytes, and report the progress."""
    done = begin
    while block := source.read(BLOCK):
        file.write(block)
        done += len(block)
        report(done, total)


def _parse_total(text: str | None) -> int | None:
    """Return the length of a file from Content-Range, as `bytes */1234`; None where it has none."""
    total = (text or "").rpartition("/")[2]
    return int(total) if total.isdecimal() else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _forget(part: Path) -> None:
    """Remove a part and its tag."""
    for path in (part, part.with_name(f"{part.name}.tag")):
        path.unlink(missing_ok=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class _Printed:
    """Prints the progress on stderr every few seconds, and at the end.

    Args:
        name: Of the file.
    """

    def __init__(self, name: str) -> None:
        self._name, self._next = name, time.monotonic() + REPORT_EVERY

    def __call__(self, done: int, total: int | None) -> None:
        """Print a line if it is time."""
        if time.monotonic() < self._next and done != total:
            return
        self._next = time.monotonic() + REPORT_EVERY
        of = "" if total is None else f" of {total / 1e6:.1f}"
        print(f"download: {self._name}: {done / 1e6:.1f}{of} MB", file=sys.stderr, flush=True)
