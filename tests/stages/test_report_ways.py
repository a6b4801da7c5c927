"""Ways through the page in a browser: to a cause's images, between methods, pages, keys, paper."""

from __future__ import annotations

from typing import Any

from pipeline.stages.report.rendering import render
from scripts.measure.report_page import WIDE
from tests.report_fixture import USED, make_view_model
from tests.stages.test_report_browser import (
    METHODS,
    address,
    browser,
    pytestmark,
    set_step,
    shown,
    until,
    visit,
    written,
)

__all__ = ["browser", "pytestmark", "visit", "written"]


def test_the_verdict_and_the_parts_come_in_the_order_of_the_page(visit: Any) -> None:
    page, model = visit(count=24, charts=True)
    assert page.inner_text(".answer") == model["verdict"][0]
    links = page.eval_on_selector_all("nav a", "all => all.map((one) => one.hash.slice(1))")
    tops = [
        page.eval_on_selector(f"#{link}", "(node) => node.getBoundingClientRect().top")
        for link in links
    ]
    assert len(tops) > 4
    assert tops == sorted(tops)


def test_each_method_has_its_link_to_a_cause(visit: Any) -> None:
    page, model = visit(count=24, methods=METHODS)
    cause = next(one for one in model["causes"] if one["count"]["layercam"])
    button = page.locator(f"[data-cause={cause['key']}][data-method='1']")
    button.click()
    assert address(page)["method"] == "1"
    assert len(shown(page)) == cause["count"]["layercam"]
    assert "layercam" in page.inner_text(".shown")
    assert page.evaluate("document.activeElement.id") == "images-title"
    button.click()
    assert len(shown(page)) == 24


def test_thresholds_of_all_methods_are_told_kept_and_reset(visit: Any) -> None:
    page, _ = visit(count=8, methods=METHODS)
    page.locator("#grid").scroll_into_view_if_needed()
    set_step(page, 70)
    page.locator("#filter-method").select_option("1")
    assert "Threshold of layercam 0.30 (fixed)" in " ".join(page.inner_text(".slider").split())
    told = page.locator(".item").first.locator(".told").all_inner_texts()
    assert "cut at 0.70 (moved)" in told[0]
    assert "cut at 0.30 (fixed)" in told[1]
    assert "cut at auto" in told[3]
    set_step(page, 55)
    assert address(page)["step"] == "70+55"
    page.reload()
    page.wait_for_selector("#filters details")
    assert page.input_value("#threshold") == "55"
    page.get_by_label("gradcam", exact=True).uncheck()
    page.get_by_label("found masks", exact=True).check()
    page.get_by_role("button", name="Reset all").click()
    assert address(page) == {}
    assert page.input_value("#threshold") == str(USED)
    for name in METHODS[1:]:
        page.get_by_label(name, exact=True).uncheck()
    assert page.get_by_label(METHODS[0], exact=True).is_disabled(), "the last method stays"


def test_an_iou_is_not_rounded_up_to_right(browser: Any, tmp_path: Any) -> None:
    model = make_view_model(count=3)
    for image, iou in zip(model["images"], (0.4996, 0.5, 0.493), strict=True):
        image["results"][0][0].update(iou=iou, cause="part" if iou < 0.5 else None)
    (tmp_path / "index.html").write_text(render(model), encoding="utf-8")
    page = browser.new_page(viewport=WIDE)
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#filters details")
    page.locator("#grid").scroll_into_view_if_needed()
    told = [text.split("IoU ")[1].split()[0] for text in page.locator(".verdict").all_inner_texts()]
    assert sorted(told) == ["0.49", "0.499", "0.50"]
    assert page.locator(".told", has_text="Part instead of whole").count() == 2
    set_step(page, 40)
    page.locator("#grid").scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    assert page.locator(".told", has_text="Part instead of whole").count() == 0
    page.close()


def test_numbers_act_while_they_are_typed(visit: Any) -> None:
    page, _ = visit(count=40)
    page.get_by_label("IoU, lowest", exact=True).press_sequentially("0.6")
    until(lambda: len(shown(page)) < 40)
    assert address(page)["iou_from"] == "0.6"


def test_the_search_is_in_names_and_annotated_classes(visit: Any) -> None:
    page, model = visit(count=40)
    page.get_by_label("Search").fill("cube")
    expected = [one["id"] for one in model["images"] if one["labels"] == [1]]
    until(lambda: shown(page) == expected)


def test_many_images_come_in_pages(browser: Any, tmp_path: Any) -> None:
    (tmp_path / "index.html").write_text(
        render(make_view_model(count=130, drawn=10)), encoding="utf-8"
    )
    page = browser.new_page(viewport=WIDE)
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#filters details")
    assert len(shown(page)) == 60
    page.locator(".more").click()
    assert len(shown(page)) == 120
    assert page.evaluate("document.activeElement.closest('.item') !== null")
    page.locator(".more").click()
    assert len(shown(page)) == 130
    assert not page.locator(".more").is_visible()
    page.emulate_media(media="print")
    assert page.locator(".item:visible").count() == 12
    assert not page.locator("#filters").is_visible()
    page.close()


def test_keys_of_the_large_view(visit: Any) -> None:
    page, model = visit(count=12)
    page.locator(".open").first.click()
    for key, at in (("End", 11), ("Home", 0)):
        page.keyboard.press(key)
        assert page.get_attribute("#large-title bdi", "title") == model["images"][at]["id"]
    opacity = page.locator(".stage canvas.map").evaluate("(map) => getComputedStyle(map).opacity")
    assert opacity == "0.5"
    page.keyboard.press("m")
    assert not page.locator(".stage canvas.map").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    assert "map" not in address(page)["layers"].split("+")
