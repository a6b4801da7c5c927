"""Parts of the pictures of tests of maps: heading, mean curves, coloured maps, boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.ops.bootstrap import interval, middle, resampled
from pipeline.ops.tensors import to_numpy
from pipeline.plotting import colours
from pipeline.plotting.chart import Colour, Line, Sheet
from pipeline.plotting.sheet import FAINT, shorten_to_width
from pipeline.protocols import TrainedNetwork
from pipeline.types import AuditSubject

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

Arrays = Mapping[str, np.ndarray]

WIDTH = 1560
EDGE = 40
CLIP = 99.0  # the percentile of a map that is the brightest
SIDE, GAP = 276, 14  # of the panels in rows of pictures, in pixels
CAPTION = 44  # pixels below a row
TOP = 148  # pixels above the first row
MAX_ROWS = 4  # images on a picture


def write_heading(sheet: Sheet, subject: AuditSubject, question: str, note: str) -> None:
    """Write method, network and question at the top of a sheet, and a note below."""
    sheet.write_text(EDGE, 28, f"{subject.method} on {subject.network_name}: {question}", 27)
    sheet.write_text(EDGE, 66, shorten_to_width(note, 17, WIDTH - 2 * EDGE), 17, FAINT)


def mean_line(
    name: str,
    x: np.ndarray,
    rows: Float[np.ndarray, "n k"],
    colour: Colour,
    seed: int,
    **style: Any,
) -> Line:
    """Return the mean of the images' curves with its 95 % bootstrap band.

    Args:
        name: What the legend says.
        x: The values of the horizontal axis [k].
        rows: A curve for each image.
        colour: RGB.
        seed: Of the bootstrap.
        style: `dashed` and `dots` of a Line.
    """
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
    """Convert a map to colours: red and blue where it has both signs, else inferno.

    Args:
        values: The map, at any scale; values that are not finite count as 0.
        scale_of: Another map, whose scale is used; None: the map's.
    """
    values = np.nan_to_num(values.astype(np.float32))
    if scale_of is not None:
        largest = float(np.percentile(np.abs(scale_of), CLIP)) or 1.0
        return colours.apply_diverging((values / largest).clip(-1, 1))
    if values.min() < -0.05 * max(values.max(), 1e-30):
        return colours.apply_diverging(colours.scale_signed(values, CLIP))
    return colours.apply_inferno(colours.scale_positive(values, CLIP))


def resize(
    picture: UInt8[np.ndarray, "h w 3"], width: int, height: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Resize a picture: area averages where it shrinks, cubic where it grows."""
    shrinks = height < picture.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how))


def draw_box(
    image: UInt8[np.ndarray, "h w 3"], box: Float[np.ndarray, "4"], size: np.ndarray, side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """Resize an image to a square, and draw a box on it.

    Args:
        image: The image.
        box: xyxy, half-open, in pixels of the original image; an empty box is not drawn.
        size: Height and width of the original image.
        side: Of the square, in pixels.
    """
    canvas = np.array(resize(image, side, side))
    x, y = side / size[1], side / size[0]
    x0, y0, x1, y1 = (round(float(v)) for v in box * np.array([x, y, x, y]))
    if x1 > x0 and y1 > y0:
        ends = (max(x0, 1), max(y0, 1)), (min(x1, side) - 2, min(y1, side) - 2)
        cv2.rectangle(canvas, *ends, (24, 24, 24), 5)
        cv2.rectangle(canvas, *ends, (255, 64, 96), 3)
    return canvas


def to_pixels(
    images: Float[Tensor, "b c H W"], trained: TrainedNetwork
) -> UInt8[np.ndarray, "b H W 3"]:
    """Return images as pixels, from the network's scale; grey ones have three equal channels."""
    mean, std = np.array(trained.mean), np.array(trained.std)
    pixels = to_numpy(images.permute(0, 2, 3, 1)) * std + mean
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    return np.ascontiguousarray(np.round(pixels * 255).clip(0, 255).astype(np.uint8))


def start_rows(rows: int) -> Sheet:
    """Return an empty sheet for rows of pictures."""
    return Sheet(WIDTH, TOP + rows * (SIDE + CAPTION) + 20)


def draw_rows(
    sheet: Sheet,
    titles: Sequence[str],
    rows: Sequence[Sequence[UInt8[np.ndarray, "h w 3"]]],
    captions: Sequence[str],
) -> None:
    """Draw rows of pictures below the titles of their columns, with a caption under each row.

    Args:
        sheet: What `start_rows` returned.
        titles: Of the columns.
        rows: The pictures of each row, at any size.
        captions: A line for each row.
    """
    for column, title in enumerate(titles):
        sheet.write_text(EDGE + column * (SIDE + GAP), TOP - 28, title, 17, FAINT)
    for row, (panels, caption) in enumerate(zip(rows, captions, strict=True)):
        y = TOP + row * (SIDE + CAPTION)
        for column, panel in enumerate(panels):
            sheet.paste(EDGE + column * (SIDE + GAP), y, resize(panel, SIDE, SIDE))
        sheet.write_text(EDGE, y + SIDE + 10, shorten_to_width(caption, 17, WIDTH - 2 * EDGE), 17)
