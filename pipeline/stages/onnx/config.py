"""Options of stage onnx."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class OnnxOptions:
    """How the network becomes an ONNX file."""

    threshold: float | None = option(
        None,
        "of the box, a fraction of the map's maximum; null: as the run's segmenter",
        low=0,
        high=1,
    )
    opset: int = option(20, "version of ONNX's operators", low=18, high=23)
