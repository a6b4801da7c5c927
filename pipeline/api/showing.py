"""A picture of images with their maps and boxes, for a notebook or a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from pipeline.api.images import is_network_input, open_photograph
from pipeline.errors import UserError
from pipeline.ops.maps import scale_size
from pipeline.ops.text import format_probability, printable
from pipeline.plotting.boxes import draw_box
from pipeline.plotting.fonts import text_width
from pipeline.plotting.map_pictures import choose_kind, draw_map, list_scales
from pipeline.plotting.picture_files import find_picture_format, save_picture
from pipeline.plotting.sheet import MIN_CELL_WIDTH, SMALL, ContactSheet, Row, shorten_to_width

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from pipeline.api.explaining import Explained
    from pipeline.api.images import Images
    from pipeline.api.localizing import Localized, Prediction

LONGER_SIDE = 320  # of each panel, in pixels
COLUMNS = 4  # panels side by side at most
CLIP = 99.0  # percentile of a map that has the brightest colour, as on sheets of stage picture
GREEN = (46, 204, 64)


def show(
    images: Images,
    result: Explained,
    place: int | Sequence[int] | None = None,
    *,
    boxes: Localized | None = None,
    save: str | os.PathLike[str] | None = None,
    longer_side: int = LONGER_SIDE,
) -> Pillow.Image:
    """Draw images beside their maps, a row for each image and a panel for each class.

    Above each panel stands its class with the probability; of a score of the caller's own its
    value. A coarse map lies over the image. A fine one stands alone: evidence for the class in red
    and against it in blue where it has both. The sheets of `+experiment=explain` are drawn so.

    Args:
        images: a photograph, or several; or tensors [3, H, W] of floats, which are drawn by their
            own range.
        result: what `explain` returned.
        place: which of the images of `result` it is, or each is; None: those of their paths, or
            all, in the same order.
        boxes: what `localize` returned for `result`: they are drawn on the panels.
        save: a file that the picture is also written to, in the format of its suffix: .png, .jpg,
            .jpeg, .webp, .bmp, .tif or .tiff.
        longer_side: of each panel in pixels.

    Returns:
        A Pillow image, which a notebook shows.

    Raises:
        UserError: it is not known which images of `result` these are, or `save` has another
            suffix.
        TypeError: `images` and `result` are swapped, or of other types.
    """
    _check_arguments(images, result, boxes)
    if save is not None:
        find_picture_format(Path(save))  # before anything is drawn
    several = _list_images(images)
    rows, kinds = [], set[str]()
    for image, at in zip(several, _find_places(several, result, place), strict=True):
        row, of_row = _draw_row(_read(image), result, at, boxes, longer_side)
        rows.append(row)
        kinds |= of_row
    sheet = ContactSheet(
        title="",
        note="",
        columns=[""] * len(rows[0].panels),
        rows=rows,
        width=max(panel.shape[1] for row in rows for panel in row.panels),
        legend=list_scales(kinds, CLIP),
        max_columns=COLUMNS,
    )
    picture = Pillow.fromarray(sheet.draw())
    if save is not None:
        save_picture(Path(save), picture)
    return picture


def _draw_row(
    image: UInt8[np.ndarray, "H W 3"],
    result: Explained,
    place: int,
    boxes: Localized | None,
    longer_side: int,
) -> tuple[Row, set[str]]:
    """Draw an image and its maps; return the row, and the kinds of its pictures."""
    full = (image.shape[0], image.shape[1])
    height, width = scale_size(full, longer_side)
    pixels = np.array(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.LANCZOS))
    maps = result.maps[place].float().cpu().numpy().reshape(-1, *result.maps.shape[-2:])
    panels, kinds = [pixels], set()
    for n, values in enumerate(maps):
        kind = choose_kind(values, result.size[0])
        kinds.add(kind)
        panel = draw_map(values, kind, pixels, CLIP)
        if boxes is not None:
            panel = np.ascontiguousarray(panel)
            _draw_boxes(panel, boxes[place][n], full)
        panels.append(panel)
    captions = ["image", *_list_captions(result, place, max(width, MIN_CELL_WIDTH))]
    name = printable(Path(result.images[place].name).name)
    return Row(name, result.method, panels, captions), kinds


def _list_captions(result: Explained, place: int, width: int) -> list[str]:
    """Return the class of each map of an image with its probability, no wider than a panel."""
    classes = result.classes[place].reshape(-1).tolist()
    labels = result.labels[place]
    captions = []
    for index, label in zip(classes, labels if isinstance(labels, list) else [labels], strict=True):
        if result.answers == "scores":
            value = f"{float(result.logits[place, index]):.4g}"
        else:
            value = format_probability(float(result.probabilities[place, index]))
            value += ", predicted" * (index == int(result.logits[place].argmax()))
        room = width - text_width(f", {value}", SMALL)
        captions.append(f"{shorten_to_width(printable(label), SMALL, room)}, {value}")
    return captions


def _check_arguments(images: Any, result: Any, boxes: Any) -> None:
    """Raise TypeError or UserError unless they are images, their maps and their boxes."""
    from pipeline.api.explaining import Explained
    from pipeline.api.localizing import Localized

    order = "show(images, result): first the image, then what explain returned for it"
    if isinstance(images, Explained):
        raise TypeError(f"{order}; they are swapped")
    if not isinstance(result, Explained):
        hint = "; boxes of localize are given as boxes=" if isinstance(result, Localized) else ""
        raise TypeError(f"{order}; got {type(result).__name__} for the result{hint}")
    if boxes is None:
        return
    if not isinstance(boxes, Localized):
        raise TypeError(f"boxes: expected what localize returned, got {type(boxes).__name__}")
    if len(boxes) != len(result):
        raise UserError(
            f"boxes: of {len(boxes)} images, and {len(result)} were explained; give what "
            "localize(result) returned"
        )


def _list_images(images: Any) -> list[Any]:
    """Return one image, several, or a batch as a list; raise UserError where there is none."""
    is_batch = hasattr(images, "ndim") and images.ndim == 4
    several = list(images) if is_batch or isinstance(images, list | tuple) else [images]
    if not several:
        raise UserError("images: none given")
    return several


def _find_places(
    images: Sequence[Any], result: Explained, place: int | Sequence[int] | None
) -> list[int]:
    """Return which of the images of a result each image is.

    Raises:
        UserError: nobody knows, or the result has no such image.
    """
    count = len(result)
    if place is not None:
        places = [int(place)] if isinstance(place, Integral) else [int(each) for each in place]  # type: ignore[union-attr]
        if len(places) != len(images):
            raise UserError(
                f"place: {len(places)} for {len(images)} image{'s' * (len(images) > 1)}; give a "
                "place for each, as place=[0, 1]"
            )
        for each in places:
            if not -count <= each < count:
                raise UserError(f"place={each}: {count} images were explained")
        return places
    names = [info.name for info in result.images]
    paths = [str(image) if isinstance(image, str | os.PathLike) else "" for image in images]
    if paths == names:
        return list(range(count))
    if all(path in names for path in paths):
        return [names.index(path) for path in paths]
    other_files = any(paths) and any(Path(name).is_file() for name in names)
    if len(images) != count or other_files:
        raise UserError(
            f"images: {count} image{' was' if count == 1 else 's were'} explained "
            f"({', '.join(names[:3])}), and {'these are' if len(images) > 1 else 'this is'} none "
            "of them by path; say which: place=0, or place=[0, 1] of several"
        )
    return list(range(count))


def _read(image: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Return an image as pixels; a tensor of floats scaled from its least to its greatest value."""
    if not is_network_input(image):
        return open_photograph(image, "image").read()
    values = image.detach().float().cpu().numpy()
    values = values[0] if values.ndim == 4 else values
    span = max(float(values.max() - values.min()), 1e-9)
    grey = (255 * (values - values.min()) / span).round().astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(grey.repeat(3, 2) if grey.shape[2] == 1 else grey[:, :, :3])


def _draw_boxes(panel: np.ndarray, prediction: Prediction, size: tuple[int, int]) -> None:
    """Draw the boxes of a class on its panel, in place; the best with the thickest line."""
    scale = np.array([panel.shape[1] / size[1], panel.shape[0] / size[0]] * 2)
    for n, box in enumerate(prediction.boxes):
        draw_box(panel, box * scale, GREEN, 1 if n else 2)
