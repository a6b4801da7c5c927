"""What stage inspect shows: grids of pictures with a caption each, mosaics, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pipeline.formats.files import atomic_write
from pipeline.plotting.chart import BLUE, GREEN, PURPLE, RED, Colour, Line, Sheet, chart
from pipeline.plotting.sheet import FAINT, GAP, INK, MARGIN, PAPER, SMALL, TITLE, fitted, font

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

COLOURS = (BLUE, RED, GREEN, PURPLE, (90, 90, 90))
MOST_LINES = 2 * len(COLOURS)  # on a chart: each colour whole and dashed
CONTRAST = 99.0  # the percentile of an image's deviations from the mean that reaches black or white
ALL_ROUND = 0.45  # how far that is from mid-grey


@dataclass(frozen=True)
class Cell:
    picture: UInt8[np.ndarray, "h w 3"]
    name: str
    note: str = ""


def grid(title: str, notes: Sequence[str], cells: Sequence[Cell], across: int) -> Image.Image:
    """Pictures of one size, so many side by side, each with its caption below."""
    height, width = cells[0].picture.shape[:2]
    across = max(1, min(across, len(cells)))
    words = (SMALL + 6) * (1 + any(cell.note for cell in cells)) * any(cell.name for cell in cells)
    step = height + words + GAP
    head = MARGIN + TITLE + 10 + (SMALL + 7) * len(notes) + 8
    rows = -(-len(cells) // across)
    wide = max(2 * MARGIN + across * (width + GAP) - GAP, 720)
    made = Image.new("RGB", (wide, head + rows * step + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(made)
    room = wide - 2 * MARGIN
    pen.text((MARGIN, MARGIN), fitted(title, TITLE, room), INK, font(TITLE), "lt")
    for n, note in enumerate(notes):
        at = (MARGIN, MARGIN + TITLE + 10 + n * (SMALL + 7))
        pen.text(at, fitted(note, SMALL, room), FAINT, font(SMALL), "lt")
    for n, cell in enumerate(cells):
        x, y = MARGIN + n % across * (width + GAP), head + n // across * step
        made.paste(Image.fromarray(np.ascontiguousarray(cell.picture)), (x, y))
        for line, (text, colour) in enumerate(((cell.name, INK), (cell.note, FAINT))):
            where = (x, y + height + SMALL + 2 + line * (SMALL + 5))
            pen.text(where, fitted(text, SMALL, width), colour, font(SMALL), "ls")
    return made


def mosaic(
    pictures: Sequence[UInt8[np.ndarray, "s s 3"]], across: int, side: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Squares of `side` close together on white; places without a picture stay white."""
    gap, rows = 3, across
    whole = np.full((rows * (side + gap) - gap, across * (side + gap) - gap, 3), 255, np.uint8)
    for n, one in enumerate(pictures):
        y, x = n // across * (side + gap), n % across * (side + gap)
        whole[y : y + side, x : x + side] = sized(one, side, side)
    return whole


def sized(
    picture: UInt8[np.ndarray, "h w 3"], height: int, width: int, smooth: bool = True
) -> UInt8[np.ndarray, "H W 3"]:
    enlarged = cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST
    how = cv2.INTER_AREA if height < picture.shape[0] else enlarged
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=how))


def fit(picture: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """With a longer side of `side`; pixels of small pictures stay squares."""
    scale = side / max(picture.shape[:2])
    height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
    return sized(picture, height, width, smooth=max(picture.shape[:2]) > 96)


def framed(
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Each in the middle of white, all of one size."""
    height, width = (max(one.shape[axis] for one in pictures) for axis in (0, 1))
    whole = [np.full((height, width, 3), 255, np.uint8) for _ in pictures]
    for one, picture in zip(whole, pictures, strict=True):
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        one[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return whole


def across(count: int) -> int:
    """Columns of a sheet: one row of few, else about as wide as high, five at most."""
    return count if count <= 4 else min(5, int(np.ceil(np.sqrt(count))))


def made_visible(
    image: Float[np.ndarray, "H W 3"], mean: Sequence[float], std: Sequence[float], free: bool
) -> UInt8[np.ndarray, "H W 3"]:
    """What a network reads as pixels, its deviations from the mean enlarged until they are seen;
    `free`: or made smaller until nearly all can be shown, for an image that knows no black and
    white."""
    pixels = image * np.asarray(std)
    most = float(np.percentile(np.abs(pixels), CONTRAST))
    scale = ALL_ROUND / most if most > 0 else 1.0
    pixels = pixels * (scale if free else max(scale, 1.0))
    return np.asarray(np.rint((pixels + np.asarray(mean)).clip(0, 1) * 255).astype(np.uint8))


def rise(
    title: str, note: str, up: str, curves: Mapping[str, Float[np.ndarray, "n"]]
) -> Image.Image:
    """Curves over the steps of an ascent; the first few where there are many."""
    shown = list(curves.items())[:MOST_LINES]
    sheet = Sheet(1000, 560 + 25 * len(shown))
    left = f"; the first {len(shown)} of {len(curves)}" if len(shown) < len(curves) else ""
    sheet.text(40, 28, fitted(title, 27, 920), 27)
    sheet.text(40, 66, fitted(note + left, 17, 920), 17, FAINT)
    steps = len(shown[0][1]) - 1
    lines = [
        Line(name, np.arange(steps + 1), values, None, COLOURS[n % 5], dashed=n >= 5)
        for n, (name, values) in enumerate(shown)
    ]
    values = np.concatenate([one for _, one in shown])
    low, high, tick = axis(float(values.min()), float(values.max()))
    ticks = sorted({round(steps * part) for part in (0, 0.25, 0.5, 0.75, 1)})
    names = [(float(at), str(at)) for at in ticks]
    box = (110, 130, 960, 450)
    chart(sheet, box, lines, "", "step of the ascent", up, names, low, high, tick)
    return sheet.image()


def axis(low: float, high: float) -> tuple[float, float, float]:
    """Round ends that hold all, and the step between the lines of a grid."""
    low = min(low, 0.0)
    room = max(high - low, 1e-6)
    high = low + room  # where nothing rises
    raw = room / 5
    size = 10 ** np.floor(np.log10(raw))
    step = float(size * next(n for n in (1, 2, 5, 10) if n * size >= raw))
    return float(np.floor(low / step) * step), float(np.ceil(high / step) * step), step


def first_order(
    name: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Image.Image:
    """Left, one image: the score along the gradient and the line. Right, all: the line's error."""
    sheet = Sheet(1560, 640)
    sheet.text(40, 28, fitted(f"{name}: how far the first-order view holds", 27, 1480), 27)
    sheet.text(40, 66, fitted(facts["note"], 17, 1480), 17, FAINT)
    distances = arrays["distances"]
    # A distance doubles from one to the next: each has as much room as the last.
    count = len(distances)
    places = np.arange(-count, count + 1)
    every = [f"{one:.3g}" for one in distances]
    signed = [f"-{one}" for one in reversed(every)] + ["0"] + every
    score, line = arrays["score"][0], arrays["line"][0]
    room = float(np.ptp(score)) * 1.2 + 1e-6
    ends = float(score.min()) - 0.3 * room, float(score.max()) + 0.3 * room
    low, high, step = axis(*ends)
    # The line leaves the chart where it is far off; drawn flat there it would mislead.
    inside = (line >= low) & (line <= high)
    chart(
        sheet, (110, 150, 740, 470),
        [
            Line("the network", places, score, None, BLUE, dots=True),
            Line("its line w (I - I0) + b" + ("" if inside.all() else ", as far as it is in sight"),
                 places[inside], line[inside], None, RED, dashed=True),
        ],
        fitted(facts["first"], 21, 640), "along the gradient, root mean square (of 255)", "logit",
        [(float(places[n]), signed[n]) for n in range(0, 2 * count + 1, 2)], low, high, step,
    )  # fmt: skip
    curves = [arrays[key] for key in ("error_along", "error_random")]
    top = max(1.2, min(2.0, float(np.ceil(max(c.mean(0).max() for c in curves) * 5) / 5)))
    chart(
        sheet, (890, 150, 1510, 470),
        [
            _seen(told, curve, top, colour)
            for told, curve, colour in zip(
                ("along the gradient, both ways", "in random directions"), curves, (RED, GREEN),
                strict=True)
        ],
        "Error of the line; 1: no better than a constant",
        "distance, root mean square (of 255); bands: all images", "part of the change",
        [(float(n), every[n]) for n in range(count)], 0.0, top, 0.2 if top <= 1.4 else 0.5,
    )  # fmt: skip
    return sheet.image()


def _seen(name: str, curve: Float[np.ndarray, "b d"], top: float, colour: Colour) -> Line:
    """The mean and the span of all images, as far as the mean is in sight."""
    inside = np.cumprod(curve.mean(0) <= top).astype(bool)
    inside[0] = True  # a line of one point, at the top, where even that is beyond it
    within = curve[:, inside].clip(0, top)
    band = (within.min(0), within.max(0))
    name += "" if inside.all() else ", as far as it is in sight"
    return Line(name, np.arange(curve.shape[1])[inside], within.mean(0), band, colour, dots=True)


def save(path: Path, picture: Image.Image | UInt8[np.ndarray, "H W 3"]) -> None:
    made = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with atomic_write(path) as temporary:
        made.save(temporary, "png")
