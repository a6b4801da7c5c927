"""Options of stage picture."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option

KINDS = ("map", "over", "grey", "signed", "signed_over", "colour")


@dataclass
class PictureOptions:
    """How maps are drawn."""

    side: int = option(512, "the longer side of a picture, in pixels", low=32, high=16_384)
    panel: int = option(224, "and of one on a sheet", low=32, high=4096)
    columns: int = option(8, "side by side on a sheet at most; more go on below", low=2, high=1000)
    clip: float = option(
        99.0,
        "the percentile of a map that is the brightest; 100: its maximum",
        low=50,
        high=100,
    )
    images: int | None = option(
        None, "at most, evenly chosen, get pictures; null: all", low=1, high=1_000_000
    )
    kinds: list[str] = option(
        ["map", "over", "grey", "signed", "colour"],
        "map | over | grey | signed | signed_over | colour: which files to write; "
        "empty: sheets alone",
        choices=KINDS,
        item="picture",
    )
    shown: str = option(
        "auto",
        "on sheets: auto | map | over | grey | signed | signed_over | colour",
        choices=("auto", *KINDS),
    )
    overview: int = option(12, "images at most on the one sheet of several", low=0, high=1000)
