"""A picture of an image with its maps and boxes, for a notebook or a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from pipeline.api.images import is_network_input, open_photograph
from pipeline.errors import UserError
from pipeline.ops.maps import frame_size
from pipeline.plotting.boxes import draw_box
from pipeline.plotting.colours import overlay_map, resize_to_frame, scale_positive
from pipeline.plotting.picture_files import find_picture_format, save_picture

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from pipeline.api.explaining import Explained
    from pipeline.api.images import Image
    from pipeline.api.localizing import Localized, Prediction

LONGER_SIDE = 448  # of each panel, in pixels
CLIP = 99.5  # percentile of a map that has the brightest colour
GREEN = (46, 204, 64)


def show(
    image: Image,
    result: Explained,
    place: int | None = None,
    *,
    boxes: Localized | None = None,
    save: str | os.PathLike[str] | None = None,
    longer_side: int = LONGER_SIDE,
) -> Pillow.Image:
    """Draw an image beside its maps laid over it, one panel for each class.

    Args:
        image: the photograph; or a tensor [3, H, W] of floats, which is drawn by its own range.
        result: what `explain` returned.
        place: which of the images of `result` it is; None: that of its path, or the only one.
        boxes: what `localize` returned for `result`: they are drawn on the panels.
        save: a file that the picture is also written to, in the format of its suffix: .png, .jpg,
            .jpeg, .webp, .bmp, .tif or .tiff.
        longer_side: of each panel in pixels.

    Returns:
        A Pillow image, which a notebook shows.

    Raises:
        UserError: `result` has no such image, or several, and it is not known which; `image` is
            several images, or `save` has another suffix.
        TypeError: `image` and `result` are swapped, or of other types.
    """
    _check_arguments(image, result, boxes)
    if save is not None:
        find_picture_format(Path(save))  # before anything is drawn
    place = _find_place(image, result, place)
    full = _read(image)
    height, width = frame_size((full.shape[0], full.shape[1]), longer_side)
    pixels = np.array(Pillow.fromarray(full).resize((width, height), Pillow.Resampling.LANCZOS))
    maps = result.maps[place].cpu().numpy().reshape(-1, *result.maps.shape[-2:])
    panels = [pixels]
    for n, values in enumerate(maps):
        unit = scale_positive(resize_to_frame(values, (height, width)), CLIP)
        panel = overlay_map(pixels, unit)
        if boxes is not None:
            _draw(panel, boxes[place][n], (full.shape[0], full.shape[1]))
        panels.append(panel)
    picture = Pillow.fromarray(np.concatenate(panels, 1))
    if save is not None:
        save_picture(Path(save), picture)
    return picture


def _check_arguments(image: Any, result: Any, boxes: Any) -> None:
    """Raise TypeError or UserError unless they are one image, its maps and its boxes."""
    from pipeline.api.explaining import Explained
    from pipeline.api.localizing import Localized

    order = "show(image, result): first the image, then what explain returned for it"
    if isinstance(image, Explained):
        raise TypeError(f"{order}; they are swapped")
    if not isinstance(result, Explained):
        hint = "; boxes of localize are given as boxes=" if isinstance(result, Localized) else ""
        raise TypeError(f"{order}; got {type(result).__name__} for the result{hint}")
    count = len(image) if isinstance(image, list | tuple) or _is_batch(image) else 1
    if isinstance(image, list | tuple) or count > 1:
        raise UserError(
            f"image: {count} images, and show draws one: show(images[0], result, place=0)"
        )
    if boxes is None:
        return
    if not isinstance(boxes, Localized):
        raise TypeError(f"boxes: expected what localize returned, got {type(boxes).__name__}")
    if len(boxes) != len(result):
        raise UserError(
            f"boxes: of {len(boxes)} images, and {len(result)} were explained; give what "
            "localize(result) returned"
        )


def _is_batch(image: Any) -> bool:
    return hasattr(image, "ndim") and image.ndim == 4


def _find_place(image: Any, result: Explained, place: int | None) -> int:
    """Return which of the images of a result an image is; raise UserError where nobody knows."""
    if place is not None:
        if not -len(result) <= place < len(result):
            raise UserError(f"place={place}: {len(result)} images were explained")
        return place
    names = [info.name for info in result.images]
    if isinstance(image, str | os.PathLike) and str(image) in names:
        return names.index(str(image))
    named = isinstance(image, str | os.PathLike) and Path(names[0]).is_file()
    if len(result) > 1 or named:
        raise UserError(
            f"image: {len(result)} images were explained ({', '.join(names[:3])}), and this is "
            "none of them by its path; say which: place=0"
        )
    return 0


def _read(image: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Return an image as pixels; a tensor of floats scaled from its least to its greatest value."""
    if not is_network_input(image):
        return open_photograph(image, "image").read()
    values = image.detach().float().cpu().numpy()
    values = values[0] if values.ndim == 4 else values
    span = max(float(values.max() - values.min()), 1e-9)
    grey = (255 * (values - values.min()) / span).round().astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(grey.repeat(3, 2) if grey.shape[2] == 1 else grey[:, :, :3])


def _draw(panel: np.ndarray, prediction: Prediction, size: tuple[int, int]) -> None:
    """Draw the boxes of a class on its panel, in place; the best with the thickest line."""
    scale = np.array([panel.shape[1] / size[1], panel.shape[0] / size[0]] * 2)
    for n, box in enumerate(prediction.boxes):
        draw_box(panel, box * scale, GREEN, 1 if n else 2)
