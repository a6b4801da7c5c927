"""Images over http: of a tar only the bytes of the image are sent, and its list once."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.images import Images
from pipeline.data.webdataset import WebDataset
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo
from pipeline.formats.stored import BLOCK
from tests.data.archive_layouts import noise, to_bytes, write_tar

pytestmark = pytest.mark.skipif(
    find_spec("aiohttp") is None, reason="aiohttp is not installed: label2box[remote]"
)


class Handler(BaseHTTPRequestHandler):
    """Serve the files of a folder, and ranges of them; count the bytes that are sent."""

    root: Path
    sent: list[int]

    def do_GET(self) -> None:
        self._send(has_body=True)

    def do_HEAD(self) -> None:
        self._send(has_body=False)

    def _send(self, has_body: bool) -> None:
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data, size = path.read_bytes(), path.stat().st_size
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or size - 1)
            data = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()
        if has_body:
            self.sent.append(len(data))
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[int]]]:
    """An address, and the sizes of what was sent."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sent: list[int] = []
    handler = type("OfTest", (Handler,), {"root": tmp_path, "sent": sent})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", sent
        running.shutdown()
        thread.join()


def test_a_shard_is_read_by_ranges(tmp_path: Path, server: tuple[str, list[int]]) -> None:
    address, sent = server
    files: dict[str, bytes] = {}
    for n in range(40):
        files |= {f"{n:03d}.png": to_bytes(noise(n, (200, 200))), f"{n:03d}.cls": b"%d" % (n % 2)}
    write_tar(tmp_path / "a.tar", files)
    total = (tmp_path / "a.tar").stat().st_size
    data = WebDataset(f"{address}/a.tar", val=0, held_back=0)
    assert data.labels("train").tolist() == [0, 1] * 20
    assert sum(sent) <= 1.1 * total, "its list is read in a pass"
    sent.clear()
    assert not data.intensity_record()
    assert sum(sent) <= 40 * BLOCK, "the heads of PNGs, which may have 16 bits, are looked at"
    sent.clear()
    np.testing.assert_array_equal(data.example("train", 7).image, noise(7, (200, 200)))
    assert sum(sent) == len(files["007.png"])
    sent.clear()
    again = WebDataset(f"{address}/a.tar", val=0, held_back=0)
    assert again.labels("train").tolist() == [0, 1] * 20
    assert sum(sent) == 0, "the list is kept"
    assert again.fingerprint("train") == data.fingerprint("train")


def test_an_image_at_an_address(tmp_path: Path, server: tuple[str, list[int]]) -> None:
    address, sent = server
    (tmp_path / "a.jpg").write_bytes(to_bytes(noise(0, (600, 900)), "JPEG"))
    size = (tmp_path / "a.jpg").stat().st_size
    assert photo.read_size(f"{address}/a.jpg") == (600, 900)
    assert sum(sent) < size / 2, "of a JPEG the head is read"
    data = Images(f"{address}/a.jpg")
    assert data.ids("val") == ["a.jpg"]
    assert data.example("val", 0).size == (600, 900)
    with pytest.raises(SkippedImage, match="b: no such file"):
        photo.read(f"{address}/b.jpg", name="b")
    with pytest.raises(UserError, match="cannot be read"):
        _ = Images(f"{address}/b.jpg").splits
