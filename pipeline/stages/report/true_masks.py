"""The annotated masks that the page shows, as stage evaluate left them: outlines, by image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.formats.files import read_json

FILE = "true_masks.json"  # of stage evaluate, where there are masks


def read_true_masks(evaluation: Path, positions: Mapping[str, int]) -> dict[int, list[list[Any]]]:
    """Return the annotated masks of images that are shown, by position.

    Args:
        evaluation: the result of stage evaluate.
        positions: of the images that are shown, by their names.

    Returns:
        For each image with masks a list of class, width and height of the frame, and the outlines
        of the objects and of what is ignored, as SVG writes paths.
    """
    if not (evaluation / FILE).is_file():
        return {}
    masks: dict[int, list[list[Any]]] = {}
    keys = ("class", "width", "height", "object", "ignored")
    for record in read_json(evaluation / FILE):
        if record["id"] in positions:
            masks.setdefault(positions[record["id"]], []).append([record[key] for key in keys])
    return masks
