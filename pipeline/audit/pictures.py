"""What the pictures of all tests of maps share: heading, mean curves, maps in colours, boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.ops.bootstrap import interval, middle, resampled
from pipeline.plotting import colours
from pipeline.plotting.chart import Colour, Line, Sheet
from pipeline.plotting.sheet import FAINT, fitted
from pipeline.types import AuditSubject

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

Arrays = Mapping[str, np.ndarray]

WIDTH = 1560
EDGE = 40
CLIP = 99.0  # the percentile of a map that is the brightest


def write_heading(sheet: Sheet, subject: AuditSubject, question: str, note: str) -> None:
    """Write method, network and question at the top of a sheet, the note below."""
    sheet.text(EDGE, 28, f"{subject.method} on {subject.network_name}: {question}", 27)
    sheet.text(EDGE, 66, fitted(note, 17, WIDTH - 2 * EDGE), 17, FAINT)


def mean_line(
    name: str,
    x: np.ndarray,
    rows: Float[np.ndarray, "n k"],
    colour: Colour,
    seed: int,
    **style: Any,
) -> Line:
    """Return the mean of the images' curves with its 95 % bootstrap band."""
    drawn = resampled(rows.astype(np.float64), 1000, np.random.default_rng(seed))
    low, high = np.array([middle(column) for column in drawn.T]).T
    return Line(name, x, rows.mean(0), (low, high), colour, **style)


def format_mean(name: str, values: Float[np.ndarray, "n"], seed: int) -> str:
    """Return a number's name, its mean over the images and the 95 % bootstrap interval."""
    low, high = interval(values.astype(np.float64), seed=seed)
    return f"{name} {values.mean():.2f} ({low:.2f} to {high:.2f})"


def colour_map(
    values: Float[np.ndarray, "h w"], scale_of: Float[np.ndarray, "h w"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Show a map in colours: red and blue where it has both signs.

    Args:
        values: The map.
        scale_of: Another map, whose scale is used; by default the map's.
    """
    values = np.nan_to_num(values.astype(np.float32))
    if scale_of is not None:
        most = float(np.percentile(np.abs(scale_of), CLIP)) or 1.0
        return colours.diverging((values / most).clip(-1, 1))
    if values.min() < -0.05 * max(values.max(), 1e-30):
        return colours.diverging(colours.balanced(values, CLIP))
    return colours.sequential(colours.for_class(values, CLIP))


def resize(
    picture: UInt8[np.ndarray, "h w 3"], width: int, height: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Scale a picture to a size."""
    shrinks = height < picture.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how))


def draw_box(
    image: UInt8[np.ndarray, "h w 3"], box: Float[np.ndarray, "4"], size: np.ndarray, side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """Scale an image to a square of `side` pixels, and draw a box on it.

    Args:
        image: The image.
        box: xyxy in pixels of the original image; none is drawn of no size.
        size: Height and width of the original image.
        side: Of the square.
    """
    canvas = np.array(resize(image, side, side))
    x, y = side / size[1], side / size[0]
    x0, y0, x1, y1 = (round(float(v)) for v in box * np.array([x, y, x, y]))
    if x1 > x0 and y1 > y0:
        ends = (max(x0, 1), max(y0, 1)), (min(x1, side) - 2, min(y1, side) - 2)
        cv2.rectangle(canvas, *ends, (24, 24, 24), 5)
        cv2.rectangle(canvas, *ends, (255, 64, 96), 3)
    return canvas
