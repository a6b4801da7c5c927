"""Measure a report's page in Chromium: its size, first paint, slider, and what moves or fails.

Times of the page are processor time of its main thread (Linux), of which other work on the machine
takes nothing; the first paint alone is wall time. A step of the slider is what the page does from a
step of a pointer's drag to the next frame; at its end cards are put in order anew. playwright is
imported from the folder that LABEL2BOX_PLAYWRIGHT names.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

PLAYWRIGHT, CHROMIUM = "LABEL2BOX_PLAYWRIGHT", "LABEL2BOX_CHROMIUM"
MAX_BYTES, MAX_PAINT, MAX_STEP = 25e6, 1000, 100  # bytes, ms, ms: the limits of the page
WIDE = {"width": 1280, "height": 900}
STEPS = range(20, 80, 5)  # of the slider
SETTLING = 2000  # ms until idle work is done, and the cards in sight are drawn

# What moves on the page without a click or a key, from its first moment on.
OBSERVE = """
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""

PAINT = """new Promise((done) => new PerformanceObserver((list) => {
  for (const { startTime } of list.getEntriesByName("first-contentful-paint")) done(startTime);
}).observe({ type: "paint", buffered: true }))"""

MOVE = """async ([step, names]) => {
  const input = document.getElementById("threshold");
  input.value = step;
  for (const name of names) input.dispatchEvent(new Event(name));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}"""
DRAG, DROP = ["input"], ["input", "change"]  # the events of a step, and of the last one


@dataclass(frozen=True)
class PageMeasure:
    """What was measured of a page.

    Attributes:
        size: of the file in bytes.
        paint: ms until the first contentful paint.
        loading: processor time of the page's thread in ms, until it is ready.
        drag: processor time of the page's thread in ms of each step while the slider is dragged.
        drop: of each step at whose end the images are filtered and put in order anew, in the
            order of the page.
        drop_by_iou: of the same in the order of IoU.
        shift: layout shift from the first moment on, while the slider moves and while one
            scrolls; but not of cards that are put in order anew.
        errors: lines of the console, and errors of scripts.
    """

    size: int
    paint: float
    loading: float
    drag: Sequence[float]
    drop: Sequence[float]
    drop_by_iou: Sequence[float]
    shift: float
    errors: Sequence[str]


def has_browser() -> bool:
    """Return whether playwright and a Chromium are there."""
    return PLAYWRIGHT in os.environ and _find_chromium() is not None


def _find_chromium() -> str | None:
    """Return the path of Chromium; None: there is none."""
    return os.environ.get(CHROMIUM) or shutil.which("chromium")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start a headless Chromium.

    Raises:
        UserError: There is no playwright or no Chromium.
    """
    if not has_browser():
        raise UserError(
            f"{PLAYWRIGHT} names no folder that has playwright, or chromium is not there: "
            "./scripts/test tools installs both"
        )
    sys.path.append(os.environ[PLAYWRIGHT])  # the last: nothing of ours comes from there
    playwright = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=_find_chromium(), args=["--no-sandbox"])


def measure_page(browser: Any, path: Path) -> PageMeasure:
    """Open a page from disk, move its slider, scroll through it, and measure.

    Args:
        browser: of playwright.
        path: of the page.
    """
    errors: list[str] = []
    page = browser.new_page(viewport=WIDE)
    page.add_init_script(OBSERVE)
    page.on("console", lambda line: errors.append(f"{line.type}: {line.text}"))
    page.on("pageerror", lambda error: errors.append(f"error: {error}"))
    page.goto(path.absolute().as_uri())
    page.wait_for_selector("#filters details", timeout=60_000)
    paint = page.evaluate(PAINT)
    renderer = find_renderer(browser)
    loading = thread_time(renderer)
    page.evaluate("document.getElementById('bar').scrollIntoView({ behavior: 'instant' })")
    page.wait_for_timeout(SETTLING)
    drop, drag = _time_steps(page, renderer, DROP), _time_steps(page, renderer, DRAG)
    shift = page.evaluate("window.shifts")
    page.locator("#filter-sort").select_option("iou-up")
    page.wait_for_timeout(SETTLING)
    by_iou = _time_steps(page, renderer, DROP)
    page.evaluate("window.shifts = 0")  # an order that the user asks for moves cards
    _scroll(page)
    shift += page.evaluate("window.shifts")
    page.close()
    return PageMeasure(
        size=path.stat().st_size,
        paint=paint,
        loading=loading,
        drag=drag,
        drop=drop,
        drop_by_iou=by_iou,
        shift=shift,
        errors=errors,
    )


def _time_steps(page: Any, renderer: int, events: Sequence[str]) -> list[float]:
    """Return what each of some steps of the slider takes, in ms."""
    taken = []
    for step in STEPS:
        before = thread_time(renderer)
        page.evaluate(MOVE, [step, events])
        taken.append(thread_time(renderer) - before)
    return taken


def _scroll(page: Any) -> None:
    """Scroll from the top of the page through its first images, and to its end."""
    page.evaluate("window.scrollTo({ top: 0, behavior: 'instant' })")
    page.mouse.move(100, 300)
    for _ in range(12):
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(60)
    page.evaluate("document.querySelector('footer').scrollIntoView({ behavior: 'instant' })")
    page.wait_for_timeout(100)


def thread_time(pid: int) -> float:
    """Return the processor time of a page's main thread so far, in ms; other work adds nothing.

    Args:
        pid: of the process that draws the page.
    """
    text = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="utf-8")
    return int(text.split()[0]) / 1e6


def find_renderer(browser: Any) -> int:
    """Return the process that draws the page: the renderer that has worked most.

    Args:
        browser: of playwright.
    """
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    renderers = [process["id"] for process in processes if process["type"] == "renderer"]
    return int(max(renderers, key=thread_time))
