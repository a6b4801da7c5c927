"""Painting of the embedded data set's images: scenery, pieces of patterned paper, shadows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.data.shape_outlines import Outline, are_apart, cover, round_corners
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float32, Int16, UInt8


# ------------------------------------------------------------------------------------- paint

# Three colours of the scenery, then those of the paper.
PALETTES: tuple[tuple[str, str], ...] = (
    ("2b2d42 5c5f82 a9b4c2", "ef8354 f6bd60 f7ede2 d1495b"),  # dusk
    ("386641 6a994e a7c957", "f2e8cf bc4749 f4a261 fdfcdc"),  # meadow
    ("05668d 028090 7cc6c3", "f0f3bd ff6b6b ffd166 fefae0"),  # sea
    ("d4a373 e9d8a6 faedcd", "005f73 0a9396 9b2226 ca6702"),  # sand
    ("3d2645 6b4171 b288c0", "ffd6a5 fdffb6 9bf6ff ff8fab"),  # plum
    ("ffb5a7 fcd5ce f9dcc4", "355070 6d597a b56576 2a9d8f"),  # peach
    ("132a13 31572c 4f772d", "ecf39e f4d35e ee964b f95738"),  # forest
    ("8ecae6 bde0fe e8f4fb", "fb8500 ffb703 023047 d62828"),  # sky
    ("264653 3d6474 8ab0ab", "e9c46a f4a261 e76f51 f1faee"),  # slate
    ("cdb4db e2cfea d5e4fb", "5a189a e85d75 f9844a 277da1"),  # lilac
    ("6f4e37 a1785c d9b99b", "83c5be edf6f9 ffdd99 006d77"),  # clay
    ("0b132b 1c2541 3a506b", "5bc0be ffd166 ef476f f7fff7"),  # night
    ("84a98c b7ceb4 dde5d5", "6d2e46 a26769 2f3e46 d58936"),  # sage
    ("9d4b62 c9748a f0b6bc", "fff3e2 ffe066 247ba0 50514f"),  # rose
)
PAD = 7  # pixels around a piece of paper that its shadow may cover


def paint(rng: np.random.Generator, frame: Size, shapes: Sequence[Outline]) -> np.ndarray:
    """Paint an image: scenery, ribbons, offcuts, then the shapes, which nothing covers.

    Args:
        rng: Draws all that is not given.
        frame: (height, width) in pixels.
        shapes: Outlines of the objects in pixels.

    Returns:
        The image, uint8 [height, width, 3] RGB.
    """
    scenery, paper = _colours()[rng.integers(len(PALETTES))]
    image = _scene(rng, frame, scenery)
    for _ in range(rng.integers(0, 3)):
        _ribbon(rng, image, _mix(rng, scenery, paper))
    for _ in range(rng.integers(0, 4)):
        unit = _blob(rng) if rng.random() < 0.5 else _crooked(rng)
        scale = rng.uniform(0.06, 0.17) * min(frame)
        for middle in rng.random((4, 2)) * frame[::-1]:
            offcut = [curve * scale + middle for curve in unit]
            if all(are_apart(shape, offcut, 2) for shape in shapes):
                paint_paper(rng, image, offcut, paper)
                break
    for shape in shapes:
        paint_paper(rng, image, shape, paper)
    y, x = rng.integers(0, _grain().shape[0] - np.array(frame))
    grain = _grain()[y : y + frame[0], x : x + frame[1]]
    return np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U))


@cache
def _colours() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the palettes as RGB of the scenery and of the paper, [n, 3] from 0 to 255."""

    def parse(colours: str) -> np.ndarray:
        return np.array([list(bytes.fromhex(code)) for code in colours.split()], np.float32)

    return [(parse(scenery), parse(paper)) for scenery, paper in PALETTES]


@cache
def _grain() -> Int16[np.ndarray, "n n 3"]:
    """Return noise like the grain of paper; a window of it is added to each image."""
    grey = np.random.default_rng(0).normal(0, 2.2, (256, 256, 1))
    return np.repeat(grey, 3, 2).round().astype(np.int16)


def _noise(rng: np.random.Generator, frame: Size, cells: int) -> Float32[np.ndarray, "h w"]:
    """Draw smooth noise, about from 0 to 1, with about `cells` bumps along a side."""
    coarse = rng.random((cells + 1, cells + 1), np.float32)
    return np.asarray(cv2.resize(coarse, frame[::-1], interpolation=cv2.INTER_CUBIC))


def _ramp(rng: np.random.Generator, frame: Size, angle: float | None = None) -> np.ndarray:
    """Return distances in pixels from the middle along a direction, a random one by default."""
    angle = rng.uniform(0, 2 * math.pi) if angle is None else angle
    y = (np.arange(frame[0], dtype=np.float32) - frame[0] / 2) * np.float32(math.sin(angle))
    x = (np.arange(frame[1], dtype=np.float32) - frame[1] / 2) * np.float32(math.cos(angle))
    return np.asarray(np.add.outer(y, x))


def _tint(field: Float32[np.ndarray, "h w"], colours: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Map values from 0 to 1 to a gradient through the colours."""
    level = cv2.addWeighted(field, 255, field, 0, 0, dtype=cv2.CV_8U)  # clips, too
    table = (_stops(len(colours)) @ colours).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(level, table[:, None]))


@cache
def _stops(count: int) -> Float32[np.ndarray, "256 c"]:
    """Return the share of each colour in each of 256 levels of a gradient."""
    levels, stops = np.arange(256)[:, None], np.linspace(0, 255, count)
    share = 1 - np.abs(levels - stops) * (count - 1) / 255
    return np.maximum(share, 0).astype(np.float32)


def _scene(rng: np.random.Generator, frame: Size, colours: np.ndarray) -> np.ndarray:
    """Paint scenery of a random kind in three colours."""
    height = frame[0]
    colours = colours if rng.random() < 0.7 else colours[::-1]
    kind = rng.integers(6)
    slope = _ramp(rng, frame, rng.uniform(0.3, 0.7) * math.pi) / height + 0.5
    if kind == 0:  # clouds
        field = 0.3 * slope + 0.5 * _noise(rng, frame, 4) + 0.25 * _noise(rng, frame, 11)
        return _tint(field, colours)
    if kind == 1:  # dunes
        waves = np.sin(_ramp(rng, frame) / rng.uniform(4, 8) + 6 * _noise(rng, frame, 3))
        return _tint(0.5 * slope + 0.25 + 0.16 * waves, colours)
    if kind == 2:  # overlapping sheets of paper
        field = (0.6 * _noise(rng, frame, 4) + 0.4 * slope) * 7
        step = np.floor(field)
        return _tint((step + 0.35 * (field - step)) / 7, colours)
    image = _tint(0.6 * slope + 0.4 * _noise(rng, frame, 3), colours)
    paint_on = {3: _paint_hills, 4: _paint_leaves, 5: _paint_lights}[int(kind)]
    paint_on(rng, image, colours)
    return image


def _paint_hills(rng: np.random.Generator, image: np.ndarray, colours: np.ndarray) -> None:
    height, width = image.shape[:2]
    x = np.linspace(0, width, 24)
    layers = int(rng.integers(3, 6))
    for layer in range(layers):
        phase, bend = rng.uniform(0, 6.3, 3), rng.uniform(0.5, 1, 3) / (1, 2.2, 4)
        crest = sum(bend[i] * np.sin(x / width * (4, 9, 17)[i] + phase[i]) for i in range(3))
        base = height * (0.3 + 0.65 * (layer + rng.uniform(0, 0.5)) / layers)
        ridge = np.stack([x, base + 0.07 * height * crest], 1)
        curve = np.concatenate([ridge, [[width + 9, height + 9], [-9, height + 9]]])
        fill = _between(colours, 1 - (layer + 0.5) / layers)
        cv2.fillPoly(image, [(curve * 16).astype(np.int32)], fill, cv2.LINE_AA, 4)


def _paint_leaves(rng: np.random.Generator, image: np.ndarray, colours: np.ndarray) -> None:
    height, width = image.shape[:2]
    count = 34
    spots, lengths = rng.random((count, 2)) * (width, height), rng.uniform(6, 20, count)
    angles, shades = rng.uniform(0, 180, count), rng.random(count)
    for spot, length, angle, shade in zip(spots, lengths, angles, shades, strict=True):
        middle = (int(spot[0] * 16), int(spot[1] * 16))
        axes = (int(length * 16), int(length * 5.5))
        fill = _between(colours, shade)
        cv2.ellipse(image, middle, axes, angle, 0, 360, fill, -1, cv2.LINE_AA, 4)


def _paint_lights(rng: np.random.Generator, image: np.ndarray, colours: np.ndarray) -> None:
    """Paint discs that look like lights out of focus."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(7, 14))):
        with_disc = image.copy()
        spot, radius = rng.random(2) * (width, height), rng.uniform(5, 22)
        middle = (int(spot[0] * 16), int(spot[1] * 16))
        fill = _between(colours, rng.random())
        cv2.circle(with_disc, middle, int(radius * 16), fill, -1, cv2.LINE_AA, 4)
        cv2.addWeighted(with_disc, 0.45, image, 0.55, 0, image)


def _between(colours: np.ndarray, where: float) -> tuple[float, float, float]:
    """Return the colour at a place, from 0 to 1, of the gradient through the colours."""
    at = where * (len(colours) - 1)
    low = min(int(at), len(colours) - 2)
    red, green, blue = colours[low] + (at - low) * (colours[low + 1] - colours[low])
    return float(red), float(green), float(blue)


def _mix(rng: np.random.Generator, scenery: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """Draw a colour between a colour of the scenery and a colour of the paper."""
    first, second = scenery[rng.integers(len(scenery))], paper[rng.integers(len(paper))]
    return np.asarray(first + rng.uniform(0.3, 0.9) * (second - first))


def _ribbon(rng: np.random.Generator, image: np.ndarray, colour: np.ndarray) -> None:
    """Paint a curved line across a part of the image."""
    height, width = image.shape[:2]
    t = np.linspace(0, 1, 24)[:, None]
    ends = rng.uniform(-0.1, 1.1, (4, 2)) * (width, height)  # a cubic Bezier curve
    weight = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
    points = (weight @ ends * 16).astype(np.int32)
    red, green, blue = colour.tolist()
    thick = int(rng.integers(1, 6))
    cv2.polylines(image, [points], False, (red, green, blue), thick, cv2.LINE_AA, 4)


def _blob(rng: np.random.Generator) -> Outline:
    """Draw a smooth closed curve without symmetry."""
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)[:, None]
    size, phase = rng.uniform(0.1, 0.3, 3) / (1, 1.3, 1.8), rng.uniform(0, 6.3, 3)
    radius = 1 + (size * np.sin(t * (1, 2, 3) + phase)).sum(1, keepdims=True)
    return [radius * np.concatenate([np.cos(t), rng.uniform(0.5, 1) * np.sin(t)], 1)]


def _crooked(rng: np.random.Generator) -> Outline:
    """Draw an irregular polygon of five to eight corners."""
    count = int(rng.integers(5, 9))
    angle = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * math.pi / count
    radius = rng.uniform(0.55, 1.25, count)
    return [round_corners(radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), 0.05)]


def paint_paper(
    rng: np.random.Generator,
    image: UInt8[np.ndarray, "H W 3"],
    outline: Outline,
    paper: Float32[np.ndarray, "n 3"],
) -> None:
    """Paint a piece of patterned paper with its shadow and a lit edge onto the image.

    Args:
        rng: Draws pattern and colours.
        image: Painted on.
        outline: Of the piece, in pixels.
        paper: At least two RGB colours, from 0 to 255.
    """
    alpha, x, y = cover(outline, (image.shape[0], image.shape[1]), PAD)
    if alpha.size == 0:
        return
    first, second = rng.choice(len(paper), 2, replace=False)
    blend = rng.uniform(0.15, 0.55)  # contrast of the pattern
    pair = np.stack([paper[first], paper[first] + blend * (paper[second] - paper[first])])
    sheet = _tint(_pattern(rng, (alpha.shape[0], alpha.shape[1])), pair)
    soft = cv2.GaussianBlur(alpha, (9, 9), 1.8)
    shift = np.array([[1, 0, 1.6], [0, 1, 2.4]])
    shadow = cv2.warpAffine(soft, shift, soft.shape[::-1])
    light = cv2.subtract(soft, shadow, dtype=cv2.CV_16S) * 0.22
    lit = cv2.add(sheet, cv2.merge((light, light, light)), dtype=cv2.CV_8U)
    under = image[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    dark, opaque = shadow * np.float32(0.42 / 255), alpha * np.float32(1 / 255)
    ground = cv2.blendLinear(under, np.zeros_like(under), 1 - dark, dark)
    under[:] = cv2.blendLinear(lit, ground, opaque, 1 - opaque)


def _pattern(rng: np.random.Generator, frame: Size) -> Float32[np.ndarray, "h w"]:
    """Draw a pattern, about from 0 to 1: fade, marble, stripes, dots, checks or waves."""
    kind = rng.integers(6)
    angle, step = rng.uniform(0, 2 * math.pi), rng.uniform(1.2, 3.2)
    along = _ramp(rng, frame, angle)
    if kind == 0:
        return along / max(frame) + 0.5
    if kind == 1:
        return 1.4 * _noise(rng, frame, int(rng.integers(4, 9))) - 0.2
    if kind == 2:
        return 0.5 + 1.5 * np.sin(along / step)
    across = _ramp(rng, frame, angle + math.pi / 2)
    if kind == 3:
        return 2.2 * np.sin(along / step) * np.sin(across / step) - 0.5
    if kind == 4:
        return 0.5 + 3 * np.sin(along / step / 1.6) * np.sin(across / step / 1.6)
    return 0.5 + 1.5 * np.sin(along / step + 1.6 * np.sin(across / step / 2))
