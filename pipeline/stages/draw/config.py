"""Options of stage draw."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class DrawOptions:
    """How boxes are drawn on images."""

    side: int = option(1024, "the longer side of a picture at most, in pixels", low=32, high=16_384)
