r"""Texts on pictures, in a font that has their letters.

Pillow's own font has ASCII and some punctuation. Where a text has other letters, a font of the
system that has them is used; where none has a letter, its base letter (`ä`: `a`) or its number
(`\u05e6`) stands in its place.
"""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import Image, ImageDraw, ImageFont, features

# Looked for by name where the system keeps its fonts: Linux, macOS, Windows.
SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial Unicode.ttf",
    "Arial.ttf", "segoeui.ttf", "NotoSansCJK-Regular.ttc", "PingFang.ttc",
    "Hiragino Sans GB.ttc", "msgothic.ttc", "msyh.ttc", "malgun.ttf",
)  # fmt: skip
NO_CHARACTER = "\U0010ffff"  # no font has it: it is drawn as what stands for missing letters
TEST_SIZE = 16
RIGHT_TO_LEFT = ("R", "AL")


def draw_text(
    pen: ImageDraw.ImageDraw,
    position: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    size: int,
    anchor: str,
) -> None:
    """Draw a text in a font that has its letters.

    Args:
        pen: of the picture.
        position: x and y in pixels.
        text: what to write.
        colour: of the letters.
        size: of the font in pixels.
        anchor: what of the text is at the position, as Pillow names it.
    """
    name, shown = _choose(text)
    pen.text(position, shown, colour, _load(name, size), anchor)


def text_width(text: str, size: int) -> float:
    """Return the width of a text in pixels, as `draw_text` draws it.

    Args:
        text: what to write.
        size: of the font in pixels.
    """
    name, shown = _choose(text)
    return _load(name, size).getlength(shown)


@cache
def _load(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font at a size in pixels; an empty name is Pillow's own."""
    font = ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


@cache
def _list_fonts() -> tuple[str, ...]:
    """Return Pillow's own font, and those of SYSTEM_FONTS that this machine has."""
    names = [""]
    for name in SYSTEM_FONTS:
        try:
            _load(name, TEST_SIZE)
        except OSError:
            continue
        names.append(name)
    return tuple(names)


@cache
def _choose(text: str) -> tuple[str, str]:
    """Return the first font that has all letters of a text, or most of them, and what it draws."""
    if text.isascii():
        return "", text
    letters = set(text)
    has = {name: {each for each in letters if _has(name, each)} for name in _list_fonts()}
    name = max(has, key=lambda name: len(has[name]))  # the first of those that have equally many
    return name, "".join(each if each in has[name] else _spell(name, each) for each in text)


@cache
def _has(name: str, letter: str) -> bool:
    """Return whether a font has a letter, and Pillow can draw it in its place."""
    is_right_to_left = unicodedata.bidirectional(letter) in RIGHT_TO_LEFT
    if is_right_to_left and not features.check("raqm"):
        return False  # it would be drawn in the wrong order
    return letter.isspace() or _draw(name, letter) != _draw(name, NO_CHARACTER)


@cache
def _draw(name: str, letter: str) -> bytes:
    """Return the pixels of a letter."""
    picture = Image.new("L", (3 * TEST_SIZE, 3 * TEST_SIZE))
    font = _load(name, TEST_SIZE)
    ImageDraw.Draw(picture).text((TEST_SIZE, TEST_SIZE), letter, 255, font)
    return picture.tobytes()


def _spell(name: str, letter: str) -> str:
    """Return what stands for a letter that a font has not: its base letter, else its number."""
    base = [each for each in unicodedata.normalize("NFKD", letter) if _has(name, each)]
    spelled = "".join(each for each in base if not unicodedata.combining(each))
    return spelled or letter.encode("ascii", "backslashreplace").decode()
