"""Sheets of stage inspect: grids of pictures with captions, mosaics, charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pipeline.formats.files import atomic_write
from pipeline.plotting.chart import BLUE, GREEN, PURPLE, RED, Axes, Colour, Line, Sheet, draw_chart
from pipeline.plotting.fonts import draw_text
from pipeline.plotting.sheet import (
    FAINT,
    GAP,
    INK,
    MARGIN,
    PAPER,
    SMALL,
    TITLE,
    shorten_to_width,
)

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

COLOURS = (BLUE, RED, GREEN, PURPLE, (90, 90, 90))
MAX_LINES = 2 * len(COLOURS)  # on a chart: each colour solid and dashed
CONTRAST = 99.0  # the percentile of an image's deviations from the mean that is stretched to
MAX_DEVIATION = 0.45  # from mid-grey, on the scale of pixels from 0 to 1
MIN_SHEET_WIDTH = 720  # so that the title can be read
MOSAIC_GAP = 3  # pixels between the pictures of a mosaic


@dataclass(frozen=True)
class Cell:
    """A picture of a grid, its name, and a note below the name."""

    picture: UInt8[np.ndarray, "h w 3"]
    name: str
    note: str = ""


def draw_grid(title: str, notes: Sequence[str], cells: Sequence[Cell], columns: int) -> Image.Image:
    """Draw pictures in rows, each with its caption below.

    Args:
        title: The first line.
        notes: The lines below the title.
        cells: The pictures, all of one size.
        columns: Pictures side by side at most.
    """
    height, width = cells[0].picture.shape[:2]
    columns = max(1, min(columns, len(cells)))
    has_names, has_notes = any(cell.name for cell in cells), any(cell.note for cell in cells)
    step = height + (SMALL + 6) * (1 + has_notes) * has_names + GAP
    head = MARGIN + TITLE + 10 + (SMALL + 7) * len(notes) + 8
    rows = -(-len(cells) // columns)
    sheet_width = max(2 * MARGIN + columns * (width + GAP) - GAP, MIN_SHEET_WIDTH)
    sheet = Image.new("RGB", (sheet_width, head + rows * step + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    room = sheet_width - 2 * MARGIN
    text = shorten_to_width(title, TITLE, room)
    draw_text(pen, (MARGIN, MARGIN), text, INK, TITLE, "lt")
    for n, note in enumerate(notes):
        at = (MARGIN, MARGIN + TITLE + 10 + n * (SMALL + 7))
        draw_text(pen, at, shorten_to_width(note, SMALL, room), FAINT, SMALL, "lt")
    for n, cell in enumerate(cells):
        x, y = MARGIN + n % columns * (width + GAP), head + n // columns * step
        sheet.paste(Image.fromarray(np.ascontiguousarray(cell.picture)), (x, y))
        for line, (text, colour) in enumerate(((cell.name, INK), (cell.note, FAINT))):
            at = (x, y + height + SMALL + 2 + line * (SMALL + 5))
            draw_text(pen, at, shorten_to_width(text, SMALL, width), colour, SMALL, "ls")
    return sheet


def draw_mosaic(
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]], columns: int, side: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw pictures as squares close together, `columns` times `columns`, on white.

    Args:
        pictures: In reading order; places without a picture stay white.
        columns: Squares side by side.
        side: Of a square, in pixels.
    """
    gap, rows = MOSAIC_GAP, columns
    mosaic = np.full((rows * (side + gap) - gap, columns * (side + gap) - gap, 3), 255, np.uint8)
    for n, picture in enumerate(pictures):
        y, x = n // columns * (side + gap), n % columns * (side + gap)
        mosaic[y : y + side, x : x + side] = resize_picture(picture, side, side)
    return mosaic


def resize_picture(
    picture: UInt8[np.ndarray, "h w 3"], height: int, width: int, smooth: bool = True
) -> UInt8[np.ndarray, "H W 3"]:
    """Resize a picture: area averages where it shrinks, cubic or nearest where it grows."""
    enlarging = cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST
    how = cv2.INTER_AREA if height < picture.shape[0] else enlarging
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=how))


def fit_longer_side(picture: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Resize a picture to a longer side of `side` pixels; pixels of small pictures stay squares."""
    scale = side / max(picture.shape[:2])
    height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
    return resize_picture(picture, height, width, smooth=max(picture.shape[:2]) > 96)


def pad_to_common_size(
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Pad pictures with white to the size that holds all, each in the middle."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    frames = [np.full((height, width, 3), 255, np.uint8) for _ in pictures]
    for frame, picture in zip(frames, pictures, strict=True):
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return frames


def count_columns(count: int) -> int:
    """Return how many of `count` pictures stand side by side: up to four, or about the root."""
    return count if count <= 4 else min(5, int(np.ceil(np.sqrt(count))))


def enhance_contrast(
    image: Float[np.ndarray, "H W 3"], mean: Sequence[float], std: Sequence[float], free: bool
) -> UInt8[np.ndarray, "H W 3"]:
    """Turn a network's input into a picture, its deviations from the mean enlarged to be visible.

    Args:
        image: As the network reads it, standardized by mean and standard deviation.
        mean: Of red, green and blue, on the scale of pixels from 0 to 1.
        std: The standard deviations of these.
        free: Whether deviations may also be made smaller, as for an image whose values are not
            limited to those of pixels.
    """
    pixels = image * np.asarray(std)
    largest = float(np.percentile(np.abs(pixels), CONTRAST))
    scale = MAX_DEVIATION / largest if largest > 0 else 1.0
    pixels = pixels * (scale if free else max(scale, 1.0))
    return np.asarray(np.rint((pixels + np.asarray(mean)).clip(0, 1) * 255).astype(np.uint8))


def draw_ascent_curves(
    title: str, note: str, quantity: str, curves: Mapping[str, Float[np.ndarray, "n"]]
) -> Image.Image:
    """Draw scores over the steps of an ascent; the first MAX_LINES where there are more.

    Args:
        title: The first line.
        note: The line below the title.
        quantity: The name of the score.
        curves: The score before each step and after the last, by the name of the curve.
    """
    shown = list(curves.items())[:MAX_LINES]
    sheet = Sheet(1000, 560 + 25 * len(shown))
    part = f"; the first {len(shown)} of {len(curves)}" if len(shown) < len(curves) else ""
    sheet.write_text(40, 28, shorten_to_width(title, 27, 920), 27)
    sheet.write_text(40, 66, shorten_to_width(note + part, 17, 920), 17, FAINT)
    steps = len(shown[0][1]) - 1
    lines = [
        Line(name, np.arange(steps + 1), values, None, COLOURS[n % 5], dashed=n >= 5)
        for n, (name, values) in enumerate(shown)
    ]
    values = np.concatenate([curve for _, curve in shown])
    low, high, step = choose_axis(float(values.min()), float(values.max()))
    ticks = sorted({round(steps * share) for share in (0, 0.25, 0.5, 0.75, 1)})
    axes = Axes(
        box=(110, 130, 960, 450),
        title="",
        x_label="step of the ascent",
        y_label=quantity,
        ticks=[(float(at), str(at)) for at in ticks],
        low=low,
        high=high,
        step=step,
    )
    draw_chart(sheet, axes, lines)
    return sheet.to_image()


def choose_axis(low: float, high: float) -> tuple[float, float, float]:
    """Return round ends of an axis that holds 0 or less up to `high`, and the grid's step.

    Returns:
        The lowest value, the highest value, the distance of the grid's lines.
    """
    low = min(low, 0.0)
    span = max(high - low, 1e-6)
    high = low + span  # differs from `high` only where all values are alike
    raw = span / 5
    size = 10 ** np.floor(np.log10(raw))
    step = float(size * next(n for n in (1, 2, 5, 10) if n * size >= raw))
    return float(np.floor(low / step) * step), float(np.ceil(high / step) * step), step


def draw_first_order(
    name: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Image.Image:
    """Draw how far the score is its first-order line: the first image left, all images right.

    Args:
        name: The network's.
        facts: `note`, the line below the title; `first`, the title of the left chart.
        arrays: `distances` [d] in grey levels of 255; `score` and `line` [b, 2d + 1] along the
            gradient; `error_along` and `error_random` [b, d].
    """
    sheet = Sheet(1560, 640)
    title = f"{name}: how far the first-order view holds"
    sheet.write_text(40, 28, shorten_to_width(title, 27, 1480), 27)
    sheet.write_text(40, 66, shorten_to_width(facts["note"], 17, 1480), 17, FAINT)
    # Each distance is twice the last, and has as much room on the axis.
    labels = [f"{distance:.3g}" for distance in arrays["distances"]]
    _draw_score_and_line(sheet, facts["first"], arrays, labels)
    _draw_errors(sheet, arrays, labels)
    return sheet.to_image()


def _draw_score_and_line(
    sheet: Sheet, title: str, arrays: Mapping[str, np.ndarray], labels: Sequence[str]
) -> None:
    """Draw the first image's score along the gradient, and the line."""
    count = len(labels)
    places = np.arange(-count, count + 1)
    signed = [f"-{label}" for label in reversed(labels)] + ["0", *labels]
    score, line = arrays["score"][0], arrays["line"][0]
    room = float(np.ptp(score)) * 1.2 + 1e-6
    ends = float(score.min()) - 0.3 * room, float(score.max()) + 0.3 * room
    low, high, step = choose_axis(*ends)
    # The line leaves the chart where it is far off; clipped to the chart's edge it would mislead.
    inside = (line >= low) & (line <= high)
    part = "" if inside.all() else ", as far as it is in sight"
    axes = Axes(
        box=(110, 150, 740, 470),
        title=shorten_to_width(title, 21, 640),
        x_label="along the gradient, root mean square (of 255)",
        y_label="logit",
        ticks=[(float(places[n]), signed[n]) for n in range(0, 2 * count + 1, 2)],
        low=low,
        high=high,
        step=step,
    )
    lines = [
        Line("the network", places, score, None, BLUE, dots=True),
        Line(
            f"its line w (I - I0) + b{part}", places[inside], line[inside], None, RED, dashed=True
        ),
    ]
    draw_chart(sheet, axes, lines)


def _draw_errors(sheet: Sheet, arrays: Mapping[str, np.ndarray], labels: Sequence[str]) -> None:
    """Draw the error of the line over the distance, of all images."""
    curves = [arrays[key] for key in ("error_along", "error_random")]
    largest = max(curve.mean(0).max() for curve in curves)
    top = max(1.2, min(2.0, float(np.ceil(largest * 5) / 5)))
    names = ("along the gradient, both ways", "in random directions")
    lines = [
        _mean_in_sight(name, curve, top, colour)
        for name, curve, colour in zip(names, curves, (RED, GREEN), strict=True)
    ]
    axes = Axes(
        box=(890, 150, 1510, 470),
        title="Error of the line; 1: no better than a constant",
        x_label="distance, root mean square (of 255); bands: all images",
        y_label="part of the change",
        ticks=[(float(n), label) for n, label in enumerate(labels)],
        high=top,
        step=0.2 if top <= 1.4 else 0.5,
    )
    draw_chart(sheet, axes, lines)


def _mean_in_sight(name: str, curve: Float[np.ndarray, "b d"], top: float, colour: Colour) -> Line:
    """Return the mean and the range of all images, up to where the mean exceeds `top`."""
    inside = np.cumprod(curve.mean(0) <= top).astype(bool)
    inside[0] = True  # at least one point, clipped to the top
    within = curve[:, inside].clip(0, top)
    band = (within.min(0), within.max(0))
    name += "" if inside.all() else ", as far as it is in sight"
    return Line(name, np.arange(curve.shape[1])[inside], within.mean(0), band, colour, dots=True)


def save_png(path: Path, picture: Image.Image | UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a picture as PNG, by an atomic write."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with atomic_write(path) as temporary:
        image.save(temporary, "png")
