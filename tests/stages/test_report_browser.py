"""The page in a browser: filters, order, threshold, large view, keyboard, accessibility, speed.

./scripts/test tools runs these in Debian's Chromium, driven by playwright.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import cv2
import numpy as np
import pytest

from pipeline.stages.report.rendering import render
from scripts.measure.records import table
from scripts.measure.report_page import (
    MAX_BYTES,
    MAX_PAINT,
    MAX_STEP,
    OBSERVE,
    PLAYWRIGHT,
    WIDE,
    has_browser,
    measure_page,
    open_browser,
)
from scripts.measure.speed_report import describe_page
from tests.report_fixture import HOSTILE, MAX_BOXES, USED, make_view_model
from tests.stages.test_report_charts_drawn import hostile_model

AXE = "LABEL2BOX_AXE"  # axe.min.js
METHODS = ("cam", "layercam", "gradcam", "grabcut")  # the last one has no slider
PHONE = {"width": 360, "height": 740}
MAX_SHIFT = 0.001

pytestmark = pytest.mark.skipif(
    not has_browser(),
    reason=f"{PLAYWRIGHT} names no folder, or chromium is not there; ./scripts/test tools has both",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Write a page once, and give its path and view model."""
    pages: dict[str, tuple[Path, dict[str, Any]]] = {}

    def write(**options: Any) -> tuple[Path, dict[str, Any]]:
        key = repr(sorted(options.items()))
        if key not in pages:
            has_charts = options.pop("charts", False)
            model = make_view_model(**options)
            model["charts"] = hostile_model()["charts"] if has_charts else {}
            path = tmp_path_factory.mktemp("page") / "report/index.html"
            path.parent.mkdir()
            path.write_text(render(model), encoding="utf-8")
            pages[key] = path, model
        return pages[key]

    return write


@pytest.fixture
def visit(browser: Any, written: Any) -> Iterator[Callable[..., tuple[Any, dict[str, Any]]]]:
    """Open a page; at the end nothing may have failed, or been asked of a network."""
    contexts, told = [], []

    def go(
        viewport: Any = None, scheme: str = "light", hash: str = "", **options: Any
    ) -> tuple[Any, dict[str, Any]]:
        path, model = written(**options)
        context = browser.new_context(viewport=viewport or WIDE, color_scheme=scheme)
        context.set_default_timeout(5000)
        contexts.append(context)
        context.add_init_script(OBSERVE)
        page = context.new_page()
        page.on("console", lambda line: told.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("request", lambda request: told.append(f"request: {request.url[:90]}"))
        page.goto(path.as_uri() + hash)
        page.wait_for_selector("#filters details")
        return page, model

    yield go
    for context in contexts:
        context.close()
    # The page itself, originals that are not there, and what reading a canvas in a test brings.
    known = ("request: data:", "request: file:///", "warning: Canvas2D")
    assert [line for line in told if not line.startswith(known)] == []


def shown(page: Any) -> list[str]:
    """Return the names of the images that are shown, in their order."""
    found: list[str] = page.eval_on_selector_all(
        ".item:not([hidden]) .file bdi", "nodes => nodes.map((node) => node.title)"
    )
    return found


def until(holds: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until something holds: the page's policy forbids what playwright's own waiting does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def names(
    model: dict[str, Any], fits: Callable[[dict[str, Any], dict[str, Any]], Any]
) -> list[str]:
    """Return the names of the images that fit, with the first result of the first method."""
    return [image["id"] for image in model["images"] if fits(image, image["results"][0][0])]


def read_steps(result: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts, boxes and IoUs of the steps."""
    steps = {key: base64.b64decode(result["steps"][key]) for key in ("counts", "boxes", "iou")}
    boxes = np.frombuffer(steps["boxes"], "<u2").reshape(-1, 4)
    return np.frombuffer(steps["counts"], "<u2"), boxes, np.frombuffer(steps["iou"], "<u2") / 10000


def step_boxes(image: dict[str, Any], step: int) -> np.ndarray:
    """Return the boxes of an image at a step, in pixels."""
    counts, boxes, _ = read_steps(image["results"][0][0])
    first = int(counts[:step].sum())
    sides = np.array([image["width"], image["height"]] * 2)
    return boxes[first : first + counts[step]] / 65535 * sides


def drawn_boxes(page: Any, name: str) -> np.ndarray:
    """Return the found boxes that a card shows, best first."""
    rows = page.evaluate(
        """(name) => {
          const files = [...document.querySelectorAll(".file bdi")];
          const item = files.find((each) => each.title === name).closest(".item");
          const lines = item.querySelectorAll(".panel:first-child rect.line.found");
          return [...lines].map((line) => ["x", "y", "width", "height"].map((side) =>
            Number(line.getAttribute(side)))).reverse();
        }""",
        name,
    )
    boxes = np.array(rows, float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def set_step(page: Any, step: int, selector: str = "#threshold") -> None:
    """Move a slider as a pointer does: an event while it moves, one at its end."""
    page.eval_on_selector(
        selector,
        """(input, step) => {
          input.value = step;
          for (const name of ["input", "change"]) input.dispatchEvent(new Event(name));
        }""",
        step,
    )


def address(page: Any) -> dict[str, str]:
    """Return the state that the page's address keeps."""
    state = page.evaluate("location.hash.slice(1)")  # page.url comes to know it later
    return {key: values[0] for key, values in parse_qs(state).items()}


# -- filters and order ----------------------------------------------------------------------------


def test_filters_show_what_fits(visit: Any) -> None:
    page, model = visit(count=40)
    assert shown(page) == [image["id"] for image in model["images"]]
    lowest = page.get_by_label("IoU, lowest", exact=True)
    highest = page.get_by_label("IoU, highest", exact=True)
    cases: list[tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = [
        (lambda: page.locator("#filter-result").select_option("wrong"),
         lambda image, result: result["iou"] is not None and result["iou"] < 0.5),
        (lambda: page.locator("#filter-result").select_option("right"),
         lambda image, result: result["iou"] is not None and result["iou"] >= 0.5),
        (lambda: page.locator("#filter-result").select_option("unscored"),
         lambda image, result: result["iou"] is None),
        (lambda: page.locator("#filter-result").select_option("class"),
         lambda image, result: image["is_class_right"] is False),
        (lambda: page.locator("#filter-cause").select_option("context"),
         lambda image, result: result["cause"] == "context"),
        (lambda: page.locator("#filter-class").select_option("2"),
         lambda image, result: image["labels"] == [2]),
        (lambda: page.get_by_label("Search").fill("IMAGE_0001"),
         lambda image, result: "image_0001" in image["id"]),
        (lambda: (lowest.fill("0.3"), page.keyboard.press("Enter"),
                  highest.fill("0.6"), page.keyboard.press("Enter")),
         lambda image, result: result["iou"] is not None and 0.3 <= result["iou"] <= 0.6),
        (lambda: (page.get_by_label("Confidence, highest", exact=True).fill("0.55"),
                  page.keyboard.press("Enter")),
         lambda image, result: result["confidence"] <= 0.55),
    ]  # fmt: skip
    for act, fits in cases:
        act()
        expected = names(model, fits)
        assert 0 < len(expected) < 40
        page.wait_for_function(
            "(n) => document.querySelectorAll('.item:not([hidden])').length === n",
            arg=len(expected),
        )
        assert shown(page) == expected
        assert page.inner_text(".shown").startswith(f"{len(expected)} of 40 images fit")
        page.get_by_role("button", name="Reset all").click()
        assert len(shown(page)) == 40
    page.get_by_label("Search").fill("no such image")
    page.wait_for_selector("#nothing:not([hidden])")
    assert shown(page) == []


def test_orders(visit: Any) -> None:
    page, model = visit(count=40)
    results = {image["id"]: image["results"][0][0] for image in model["images"]}
    last = 9.0
    page.locator("#filter-sort").select_option("iou-up")
    ious = [results[name]["iou"] for name in shown(page)]
    assert [iou is None for iou in ious] == sorted(iou is None for iou in ious)
    assert [last if iou is None else iou for iou in ious] == sorted(
        last if iou is None else iou for iou in ious
    )
    page.locator("#filter-sort").select_option("iou-down")
    scored = [iou for iou in (results[name]["iou"] for name in shown(page)) if iou is not None]
    assert scored == sorted(scored, reverse=True)
    assert results[shown(page)[-1]]["iou"] is None, "what has no IoU comes last in either order"
    page.locator("#filter-sort").select_option("confidence-up")
    sure = [results[name]["confidence"] for name in shown(page)]
    assert sure == sorted(sure)
    page.locator("#filter-sort").select_option("rank-up")
    assert shown(page) == [image["id"] for image in model["images"]]


def test_the_address_keeps_what_is_shown(visit: Any) -> None:
    page, _ = visit(count=40)
    page.locator("#filter-result").select_option("wrong")
    page.locator("#filter-sort").select_option("iou-up")
    set_step(page, 55)
    before = shown(page)
    assert address(page) == {"result": "wrong", "sort": "iou-up", "step": "55"}
    page.reload()
    page.wait_for_selector("#filters details")
    assert shown(page) == before
    assert page.input_value("#threshold") == "55"
    page.locator(".open:visible").nth(2).click()
    assert address(page)["image"] == before[2]
    page.reload()
    page.wait_for_selector("dialog[open]")
    assert page.inner_text("#large-title bdi") == before[2].removeprefix("val/")
    page.evaluate("location.hash = '#class=99&sort=nonsense&method=7&result=x'")
    page.keyboard.press("Escape")
    until(lambda: len(shown(page)) == 40)


def test_a_cause_is_a_filter(visit: Any) -> None:
    page, model = visit(count=40)
    cause = model["causes"][0]
    button = page.locator(f"[data-cause={cause['key']}]")
    button.click()
    assert page.evaluate("document.activeElement.id") == "images-title"
    assert shown(page) == names(model, lambda image, result: result["cause"] == cause["key"])
    assert len(shown(page)) == cause["count"]["cam"]
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert len(shown(page)) == 40


# -- threshold ------------------------------------------------------------------------------------


def test_the_slider_moves_boxes_and_numbers(visit: Any) -> None:
    page, model = visit(count=40)
    image = model["images"][0]
    card = page.locator(".item", has=page.locator(f'[title="{image["id"]}"]'))
    card.scroll_into_view_if_needed()
    card.locator("rect.line.found").first.wait_for(state="attached")
    given = np.array([box[:4] for box in image["results"][0][0]["boxes"]])
    np.testing.assert_allclose(drawn_boxes(page, image["id"]), given)
    accuracy = model["methods"][0]["slider"]["accuracy"]
    for step in (0, 12, 60, 100):
        set_step(page, step)
        expected = step_boxes(image, step)[:MAX_BOXES]
        np.testing.assert_allclose(drawn_boxes(page, image["id"]), expected, atol=1e-6)
        told = page.inner_text(".accuracy")
        for iou in ("0.3", "0.5", "0.7"):
            assert f"{100 * accuracy[iou][step]:.1f} %" in told
        right = sum(
            read_steps(one["results"][0][0])[2][step] >= 0.5
            for one in model["images"]
            if one["results"][0][0]["iou"] is not None
        )
        boxes = sum(int(read_steps(one["results"][0][0])[0][step]) for one in model["images"])
        count = page.inner_text(".shown")
        assert f"{right} of 37 right" in count
        assert f"{boxes} boxes" in count
    page.get_by_text("Keep this threshold").click()
    assert "segmenter.threshold=1.00 segmenter.threshold_source=oracle" in page.inner_text(
        ".command"
    )
    assert "kind oracle" in page.inner_text(".keep")
    page.get_by_role("button", name="Reset", exact=True).click()
    np.testing.assert_allclose(drawn_boxes(page, image["id"]), given)
    assert page.input_value("#threshold") == str(USED)
    assert not page.is_visible(".keep")


def test_right_and_wrong_follow_the_threshold(visit: Any) -> None:
    page, model = visit(count=40)
    page.locator("#filter-result").select_option("right")
    before = shown(page)
    assert before == names(
        model, lambda image, result: result["iou"] is not None and result["iou"] >= 0.5
    )
    page.focus("#threshold")
    for _ in range(25):
        page.keyboard.press("ArrowRight")
    step = USED + 25
    expected = [
        image["id"] for image in model["images"]
        if image["results"][0][0]["iou"] is not None
        and read_steps(image["results"][0][0])[2][step] >= 0.5
    ]  # fmt: skip
    until(lambda: shown(page) == expected)
    assert expected != before


def _has_value(page: Any, step: str) -> bool:
    return bool(page.input_value("#threshold") == step)


def _shows(page: Any, id: str) -> bool:
    return bool(page.get_attribute("#large-title bdi", "title") == id)


def test_several_methods_each_have_a_threshold(visit: Any) -> None:
    page, _ = visit(count=8, methods=METHODS)
    panels = page.locator(".item").first.locator(".panel:not([hidden])")
    until(lambda: panels.count() == 4)
    set_step(page, 70)
    for method, step in (("1", str(USED)), ("0", "70")):
        page.locator("#filter-method").select_option(method)
        until(partial(_has_value, page, step))
    page.locator("#filter-method").select_option("3")
    page.locator("#threshold").wait_for(state="hidden")
    assert "grabcut works on the image" in page.inner_text(".threshold")
    page.get_by_label("gradcam", exact=True).uncheck()
    until(lambda: panels.count() == 3)


def step_cause(model: dict[str, Any], image: dict[str, Any], step: int, method: int = 0) -> str:
    """Return the key of an image's cause at a step; empty without one."""
    code = image["results"][method][0]["steps"]["causes"][step : step + 1]
    return next((cause["key"] for cause in model["causes"] if cause["code"] == code), "")


def test_causes_follow_the_threshold(visit: Any) -> None:
    page, model = visit(count=40, methods=METHODS)
    step = 70
    keys = {image["id"]: step_cause(model, image, step) for image in model["images"]}
    key = max({*keys.values()} - {""}, key=[*keys.values()].count)
    expected = [id for id, cause in keys.items() if cause == key]
    cause = next(cause for cause in model["causes"] if cause["key"] == key)
    assert len(expected) != cause["count"]["cam"], "the threshold changes how many there are"
    bar = page.locator(f"li[data-key={key}] [data-of='0']")
    given = bar.inner_text()
    set_step(page, step)
    until(lambda: page.locator(f"#filter-cause option[value={key}]").text_content()
          == f"{cause['title']} ({len(expected)})")  # fmt: skip
    scored = model["methods"][0]["slider"]["n"]
    assert f"{len(expected)} of all {scored} scored images at 0.70" in bar.inner_text()
    assert f"{100 * len(expected) / scored:.1f} %" in bar.inner_text()
    assert "cam: moved to threshold 0.70" in page.inner_text("#causes-at")
    others = page.locator(f"li[data-key={key}] [data-of='1'] .words")
    assert others.inner_text() == f"{cause['count']['layercam']} of 40 images"
    assert f"{len(expected)} {cause['title'].lower()}" in page.inner_text(".faults")
    bar.get_by_role("button").click()
    until(lambda: shown(page) == expected)
    page.locator(".item:visible .panel").first.get_by_text(cause["title"]).wait_for()
    page.locator(".open:visible").first.click()
    page.locator("dialog aside .plain").get_by_text(f"{cause['title']}.").wait_for()
    page.keyboard.press("Escape")
    set_step(page, 20)
    until(lambda: shown(page) == [image["id"] for image in model["images"]
                                  if step_cause(model, image, 20) == key])  # fmt: skip
    page.get_by_role("button", name="Reset", exact=True).click()
    until(lambda: bar.inner_text() == given)
    until(lambda: shown(page) == names(model, lambda image, result: result["cause"] == key))
    assert page.inner_text("#causes-at") == ""


# -- large view -----------------------------------------------------------------------------------


def test_large_view_by_keyboard_alone(visit: Any) -> None:
    page, model = visit(count=12)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('open')"):
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    ids = [image["id"] for image in model["images"]]
    for step, at in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(step)
        until(partial(_shows, page, ids[at]))
        assert page.inner_text("dialog header .soft") == f"{at + 1} of 12"
    for _ in range(20):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('dialog') !== null || "
                             "document.activeElement === document.body")  # fmt: skip
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="hidden")
    focused = "document.activeElement.closest('.item')?.querySelector('bdi[title]').title"
    until(lambda: page.evaluate(focused) == ids[1])  # the image that was shown last


def test_layers_of_the_large_view(visit: Any) -> None:
    page, model = visit(count=24)
    with_masks = next(n for n, one in enumerate(model["images"]) if one["results"][0][0]["masks"])
    page.locator(".open").nth(with_masks).click()
    image = model["images"][with_masks]
    dialog, stage = page.locator("dialog"), page.locator(".stage")
    assert stage.locator("rect.line.found").count() == len(image["results"][0][0]["boxes"])
    assert stage.locator("rect.line.true").count() == len(image["true"])
    drawn = {"Found boxes": "rect.line.found", "Annotated boxes": "rect.line.true",
             "Map": "canvas.map:not([hidden])"}  # fmt: skip
    for title, selector in drawn.items():
        dialog.get_by_label(title, exact=True).uncheck()
        assert stage.locator(selector).count() == 0
        dialog.get_by_label(title, exact=True).check()
        assert stage.locator(selector).count() > 0
    dialog.get_by_label("Found masks").check()
    assert stage.locator("canvas.masks").is_visible()
    assert not page.is_visible("text=The shading is a preview")
    page.get_by_label("Above the threshold").check()
    assert page.is_visible("text=The shading is a preview")
    shaded = []
    for step in (10, 50, 90):
        set_step(page, step, "#large-threshold")
        shaded.append(page.evaluate("""() => {
          const canvas = document.querySelector(".stage .shading");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return data.filter((value, n) => n % 4 === 3 && value > 0).length;
        }"""))  # fmt: skip
        assert stage.locator("rect.line.found").count() == len(step_boxes(image, step))
    assert shaded[0] > shaded[1] > shaded[2] > 0
    page.locator("#opacity").fill("30")
    assert stage.locator("canvas.map").evaluate("(map) => getComputedStyle(map).opacity") == "0.3"
    page.get_by_text("Record", exact=True).click()
    assert json.loads(page.inner_text("dialog pre"))["image"] == image["id"]


def test_annotated_masks_are_a_layer_of_cards_and_large_view(visit: Any) -> None:
    page, model = visit(count=12)
    annotated = [n for n, image in enumerate(model["images"]) if image["true_masks"]]
    first, without = annotated[0], next(n for n in range(12) if n not in annotated)
    card = page.locator(".item").nth(first)
    card.scroll_into_view_if_needed()
    assert card.locator("path.true-mask").count() == 0, "off at first"
    page.get_by_label("annotated masks", exact=True).check()
    image = model["images"][first]
    ((_, width, height, outline, ignored),) = image["true_masks"]
    for kind, drawn in (("object", outline), ("ignored", ignored)):
        path = card.locator(f"path.line.true-mask.{kind}")
        assert path.get_attribute("d") == drawn
        # The outline lies over the picture as the boxes do.
        box = path.evaluate("(node) => { const { x, y, width, height } = node.getBBox(); "
                            "return [x, y, x + width, y + height]; }")  # fmt: skip
        assert max(box[0], box[1]) >= 0
        assert box[2] <= width
        assert box[3] <= height
    frame = card.locator(".frame").first.bounding_box()
    corner = card.locator("path.line.ignored").bounding_box()
    assert abs(corner["x"] - frame["x"]) < 3
    assert abs(corner["width"] - frame["width"] / 5) < 5
    assert address(page)["layers"] == "map+true+found+true_masks"
    page.locator(".open").nth(first).click()
    layer = page.locator("dialog").get_by_label("Annotated masks", exact=True)
    assert page.locator(".stage path.true-mask").count() == 0
    layer.check()
    assert page.locator(".stage path.line.true-mask").count() == 2
    for _ in range(without - first):
        page.keyboard.press("ArrowRight")
    assert layer.is_disabled()
    assert page.locator(".stage path.true-mask").count() == 0


def test_the_original_is_loaded_or_missed(browser: Any, tmp_path: Path) -> None:
    model = make_view_model(count=2)
    original = tmp_path / "own.png"
    first, second = model["images"]
    cv2.imwrite(str(original), np.full((first["height"], first["width"], 3), 90, np.uint8))
    first["file"], second["file"] = original.as_uri(), (tmp_path / "gone.png").as_uri()
    (tmp_path / "index.html").write_text(render(model), encoding="utf-8")
    page = browser.new_page(viewport=WIDE)
    page.goto((tmp_path / "index.html").as_uri())
    page.locator(".open").first.click()
    page.get_by_label("Original resolution").check()
    until(
        lambda: page.eval_on_selector(".stage img", "(node) => node.naturalWidth") == first["width"]
    )
    width = page.eval_on_selector(".stage .frame", "(frame) => frame.getBoundingClientRect().width")
    assert width == first["width"]
    page.keyboard.press("ArrowRight")
    page.get_by_label("Original resolution").click()
    page.wait_for_selector("text=The file cannot be read")
    assert page.get_attribute(".stage img", "src").startswith("data:")
    assert not page.get_by_label("Original resolution").is_checked()
    page.close()


def test_all_methods_side_by_side(visit: Any) -> None:
    page, _ = visit(count=8, methods=METHODS)
    page.locator(".open").first.click()
    page.locator("#large-method").select_option("all")
    assert page.locator(".stage figure").count() == 4
    assert [text.split(" ")[0] for text in page.locator("figcaption").all_inner_texts()] == list(
        METHODS
    )
    assert page.eval_on_selector(
        ".stage",
        "(node) => node.scrollWidth <= node.clientWidth && node.scrollHeight <= node.clientHeight",
    )


def test_all_charts_are_shown_on_demand(visit: Any) -> None:
    page, model = visit(count=24, charts=True)
    count = len(model["charts"]["list"])
    assert page.locator(".l2b-chart:visible").count() == 4 < count
    page.get_by_role("button", name=f"Show all {count} charts").click()
    assert page.locator(".l2b-chart:visible").count() == count
    page.get_by_role("button", name="Show fewer charts").click()
    assert page.locator(".l2b-chart:visible").count() == 4


# -- any page -------------------------------------------------------------------------------------


def test_hostile_names_do_nothing_but_show(visit: Any) -> None:
    page, model = visit(count=24)
    for n in range(len(HOSTILE)):
        assert page.locator(".item .file bdi").nth(n).text_content() == model["images"][n]["name"]
        page.locator(".open").nth(n).click()
        page.keyboard.press("Escape")
    assert page.evaluate("window.hostile") is None
    assert page.locator("b:has-text('cone')").count() > 0
    assert page.locator("main b b").count() == 0
    assert (
        page.evaluate("document.querySelectorAll('img:not([src^=\"data:image/jpeg\"])').length")
        == 0
    )


def test_pictures_have_their_size(visit: Any) -> None:
    page, _ = visit(count=24)
    page.locator("#grid").scroll_into_view_if_needed()
    page.locator("img").first.wait_for(state="attached")
    assert page.locator("img:not([width]), img:not([height])").count() == 0


@pytest.mark.parametrize("methods", [("cam",), METHODS], ids=["one", "several"])
def test_a_phone_shows_all_in_its_width(visit: Any, methods: tuple[str, ...]) -> None:
    page, _ = visit(viewport=PHONE, count=24, methods=methods)
    for act in (lambda: None, lambda: page.get_by_text("Filter and sort").click(),
                lambda: set_step(page, 40),
                lambda: page.get_by_text("Keep this threshold").click()):  # fmt: skip
        act()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.locator(".open").first.click()
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= PHONE["width"]
    height = page.eval_on_selector("#bar", "(bar) => bar.getBoundingClientRect().height")
    assert height < PHONE["height"] / 2


def test_dark(visit: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light, _ = visit(count=24)
    dark, _ = visit(scheme="dark", count=24)
    values = [
        sum(map(int, page.evaluate(ground).removeprefix("rgb(").removesuffix(")").split(",")))
        for page in (light, dark)
    ]
    assert values[0] > 600
    assert values[1] < 150


OPTIONS: dict[str, dict[str, Any]] = {
    "one": {}, "several": {"methods": METHODS}, "unlabelled": {"is_labelled": False},
    "charts": {"charts": True},
}  # fmt: skip


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_nothing_moves(visit: Any, viewport: Any, options: dict[str, Any]) -> None:
    page, _ = visit(viewport=viewport, count=24, **options)
    page.mouse.move(100, 300)
    for _ in range(12):
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(60)
    page.evaluate("document.querySelector('footer').scrollIntoView({ behavior: 'instant' })")
    page.wait_for_timeout(100)
    page.evaluate("document.querySelector('#grid').scrollIntoView({ behavior: 'instant' })")
    page.wait_for_timeout(100)
    page.locator("canvas.map").first.wait_for(state="attached")
    assert page.evaluate("window.shifts") < MAX_SHIFT


@pytest.mark.skipif(AXE not in os.environ, reason=f"{AXE} names no axe.min.js")
@pytest.mark.parametrize(
    ("scheme", "viewport"), [("light", WIDE), ("dark", PHONE)], ids=["light wide", "dark phone"]
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_accessible(visit: Any, scheme: str, viewport: Any, options: dict[str, Any]) -> None:
    page, _ = visit(viewport=viewport, scheme=scheme, count=24, **options)
    page.evaluate(Path(os.environ[AXE]).read_text(encoding="utf-8"))
    for act in (lambda: page.evaluate("document.querySelectorAll('details')"
                                      ".forEach((each) => { each.open = true; })"),
                lambda: set_step(page, 40),
                lambda: page.locator(".open").first.click()):  # fmt: skip
        act()
        found = page.evaluate("axe.run().then((result) => result.violations)")
        assert [
            (one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found
        ] == []


def test_images_without_labels(visit: Any) -> None:
    page, model = visit(count=24, is_labelled=False)
    assert page.locator("#filter-result").count() == 0
    assert page.locator("#filter-cause").count() == 0
    several = next(image for image in model["images"] if len(image["results"][0]) > 1)
    item = page.locator(".item").nth(several["position"])
    item.scroll_into_view_if_needed()
    item.locator("rect.line.found").first.wait_for(state="attached")
    classes = {result["label"] for result in several["results"][0] if result["boxes"]}
    assert item.locator(".of-class").count() == len(classes)
    found = sum(len(result["boxes"]) for result in several["results"][0])
    assert item.locator("rect.line.found").count() == found


# -- speed -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="no times of threads here")
def test_speed(browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ("cam", "layercam", "gradcam", "scorecam")
    model = make_view_model(count=500, methods=methods, detail=9, drawn=30)
    path = tmp_path / "index.html"
    path.write_text(render(model), encoding="utf-8")
    measured = measure_page(browser, path)
    with capsys.disabled():
        print("\n" + table(describe_page(measured)))
    assert measured.size <= MAX_BYTES
    assert measured.paint <= MAX_PAINT
    for taken in (measured.drag, measured.drop, measured.drop_by_iou):
        assert max(taken) <= MAX_STEP
    assert measured.shift < MAX_SHIFT
    assert measured.errors == []
