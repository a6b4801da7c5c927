"""The server of a run: its report, its published files and its marks, on 127.0.0.1 alone.

    /TOKEN/report/index.html   the page
    /TOKEN/images/N            the original of the image at a position, of those that the page shows
    /TOKEN/marks               GET: all marks; POST: changes to them, which are saved at once
    /TOKEN/boxes.json ...      files that the run published, by their paths in its folder

Whoever does not know the token gets 403, and so does a page of another address whose name was made
to lead to 127.0.0.1 (DNS rebinding): its `Host` is another. No folder is listed.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.errors import UserError
from pipeline.results.marked_page import REPORT
from pipeline.results.marks import Change, MarksFile

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")
IMAGES, MARKS = "images", "marks"
MAX_BODY = 4 << 20  # bytes of a request that saves marks
SECONDS = 30.0  # that a browser may take for a request
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FORBIDDEN = frozenset('\\:\0"*?<>|')  # in a step of a path; some mean a drive, or a stream
STILL = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:"
PAGE = f"{STILL}; script-src 'unsafe-inline'"  # of the pages that keep marks in the browser
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # a link elsewhere does not tell the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".csv": "text/plain; charset=utf-8",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".webp": "image/webp",
    ".yaml": "text/plain; charset=utf-8",
}
OTHER_TYPE = "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class Served:
    """The page of a run, as it is served.

    Attributes:
        page: HTML.
        policy: its Content-Security-Policy.
        images: the file of each image that the page shows in full size, by position.
        records: of each image that can be marked, by name.
    """

    page: bytes
    policy: str
    images: Mapping[int, Path]
    records: Mapping[str, Mapping[str, Any]]


def find_file(folder: Path, published: Collection[str], path: str) -> Path | None:
    """Return the file that a path in a run's folder names; None where no such file is published.

    Args:
        folder: of the run.
        published: files, and folders whose files are published, by their paths in it.
        path: what a browser asks for, with `/`.
    """
    steps = path.split("/")
    if any(not step or step.startswith(".") or FORBIDDEN & set(step) for step in steps):
        return None
    for count in range(len(steps), 0, -1):
        if "/".join(steps[:count]) not in published:
            continue
        top, target = (folder.joinpath(*steps[:n]).resolve() for n in (count, len(steps)))
        is_inside = target == top or target.is_relative_to(top)
        return target if is_inside and target.is_file() else None
    return None


def read_changes(body: bytes) -> dict[str, Change]:
    """Read the changes to marks that a page sends.

    Args:
        body: JSON, `{"changes": [{"file_name": NAME, "mark": MARK or null, "date": DATE}]}`.

    Returns:
        The changes, by the name of the image.

    Raises:
        ValueError: it is anything else.
    """
    content = json.loads(body)
    records = content.get("changes") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise ValueError("no list of changes")
    changes = {}
    for record in records:
        values = record if isinstance(record, dict) else {}
        name, mark, date = (values.get(key) for key in ("file_name", "mark", "date"))
        is_mark = mark is None or isinstance(mark, str)
        if not (isinstance(name, str) and is_mark and isinstance(date, str)):
            raise ValueError("a change has no file_name, mark and date")
        if not DATE.fullmatch(date):
            raise ValueError(f"{date!r} is no date in UTC with milliseconds")
        changes[name] = Change(mark, date)
    return changes


class RunServer(ThreadingHTTPServer):
    """Serves a run on 127.0.0.1.

    Args:
        folder: of the run.
        served: its page.
        published: what else of the folder is served, by path.
        marks: the file that marks are saved in.
        token: that the path of each request begins with.
        port: to listen at; 0: any that is free.

    Raises:
        OSError: the port is taken, or may not be used.
    """

    daemon_threads = True

    def __init__(
        self,
        folder: Path,
        served: Served,
        published: Collection[str],
        marks: MarksFile,
        token: str,
        port: int = 0,
    ) -> None:
        super().__init__((ADDRESS, port), Handler)
        self.folder = folder
        self.served = served
        self.published = frozenset(published)
        self.marks = marks
        self.token = token
        self.saving = threading.Lock()  # held while marks are written
        self.hosts = {f"{name}:{self.server_port}" for name in NAMES}

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/{self.token}/{REPORT}"

    def save(self, changes: Mapping[str, Change]) -> dict[str, Change]:
        """Save changes to marks; return all of them.

        Args:
            changes: by the name of the image.

        Raises:
            ValueError: an image cannot be marked, or a mark is none.
            UserError: the file of marks is damaged.
            OSError: it cannot be written.
        """
        with self.saving:
            return self.marks.merge(changes)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: RunServer
    timeout = SECONDS
    server_version, sys_version = "label2box", ""

    def do_GET(self) -> None:
        """Answer with a file, or with the marks."""
        if (path := self._find_path()) is None:
            return
        served = self.server.served
        if path == REPORT:
            self._send(HTTPStatus.OK, served.page, TYPES[".html"], served.policy)
        elif path == MARKS:
            self._send_marks()
        elif path.startswith(f"{IMAGES}/"):
            number = path.removeprefix(f"{IMAGES}/")
            is_number = number.isascii() and number.isdigit() and len(number) < 10
            self._send_file(served.images.get(int(number)) if is_number else None)
        else:
            self._send_file(find_file(self.server.folder, self.server.published, path))

    def do_HEAD(self) -> None:
        """Answer as to GET, without the content."""
        self.do_GET()

    def do_POST(self) -> None:
        """Save marks, and answer with all of them."""
        if (path := self._find_path()) is None:
            return
        origins = {origin.lower() for origin in self.headers.get_all("Origin", [])}
        if origins - {f"http://{host}" for host in self.server.hosts}:
            self._refuse(HTTPStatus.FORBIDDEN, "asked by a page of another address")
        elif path != MARKS:
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "only marks are saved")
        elif not (length := self.headers.get("Content-Length", "")).isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        elif int(length) > MAX_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY} bytes")
        else:
            self._save(self.rfile.read(int(length)))

    def _save(self, body: bytes) -> None:
        """Save the marks of a request, and answer."""
        try:
            changes = read_changes(body)
            self._send_marks(self.server.save(changes))
        except (ValueError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except UserError as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))
        except OSError as error:
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, f"{error.filename}: {error.strerror}")

    def _send_marks(self, marks: Mapping[str, Change] | None = None) -> None:
        """Answer with all marks; None: as they are in the file."""
        try:
            known = self.server.marks.read() if marks is None else marks
        except UserError as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))
            return
        content = {"marks": {name: asdict(change) for name, change in known.items()}}
        self._send(HTTPStatus.OK, json.dumps(content).encode(), TYPES[".json"], STILL)

    def _find_path(self) -> str | None:
        """Return the path behind the token; None where the request was refused."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, f"ask for {ADDRESS}:{self.server.server_port}")
            return None
        token, _, path = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "give the whole address, as the terminal shows it")
            return None
        return unquote(path)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Answer that a request is refused, and why."""
        self._send(status, f"{status.phrase}: {why}\n".encode(), TYPES[".txt"], STILL)

    def _send(self, status: HTTPStatus, content: bytes, kind: str, policy: str) -> None:
        """Answer with a content."""
        self._send_head(status, len(content), kind, policy)
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_head(self, status: HTTPStatus, length: int, kind: str, policy: str) -> None:
        """Send the status and the headers."""
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(length), **HEADERS}
        for name, value in {**headers, "Content-Security-Policy": policy}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: Path | None) -> None:
        """Answer with a file; None: there is none."""
        try:
            if path is None:
                raise FileNotFoundError
            with path.open("rb") as file:
                kind = TYPES.get(path.suffix.lower(), OTHER_TYPE)
                policy = PAGE if kind == TYPES[".html"] else STILL
                self._send_head(HTTPStatus.OK, path.stat().st_size, kind, policy)
                if self.command != "HEAD":
                    shutil.copyfileobj(file, self.wfile)
        except (FileNotFoundError, PermissionError):
            self._refuse(HTTPStatus.NOT_FOUND, "no such file")

    def handle(self) -> None:
        """Answer; a browser that goes away meanwhile is no error."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the address of each request has the token."""
