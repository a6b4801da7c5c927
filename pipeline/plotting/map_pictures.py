"""Pictures of maps: which kind suits a map, the map drawn as that kind, and its colour bars."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from pipeline.plotting import colours
from pipeline.plotting.sheet import Scale

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8


def is_signed(values: Float32[np.ndarray, "h w"]) -> bool:
    """Return whether a map has evidence against the class: negative values."""
    return bool((values < 0).any())


def choose_kind(values: Float32[np.ndarray, "h w"], input_height: int) -> str:
    """Return the kind of picture that suits a map: a coarse map over the image, a fine map alone.

    Args:
        values: the map.
        input_height: the height of the network's input in pixels.

    Returns:
        `over`, `signed` or `map`, as `draw_map` takes them.
    """
    if 2 * values.shape[0] < input_height:
        return "over"
    return "signed" if is_signed(values) else "map"


def draw_map(
    values: Float32[np.ndarray, "h w"], kind: str, image: UInt8[np.ndarray, "H W 3"], clip: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a map at the size of its image.

    Args:
        values: the map, at any scale.
        kind: `map`, `over`, `grey`, `signed` or `signed_over`.
        image: the image.
        clip: the percentile of the map that is brightest.
    """
    scaled = colours.resize_to_frame(values, (image.shape[0], image.shape[1]))
    if kind == "signed":
        return colours.apply_diverging(colours.scale_signed(scaled, clip))
    if kind == "signed_over":
        return colours.overlay_signed_map(image, colours.scale_signed(scaled, clip))
    unit = colours.scale_positive(scaled, clip)
    if kind == "over":
        return colours.overlay_map(image, unit)
    return colours.apply_grey(unit) if kind == "grey" else colours.apply_inferno(unit)


def list_scales(kinds: Collection[str], clip: float) -> list[Scale]:
    """Return the colour bars for the kinds of pictures that are on a sheet.

    Args:
        kinds: of the pictures.
        clip: the percentile of a map that is brightest.
    """
    up = np.linspace(0, 1, 120, dtype=np.float32)[None]
    high = f"brightest {100 - clip:g} % of a map" if clip < 100 else "a map's maximum"
    scales = []
    if {"map", "over"} & set(kinds):
        scales.append(Scale(colours.apply_inferno(up), "0", high))
    if "grey" in kinds:
        scales.append(Scale(colours.apply_grey(up), "0", high))
    if {"signed", "signed_over"} & set(kinds):
        scales.append(Scale(colours.apply_diverging(2 * up - 1), "against", "for the class"))
    return scales
