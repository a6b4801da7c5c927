"""`serve RUN`: who is answered, what is given out, and how marks are saved."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.engine.http_server import MAX_BODY, RunServer
from pipeline.engine.serve import find_run, ingest_command, parse_arguments, serve
from pipeline.errors import UserError
from pipeline.results.marks import FILE, MarksFile
from pipeline.stages.report.rendering import render
from pipeline.stages.report.served_page import open_page
from tests.conftest import ROOT
from tests.report_fixture import make_view_model

TOKEN = "a-token-of-this-test"
DATE = "2026-01-02T03:04:05.678Z"
PUBLISHED = ("boxes.json", "exported", "review", "config.yaml", "outside.txt")
SECONDS = 10  # that a request may take


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with a report, links to results, and secrets around it."""
    folder = tmp_path / "outputs/runs/cam/2026-01-02_03-04-05"
    result = tmp_path / "outputs/export/0123456789abcdef/exported"
    for path in (folder / "report", folder / "review", result / "coco"):
        path.mkdir(parents=True)
    (folder / "exported").symlink_to(result)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "secret.txt").write_text("secret")
    (result.parent / "DONE").write_text("secret")
    (folder / "outside.txt").symlink_to(tmp_path / "missing.txt")
    (result / "coco/link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "config.yaml").write_text("name: cam\nstages: [report]\n")
    (folder / "boxes.json").write_text("[]")
    (folder / "review/index.html").write_text("<p>review</p>")
    (result / "coco/boxes.json").write_text('{"coco": 1}')
    model = make_view_model(count=8)
    photo, text = tmp_path / "photo.png", tmp_path / "passwords.png"
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(photo)
    text.write_text("root:x:0:0")
    files = {0: photo, 1: text, 2: tmp_path / "gone.png"}
    for image in model["images"]:
        path = files.get(image["position"])
        image["file"] = None if path is None else path.as_uri()
    (folder / "report/index.html").write_text(render(model), encoding="utf-8")
    return folder


@pytest.fixture
def server(run: Path) -> Iterator[RunServer]:
    about = {"path": "outputs/reviewed.json", "command": "ingest"}
    served = open_page(run / "report/index.html", about)
    marks = MarksFile(run / FILE, served.records)
    with RunServer(run, served, PUBLISHED, marks, TOKEN) as started:
        # Polled often, as shutdown() waits for the next time.
        thread = threading.Thread(target=started.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield started
        started.shutdown()
        thread.join(SECONDS)


def ask(
    server: RunServer,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    token: str = TOKEN,
    **headers: str,
) -> tuple[int, bytes, dict[str, str]]:
    """Send a request as it stands, without any tidying of its path."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=SECONDS)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, f"/{token}/{path}", body, given)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, dict(answer.getheaders())


def post(server: RunServer, *changes: dict[str, Any], **headers: str) -> tuple[int, Any]:
    body = json.dumps({"changes": list(changes)}).encode()
    status, content, _ = ask(server, "marks", method="POST", body=body, **headers)
    return status, json.loads(content) if status == 200 else content.decode()


def change(server: RunServer, n: int, mark: str | None = "right", **more: Any) -> dict[str, Any]:
    name = list(server.served.records)[n]
    return {"file_name": name, "mark": mark, "date": DATE, **more}


def test_the_page_reaches_its_server_and_nothing_else(server: RunServer, run: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    status, page, headers = ask(server, "report/index.html")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "connect-src 'self'" in policy
    assert "unsafe-inline" not in policy.replace("style-src 'unsafe-inline'", "")
    assert "file:" not in policy
    assert b"Content-Security-Policy" not in page
    assert b'"file":"file:' not in page
    assert b'id="served"' in page
    on_disk = (run / "report/index.html").read_text(encoding="utf-8")
    assert "connect-src" not in on_disk
    assert "fetch(" not in on_disk
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert ask(server, "report/index.html", method="HEAD")[:2] == (200, b"")


@pytest.mark.parametrize(
    "token", ["", "another", TOKEN[:-1], f"{TOKEN}x", "%61-token-of-this-test"]
)
def test_without_the_token_nothing_is_answered(server: RunServer, token: str) -> None:
    for path in ("report/index.html", "marks", "boxes.json", "", "images/0"):
        status, content, _ = ask(server, path, token=token)
        assert status == 403
        assert TOKEN.encode() not in content
    body = json.dumps({"changes": [change(server, 0)]}).encode()
    assert ask(server, "marks", method="POST", body=body, token=token)[0] == 403
    assert not server.marks.path.exists()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "", "127.0.0.1:1"]
)
def test_a_name_that_was_made_to_lead_here_is_refused(server: RunServer, host: str) -> None:
    """DNS rebinding: the browser sends the name of the attacker's page."""
    given = host.format(port=server.server_port)
    assert ask(server, "report/index.html", Host=given)[0] == 403
    assert ask(server, "report/index.html", Host=f"localhost:{server.server_port}")[0] == 200


def test_a_page_of_another_address_saves_nothing(server: RunServer) -> None:
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{server.server_port}"):
        assert post(server, change(server, 0), Origin=origin)[0] == 403
    assert not server.marks.path.exists()
    assert (
        post(server, change(server, 0), Origin=f"http://127.0.0.1:{server.server_port}")[0] == 200
    )


def test_published_files_are_given_out(server: RunServer) -> None:
    assert ask(server, "boxes.json")[:2] == (200, b"[]")
    assert ask(server, "exported/coco/boxes.json")[1] == b'{"coco": 1}'
    assert ask(server, "review/index.html?x=1")[1] == b"<p>review</p>"
    status, content, headers = ask(server, "images/0")
    assert (status, content[:4], headers["Content-Type"]) == (200, b"\x89PNG", "image/png")


@pytest.mark.parametrize(
    "path",
    [
        "", "report", "report/", "exported", "exported/", "exported/coco", "secret.txt", "marks/",
        "marks/reviewed.json", "../secret.txt", "exported/../secret.txt", "exported/../DONE",
        "exported/%2e%2e/DONE", "exported/%2e%2e%2fDONE", "exported//coco/boxes.json",
        "exported/coco/link.txt", "exported/coco/..%5c..%5csecret.txt", "/etc/passwd",
        "//etc/passwd", "%2fetc%2fpasswd", "boxes.json%00", "boxes.json/", "outside.txt",
        "images/1", "images/2", "images/3", "images/-1", "images/00000000000", "images/0x0",
        "images/../boxes.json", "images/%D9%A0", "stages/report", "report/../boxes.json",
        "review/.hidden",
    ],
)  # fmt: skip
def test_nothing_else_is_given_out(server: RunServer, path: str) -> None:
    status, content, _ = ask(server, path)
    assert status == 404
    assert content == b"Not Found: no such file\n"


def test_marks_are_saved_at_once_with_the_records_of_the_page(server: RunServer) -> None:
    status, content = post(server, change(server, 0), change(server, 1, "to_correct"))
    assert status == 200
    names = list(server.served.records)
    assert content["marks"] == {
        names[0]: {"mark": "right", "date": DATE}, names[1]: {"mark": "to_correct", "date": DATE},
    }  # fmt: skip
    saved = json.loads(server.marks.path.read_text())
    assert saved["images"][0] == {**server.served.records[names[0]], "mark": "right", "date": DATE}
    assert json.loads(ask(server, "marks")[1]) == content
    assert post(server, change(server, 0, None, date=DATE.replace("05.678", "06.000")))[0] == 200
    assert server.marks.count() == {"to_correct": 1}


def test_two_tabs_lose_no_mark_of_each_other(server: RunServer) -> None:
    count = len(server.served.records)
    with ThreadPoolExecutor(6) as tabs:
        answers = list(tabs.map(lambda n: post(server, change(server, n % count)), range(24)))
    assert {status for status, _ in answers} == {200}
    assert server.marks.count() == {"right": count}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b'{"changes": {}}', 400),
        (b'{"changes": [1]}', 400), (b"[" * 100_000, 400), (b"\xff", 400),
        (b'{"changes": [{"file_name": "../x", "mark": "right", "date": "DATE"}]}', 400),
        (b'{"changes": [{"file_name": "val/a", "mark": "right", "date": "soon"}]}', 400),
        (b'{"changes": [{"file_name": "val/a", "mark": ["right"], "date": "DATE"}]}', 400),
    ],
)  # fmt: skip
def test_what_the_page_does_not_send_is_refused(
    server: RunServer, body: bytes, status: int
) -> None:
    body = body.replace(b"DATE", DATE.encode())
    assert ask(server, "marks", method="POST", body=body)[0] == status
    assert not server.marks.path.exists()


def test_other_requests_are_refused(server: RunServer) -> None:
    assert ask(server, "boxes.json", method="POST", body=b"{}")[0] == 405
    assert ask(server, "marks", method="PUT", body=b"{}")[0] == 501
    assert ask(server, "marks", method="DELETE")[0] == 501
    assert ask(server, "marks", method="POST", Content_Length=str(MAX_BODY + 1))[0] == 413
    assert ask(server, "marks", method="POST", Content_Length="-1")[0] == 411
    with socket.create_connection(("127.0.0.1", server.server_port), SECONDS) as connection:
        connection.sendall(b"GET /%s/boxes.json HTTP/1.0\r\n\r\n" % TOKEN.encode())
        assert b" 403 " in connection.recv(100), "no Host at all"


def test_a_damaged_file_of_marks_is_named_and_kept(server: RunServer) -> None:
    server.marks.path.parent.mkdir()
    server.marks.path.write_text("{")
    status, why = post(server, change(server, 0))
    assert status == 409
    assert "reviewed.json" in why
    assert server.marks.path.read_text() == "{"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "expected the folder of one run"),
        (["a", "b"], "got a, b"),
        (["a", "port=high"], "expected a port"),
        (["a", "port=70000"], "expected a port"),
        (["a", "prt=1"], "no such option; allowed are RUN, port=NUMBER and --no-browser"),
        (["a", "--no-brwser"], "no such option"),
        (["nowhere"], "no such folder"),
    ],
)
def test_wrong_arguments(arguments: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        serve(arguments, open_page)


def test_a_folder_that_is_no_run_or_has_no_report(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="no folder of a run"):
        serve([str(tmp_path)], open_page)
    page = run / "report/index.html"
    page.write_text("<p>of an older version</p>")
    with pytest.raises(UserError, match="another version of label2box wrote"):
        serve([str(run)], open_page)
    page.unlink()
    with pytest.raises(UserError, match="has no report; add report to the stages="):
        serve([str(run)], open_page)


def test_an_ingest_shows_the_report_of_its_run(tmp_path: Path, run: Path) -> None:
    ingest = tmp_path / "outputs/runs/ingest/2026"
    ingest.mkdir(parents=True)
    (ingest / "report").symlink_to(run / "report")
    (ingest / "config.yaml").write_text(f"run: {run}\n")
    assert find_run(str(ingest)) == run
    (ingest / "config.yaml").write_text(f"run: {run}\nruns: [{run}, {ingest}]\n")
    assert find_run(str(ingest)) == ingest, "a comparison has a page of its own"


def test_a_port_that_is_taken(run: Path, server: RunServer) -> None:
    with pytest.raises(UserError, match=f"port={server.server_port}: cannot listen there"):
        serve([str(run), f"port={server.server_port}", "--no-browser"], open_page)


def test_the_command_that_ingests(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[3])
    where = "outputs/runs/cam/2026-01-02_03-04-05"
    assert ingest_command(run) == (
        f"python -m pipeline +experiment=ingest run={where} corrections={where}/{FILE}"
    )
    monkeypatch.chdir(run.parents[2])
    assert ingest_command(run).endswith(f"/{FILE} outputs=.")
    assert parse_arguments([where, "port=80", "--no-browser"]).port == 80


def test_ctrl_c_says_what_was_saved(run: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "serve", str(run), "--no-browser"]
    process = subprocess.Popen(
        command, cwd=run.parents[3], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        assert "reviewed.json" in process.stdout.readline()
        host, _, path = address.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host, timeout=SECONDS)
        name = "val/image_00005.jpg"
        record = {"file_name": name, "mark": "wrong", "date": DATE}
        connection.request(
            "POST", f"/{path.split('/')[0]}/marks", json.dumps({"changes": [record]})
        )
        assert connection.getresponse().status == 200
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert time.monotonic() - began < SECONDS
    assert f"1 mark is saved in {run.relative_to(run.parents[3]) / FILE}: 0 right, 1 wrong" in out
    assert "next: python -m pipeline +experiment=ingest run=outputs/runs/cam/2026-01-02" in out
    assert '"mark": "wrong"' in (run / "report/index.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (run / "marks").iterdir() if path.suffix == ".html") == []
