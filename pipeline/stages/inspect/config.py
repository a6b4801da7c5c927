"""Options of stage inspect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.engine.options import option


@dataclass
class InspectOptions:
    """Which views of a network are made, and how."""

    views: list[str] = option(
        ["classes", "channels", "features", "first_order", "filters", "top5"],
        "classes | channels | features | first_order | filters | top5, or dream, as well",
        group="visualize",
        item="view",
        required=True,
        distinct=True,
    )
    classes: list[Any] = option([], "by name; empty: nine, evenly of all")
    layer: str = option("last", "last | below | a path: whose feature maps")
    channels: list[int] = option([], "of them; empty: the strongest")
    maps: int = option(6, "so many of the strongest", low=1, high=1000)
    images: int = option(
        256,
        "of the split, evenly, which the strongest patches are looked for in",
        low=1,
        high=10_000_000,
    )
    few: int = option(4, "of these, for first_order, top5 and dream", low=1, high=1000)
    style: str = option(
        "plain",
        "plain: the paper's L2 alone | pretty: jitter, blur, variation as well",
        choices=("plain", "pretty"),
    )
    steps: int = option(200, "of the ascent", low=1, high=100_000)
    rate: float = option(
        0.1,
        "its first step, a root mean square in standard deviations of pixels",
        low=1e-6,
        high=1000,
    )
    noise: float = option(
        0.0, "that the ascent starts from, in the same unit; 0: the mean image", low=0, high=100
    )
    penalty: float | None = option(
        None, "lambda of the L2 form; null: what suits the style", low=0, high=1000
    )
    jitter: int | None = option(
        None, "pixels, for pretty; null: a sixteenth of the side", low=0, high=1000
    )
    blur: float | None = option(
        None, "its standard deviation in pixels at first, for pretty", low=0, high=100
    )
    variation: float | None = option(
        None, "how much total variation costs, for pretty", low=0, high=1000
    )
    directions: int = option(4, "random ones of first_order", low=1, high=1000)
    side: int = option(512, "the longer side of a dream, in pixels", low=32, high=16_384)
    octaves: int = option(
        5, "of a dream, each 1.4 times as large as the one before", low=1, high=20
    )
    dream_steps: int = option(20, "of each octave", low=1, high=100_000)
    dream_rate: float = option(0.06, "its first step, in the unit of rate", low=1e-6, high=1000)
