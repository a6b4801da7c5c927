"""Downloads from a server here that breaks off, knows no ranges, or has another file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pipeline.formats.download import fetch

CONTENT = np.random.default_rng(0).bytes(900_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    contents: dict[str, bytes] = field(default_factory=dict)  # by path; empty: content for all
    tag: str = '"1"'
    knows_ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)  # bytes of each answer; then none breaks
    ranges: list[str | None] = field(default_factory=list)
    status: int = 200


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            if state.status != 200:
                self.send_error(state.status)
                return
            content = state.contents.get(self.path, state.content)
            begin = 0
            is_same = self.headers.get("If-Range") in (None, state.tag)
            if asked and state.knows_ranges and is_same:
                begin = int(asked.removeprefix("bytes=").rstrip("-"))
                if begin >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
            body = content[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", state.tag)
            self.end_headers()
            limit = state.breaks_after.pop(0) if state.breaks_after else len(body)
            self.wfile.write(body[:limit])
            self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}/set.tar.gz"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()


def test_it_goes_on_where_the_connection_broke(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [300_000, 200_000]
    told: list[tuple[int, int | None]] = []
    target = tmp_path / "below" / "set.tar.gz"
    fetch(server.url, target, MD5, lambda done, total: told.append((done, total)), wait=0.01)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert told[-1] == (900_000, 900_000)
    assert all(total == 900_000 for _, total in told)
    assert [path.name for path in target.parent.iterdir() if path.name[0] != "."] == [target.name]
    fetch(server.url, target, MD5)
    assert len(server.ranges) == 3, "a whole file is not downloaded again"


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    server.breaks_after = [300_000, 0, 0, 0, 0, 0]
    with pytest.raises(OSError, match=r"closed after 300000 of 900000 bytes.*goes on from there"):
        fetch(server.url, target, MD5, wait=0.001)
    assert not target.exists()
    server.breaks_after, server.ranges = [], []
    fetch(server.url, target, MD5)
    assert server.ranges == ["bytes=300000-"]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("why", ["no ranges", "another version"])
def test_it_begins_anew_where_it_must(server: Server, tmp_path: Path, why: str) -> None:
    target = tmp_path / "set.tar.gz"
    server.breaks_after = [300_000, 0, 0, 0, 0, 0]
    with pytest.raises(OSError, match="goes on from there"):
        fetch(server.url, target, MD5, wait=0.001)
    server.breaks_after = []
    if why == "no ranges":
        server.knows_ranges = False
    else:
        server.content, server.tag = CONTENT[::-1], '"2"'
    fetch(server.url, target, hashlib.md5(server.content).hexdigest())
    assert target.read_bytes() == server.content


def test_a_part_that_is_whole_already(server: Server, tmp_path: Path) -> None:
    """As after a run that was killed before it gave the file its name."""
    target = tmp_path / "set.tar.gz"
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT)
    fetch(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    target.unlink()
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT + b"more")
    fetch(server.url, target, MD5, wait=0.001)
    assert target.read_bytes() == CONTENT


def test_another_content_is_refused(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    with pytest.raises(OSError, match=f"its MD5 is {MD5} and not 0000"):
        fetch(server.url, target, "0000")
    assert not [path for path in tmp_path.iterdir() if path.name[0] != "."]
    target.write_bytes(b"cut off by another program")
    fetch(server.url, target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_server_that_refuses(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(OSError, match="the server answers 404"):
        fetch(server.url, tmp_path / "set.tar.gz")
    assert len(server.ranges) == 1, "it is not asked again"


def test_progress_is_printed(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(server.url, tmp_path / "set.tar.gz", MD5)
    assert capsys.readouterr().err == "download: set.tar.gz: 0.9 of 0.9 MB\n"
