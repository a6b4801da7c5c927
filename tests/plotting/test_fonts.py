"""Texts on pictures have the letters of names of any language, or something to read instead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pipeline.plotting import fonts
from pipeline.plotting.boxes import Rectangle, draw_labelled_box


def forget() -> None:
    for function in (fonts._list_fonts, fonts._choose, fonts._has, fonts._draw):
        function.cache_clear()


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fonts, "SYSTEM_FONTS", ())
    forget()
    yield
    forget()


def drawn(text: str, size: int = 15) -> np.ndarray:
    picture = Image.new("RGB", (200, 30), "white")
    fonts.draw_text(ImageDraw.Draw(picture), (5, 5), text, (0, 0, 0), size, "lt")
    return np.asarray(picture)


def test_ascii_is_drawn_in_pillows_own_font() -> None:
    picture = Image.new("RGB", (200, 30), "white")
    font = ImageFont.load_default(15)
    ImageDraw.Draw(picture).text((5, 5), "robin_1.jpg", (0, 0, 0), font, "lt")
    assert np.array_equal(drawn("robin_1.jpg"), np.asarray(picture))
    assert fonts.text_width("robin_1.jpg", 15) == font.getlength("robin_1.jpg")


@pytest.mark.usefixtures("no_system_fonts")
def test_without_a_font_that_has_them_letters_are_spelled() -> None:
    assert np.array_equal(drawn("Zaunkönig"), drawn("Zaunkonig"))
    assert np.array_equal(drawn("\N{HEBREW LETTER TSADI} a"), drawn(r"\u05e6 a"))
    assert fonts.text_width("ä", 15) == fonts.text_width("a", 15)
    assert np.array_equal(drawn("3 · a"), drawn("3 · ä")), "the font has the dot itself"


def test_names_of_other_languages_have_no_empty_boxes() -> None:
    forget()
    name, shown = fonts._choose("Zaunkönig · Ångström")
    if name == "":
        assert shown == "Zaunkonig · Angstrom"
    else:  # a font of the system: with the letters themselves
        assert shown == "Zaunkönig · Ångström"
        assert not np.array_equal(drawn("ö"), drawn("o"))
    missing = drawn(fonts.NO_CHARACTER)
    for letter in "öéłßцצ猫🐦":
        assert not np.array_equal(drawn(letter), missing)
        assert np.ptp(drawn(letter)) > 0


def test_the_name_of_a_box_has_its_letters() -> None:
    canvas = np.zeros((80, 160, 3), np.uint8)
    draw_labelled_box(canvas, np.array([10, 30, 60, 60]), (0, 120, 0), 1, "Zaunkönig 90 %")
    named = (canvas[:30] == 255).all(2)
    assert named.any()
    other = np.zeros((80, 160, 3), np.uint8)
    draw_labelled_box(other, np.array([10, 30, 60, 60]), (0, 120, 0), 1, "Zaunk?nig 90 %")
    assert not np.array_equal(canvas, other)


def test_names_of_boxes_that_begin_at_one_place_stand_below_one_another() -> None:
    taken: list[Rectangle] = []
    canvas = np.zeros((200, 200, 3), np.uint8)
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    for colour, name in zip(colours, ("one 0.50", "two 0.40", "drei Zaunkönige"), strict=True):
        draw_labelled_box(canvas, np.array([150, 4, 198, 190]), colour, 1, name, taken)
    for n, (left, top, right, bottom) in enumerate(taken):
        assert 0 <= left < right < 200
        assert n == 0 or top > taken[n - 1][3]
        inside = canvas[top + 1 : bottom - 1, left + 1 : right - 1]
        others = [(inside == other).all(2).mean() for other in colours if other != colours[n]]
        assert max(others) < 0.15, "lines of boxes may cross a name, no other name covers it"
        assert (inside == colours[n]).all(2).mean() > 0.25
    plain, same = np.zeros((2, 200, 200, 3), np.uint8)
    draw_labelled_box(plain, np.array([20, 40, 90, 90]), colours[0], 1, "one")
    draw_labelled_box(same, np.array([20, 40, 90, 90]), colours[0], 1, "one", [])
    assert np.array_equal(plain, same)
