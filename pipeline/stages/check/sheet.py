"""The contact sheet of a check: images of each class side by side, to see what does not fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.plotting.sheet import PAPER, ContactSheet, Row
from pipeline.stages.check.findings import name_class
from pipeline.stages.check.images import CheckedImages
from pipeline.stages.check.page import CELL, Pictures

MAX_COLUMNS = 10
MIN_COLUMNS = 3  # images of a class; with fewer the classes stand side by side


def select_sheet(labels: np.ndarray, is_read: np.ndarray, count: int) -> list[int]:
    """Return images for the contact sheet: as many of each class, evenly over its images.

    Of more classes than images, so many classes are shown, evenly over all.

    Args:
        labels: the class of each image; -1 where it has none.
        is_read: whether each image can be read; the others are not shown.
        count: of images at most.
    """
    readable = np.flatnonzero(is_read)
    present = np.unique(labels[readable])
    if not len(present) or not count:
        return []
    shown = present[_spread(len(present), count)]
    share = min(MAX_COLUMNS, count // len(shown))
    chosen: list[int] = []
    for label in shown:
        members = readable[labels[readable] == label]
        chosen += members[_spread(len(members), share)].tolist()
    return chosen


def _spread(count: int, wanted: int) -> np.ndarray:
    """Return at most so many positions, evenly over a number of things."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int))


def draw_sheet(
    images: CheckedImages, pictures: Pictures, chosen: Sequence[int], classes: Sequence[str]
) -> np.ndarray:
    """Draw the contact sheet, uint8 RGB.

    Args:
        images: of all splits.
        pictures: reads them.
        chosen: the images, by class.
        classes: the names of the classes.
    """
    by_class: dict[str, list[np.ndarray]] = {}
    for number in chosen:
        pixels = pictures.read(number)
        if pixels is not None:
            by_class.setdefault(name_class(images, number, classes), []).append(pixels)
    columns = max(map(len, by_class.values()), default=1)
    if columns < MIN_COLUMNS:
        panels = [(name, panel) for name, of_class in by_class.items() for panel in of_class]
        rows = [Row("", "", [panel for _, panel in panels])]
        names = [name for name, _ in panels]
    else:
        rows = [
            Row(name, "", [*of_class, *[_blank()] * (columns - len(of_class))])
            for name, of_class in by_class.items()
        ]
        names = [""] * columns
    return ContactSheet(
        title=f"{len(chosen)} of {len(images)} images, by class",
        note="evenly over the images of each class, in all splits",
        columns=names,
        rows=rows,
        width=CELL,
        legend=(),
        max_columns=MAX_COLUMNS,
    ).draw()


def _blank() -> np.ndarray:
    """Return a panel in the colour of the sheet."""
    return np.full((1, 1, 3), PAPER, np.uint8)
