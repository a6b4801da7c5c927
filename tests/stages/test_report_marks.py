"""Marks in a browser: keys, filter, download and review page; saved at once where it is served.

./scripts/test tools runs these in Debian's Chromium, driven by playwright.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.http_server import RunServer
from pipeline.formats.corrections import read_corrections
from pipeline.results.marked_page import write_marks_into_page
from pipeline.results.marks import FILE, Change, MarksFile
from pipeline.stages.report.rendering import render
from pipeline.stages.report.served_page import open_page
from scripts.measure.report_page import WIDE
from tests.report_fixture import make_view_model
from tests.stages.test_report_browser import AXE, PHONE, browser, pytestmark

__all__ = ["browser", "pytestmark"]

PICTURES = "LABEL2BOX_PICTURES"  # a folder for pictures of the page, to be looked at
DATE = "2026-01-02T03:04:05.678Z"
COMMAND = "python -m pipeline +experiment=ingest run=outputs/runs/cam/1 corrections=FILE"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Write the page of a run, and give its path and view model."""

    def write_page(**options: Any) -> tuple[Path, dict[str, Any]]:
        model = make_view_model(**{"count": 20, **options})
        path = tmp_path / "outputs/runs/cam/1/report/index.html"
        path.parent.mkdir(parents=True)
        path.write_text(render(model), encoding="utf-8")
        return path, model

    return write_page


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open pages of a browser that keeps marks; at the end no script may have failed."""
    contexts: dict[str, Any] = {}
    errors: list[str] = []

    def go(address: str, who: str = "one", viewport: Any = None, scheme: str = "light") -> Any:
        if who not in contexts:
            contexts[who] = browser.new_context(viewport=viewport or WIDE, color_scheme=scheme)
            contexts[who].set_default_timeout(5000)
        page = contexts[who].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("#filters details")
        return page

    go.errors = errors  # type: ignore[attr-defined]
    yield go
    for context in contexts.values():
        context.close()
    assert errors == []


@pytest.fixture
def serve(write: Any) -> Iterator[Callable[..., RunServer]]:
    """Serve the page of a run."""
    servers: list[RunServer] = []

    def start(**options: Any) -> RunServer:
        path, _ = write(**options)
        folder = path.parents[1]
        served = open_page(path, {"path": f"outputs/runs/cam/1/{FILE}", "command": COMMAND})
        marks = MarksFile(folder / FILE, served.records)
        server = RunServer(folder, served, ("boxes.json",), marks, "token")
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def item(page: Any, n: int) -> Any:
    return page.locator(".item").nth(n)


def counts(page: Any) -> str:
    return str(page.locator(".marking .counts").text_content())


def status(page: Any) -> str:
    return str(page.locator(".marking .status").text_content())


def marks_of(page: Any) -> list[str | None]:
    found: list[str | None] = page.eval_on_selector_all(
        ".item .marks", "nodes => nodes.map((node) => node.dataset.mark ?? null)"
    )
    return found


def wait_for(page: Any, is_so: Callable[[], bool]) -> None:
    """Wait until something is so; the policy of a page refuses playwright's own way."""
    for _ in range(400):
        if is_so():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not after 20 s; status: {status(page)!r}, {counts(page)}")


def take_picture(page: Any, name: str) -> None:
    if PICTURES in os.environ:
        page.wait_for_timeout(800)  # until the page has scrolled
        page.screenshot(path=f"{os.environ[PICTURES]}/{name}.png")


def test_marks_by_keys_filter_and_download(write: Any, visit: Any, tmp_path: Path) -> None:
    path, model = write()
    page = visit(path.as_uri())
    can = [image for image in model["images"] if image["record"]]
    assert counts(page) == (
        f"0 right, 0 wrong, 0 to correct, {len(can)} open; random sample: 0 of 5 marked"
    )
    assert page.locator(".marking button", has_text="Save marks").is_disabled()
    item(page, 0).locator(".open").focus()
    for key in "rwcr":
        page.keyboard.press(key)
    assert marks_of(page)[:5] == ["right", "wrong", "to_correct", "right", ""]
    assert page.evaluate("document.activeElement.closest('.item') === "
                         "document.querySelectorAll('.item')[4]")  # fmt: skip
    item(page, 3).locator(".open").focus()
    page.keyboard.press("u")
    item(page, 5).get_by_role("button", name="Wrong").click()
    assert counts(page).startswith(f"1 right, 2 wrong, 1 to correct, {len(can) - 4} open")
    assert counts(page).endswith("random sample: 3 of 5 marked")

    page.locator("#filter-mark").select_option("wrong")
    assert page.locator(".item:not([hidden])").count() == 2
    page.locator("#filter-mark").select_option("none")
    assert page.locator(".item:not([hidden])").count() == len(model["images"]) - len(can)
    text = page.locator(".item:not([hidden]) .marks").first.text_content()
    assert text == "A person's boxes of this image are kept already."
    page.locator("#filter-mark").select_option("")
    take_picture(page, "marks")

    page.locator("#marking summary").click()
    command = page.locator("#marking code").last.text_content()
    assert command.endswith(f"run={path.parents[1]} corrections=reviewed.json")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save marks").click()
    assert waiting.value.suggested_filename == "reviewed.json"
    waiting.value.save_as(tmp_path / "reviewed.json")
    content = read_corrections(tmp_path / "reviewed.json")
    ids = [image["id"] for image in model["images"]]
    assert {image.name: image.mark for image in content.images} == {
        ids[0]: "right", ids[1]: "wrong", ids[2]: "to_correct", ids[5]: "wrong",
    }  # fmt: skip
    saved = {
        i["file_name"]: i for i in json.loads((tmp_path / "reviewed.json").read_text())["images"]
    }
    for n in (0, 1, 2, 5):
        record = model["images"][n]["record"]
        assert {key: saved[ids[n]][key] for key in record} == record
    page.reload()
    page.wait_for_selector("#filters details")
    assert counts(page).startswith("1 right, 2 wrong, 1 to correct"), "kept in the browser"
    if AXE in os.environ:
        page.evaluate(Path(os.environ[AXE]).read_text(encoding="utf-8"))
        found = page.evaluate("axe.run().then((result) => result.violations.map((one) => one.id))")
        assert found == []


def test_marks_of_the_review_page_appear(write: Any, visit: Any) -> None:
    path, model = write()
    page = visit(path.as_uri())
    other = visit(path.as_uri())
    key = model["images"][4]["stored_as"]
    kept = json.dumps({"mark": "wrong", "date": "2026-01-02T03:04:05.678Z"})
    other.evaluate("([key, kept]) => localStorage.setItem(key, kept)", [key, kept])
    wait_for(page, lambda: marks_of(page)[4] == "wrong")
    other.evaluate("(key) => localStorage.removeItem(key)", key)
    wait_for(page, lambda: marks_of(page)[4] == "")


def test_only_the_boxes_of_the_run_are_marked(write: Any, visit: Any) -> None:
    path, _ = write(methods=("cam", "layercam"))
    page = visit(path.as_uri())

    def refuse(why: str) -> None:
        item(page, 0).locator(".open").focus()
        page.keyboard.press("r")
        assert why in status(page)
        assert "right" not in marks_of(page)

    slider = page.locator("#bar input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    refuse("threshold was moved")
    take_picture(page, "marks_threshold_moved")
    page.get_by_role("button", name="Reset", exact=True).click()
    page.get_by_role("checkbox", name="found", exact=True).uncheck()
    refuse("boxes are hidden")
    page.get_by_role("checkbox", name="found", exact=True).check()
    methods = page.get_by_role("group", name="Methods")
    methods.get_by_role("checkbox", name="cam", exact=True).uncheck()
    refuse("Marks are of the boxes of cam")
    methods.get_by_role("checkbox", name="cam", exact=True).check()
    item(page, 0).locator(".open").focus()
    page.keyboard.press("r")
    assert marks_of(page)[0] == "right"
    assert status(page) == ""


def test_marks_in_the_large_view(write: Any, visit: Any) -> None:
    path, model = write()
    page = visit(path.as_uri(), scheme="dark")
    item(page, 5).locator(".open").click()
    page.keyboard.press("c")
    assert page.locator("#large-title bdi").get_attribute("title") == model["images"][6]["id"]
    page.locator("dialog").get_by_role("button", name="Right").click()
    assert page.locator("#large-title bdi").get_attribute("title") == model["images"][6]["id"]
    pressed = page.locator("dialog .marks [aria-pressed=true]")
    assert pressed.get_attribute("value") == "right"
    take_picture(page, "marks_large_dark")
    page.keyboard.press("u")
    assert pressed.count() == 0
    page.keyboard.press("w")
    note = page.locator("dialog .marks p")
    assert note.text_content() == "A person's boxes of this image are kept already."
    assert page.locator("dialog .marks button:disabled").count() == 3
    page.keyboard.press("w")
    page.keyboard.press("Escape")
    assert marks_of(page)[5:7] == ["to_correct", "wrong"]


def test_a_served_page_saves_at_once(serve: Any, visit: Any) -> None:
    server = serve()
    page = visit(server.url)
    assert not page.get_by_role("button", name="Save marks").is_visible()
    item(page, 0).locator(".open").focus()
    page.keyboard.press("r")
    page.keyboard.press("w")
    wait_for(page, lambda: status(page) == "Saved")
    assert server.marks.count() == {"right": 1, "wrong": 1}
    page.locator("#marking summary").click()
    assert COMMAND in page.locator("#marking").text_content()
    assert f"outputs/runs/cam/1/{FILE}" in page.locator("#marking").text_content()
    take_picture(page, "marks_served")

    other = visit(server.url, who="another browser")
    wait_for(other, lambda: marks_of(other)[1] == "wrong")
    item(other, 2).locator(".open").focus()
    other.keyboard.press("c")
    item(other, 0).locator(".open").focus()
    other.keyboard.press("u")
    wait_for(other, lambda: status(other) == "Saved")
    assert server.marks.count() == {"wrong": 1, "to_correct": 1}
    item(page, 4).locator(".open").focus()
    page.keyboard.press("r")  # its answer has the changes of the other browser
    wait_for(page, lambda: marks_of(page)[2] == "to_correct")
    assert marks_of(page)[:5] == ["", "wrong", "to_correct", "", "right"]
    assert server.marks.count() == {"wrong": 1, "to_correct": 1, "right": 1}
    page.reload()
    wait_for(page, lambda: marks_of(page)[4] == "right")
    assert marks_of(page)[0] == "", "what was taken back does not return"


def test_what_is_not_saved_is_said_and_sent_again(serve: Any, visit: Any) -> None:
    server = serve()
    page = visit(server.url)
    page.route("**/marks", lambda route: route.abort())
    item(page, 0).locator(".open").focus()
    page.keyboard.press("r")
    wait_for(page, lambda: status(page).startswith("Not saved"))
    assert "start it again" in status(page)
    page.unroute("**/marks")
    wait_for(page, lambda: status(page) == "Saved")
    assert server.marks.count() == {"right": 1}
    assert visit.errors
    visit.errors[:] = [text for text in visit.errors if "Failed to load resource" not in text]


def test_a_phone(write: Any, visit: Any) -> None:
    path, _ = write()
    page = visit(path.as_uri(), viewport=PHONE)
    page.locator(".item").nth(1).scroll_into_view_if_needed()
    item(page, 1).get_by_role("button", name="To correct").click()
    take_picture(page, "marks_phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert counts(page).startswith("0 right, 0 wrong, 1 to correct")
    assert page.locator(".marking .counts").is_visible()


def save_marks(path: Path, model: dict[str, Any], marked: dict[int, str]) -> None:
    """Save marks in the file of a run, of images by their numbers, and write them into the page."""
    records = {image["id"]: image["record"] for image in model["images"] if image["record"]}
    ids, file = (
        [image["id"] for image in model["images"]],
        MarksFile(path.parents[1] / FILE, records),
    )
    file.merge({ids[n]: Change(mark, DATE) for n, mark in marked.items()})
    assert write_marks_into_page(path.parents[1])


def test_marks_of_the_run_show_from_disk(write: Any, visit: Any) -> None:
    path, model = write()
    save_marks(path, model, {0: "right", 2: "to_correct"})
    page = visit(path.as_uri())
    assert marks_of(page)[:3] == ["right", "", "to_correct"]
    page.locator("#marking summary").click()
    told = page.locator("#marking").text_content()
    assert "2 of the marks are from marks/reviewed.json of the run, saved on 20" in told
    take_picture(page, "marks_from_the_run")
    item(page, 0).locator(".open").focus()
    page.keyboard.press("u")
    page.keyboard.press("ArrowRight")
    page.reload()
    page.wait_for_selector("#filters details")
    assert marks_of(page)[:3] == ["", "", "to_correct"], "what was taken back does not return"


def test_marks_of_a_file_are_loaded_where_the_boxes_are_the_same(
    write: Any, visit: Any, tmp_path: Path
) -> None:
    path, _ = write()
    page = visit(path.as_uri())
    item(page, 0).locator(".open").focus()
    for key in "rw":
        page.keyboard.press(key)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save marks").click()
    waiting.value.save_as(tmp_path / "reviewed.json")
    content = json.loads((tmp_path / "reviewed.json").read_text())
    content["images"][1]["boxes"][0]["xyxy"][0] += 1
    (tmp_path / "other.json").write_text(json.dumps(content))
    (tmp_path / "none.json").write_text("[]")

    def load(name: str, who: str) -> Any:
        other = visit(path.as_uri(), who=who)
        other.locator(".marking input[type=file]").set_input_files(tmp_path / name)
        wait_for(other, lambda: "marks" in status(other))
        return other

    other = load("reviewed.json", "another browser")
    assert marks_of(other)[:2] == ["right", "wrong"]
    assert status(other) == "2 marks are taken from reviewed.json."
    other = load("other.json", "a third browser")
    assert marks_of(other)[:2] == ["right", ""]
    assert status(other).endswith("1 of other images or boxes are left out.")
    assert "none.json holds no marks" in status(load("none.json", "a fourth browser"))
