"""Options of stage calibrate."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class CalibrateOptions:
    """The boxes that the threshold is chosen on."""

    boxes: str | None = option(None, "COCO JSON of a few images that you drew boxes on")
