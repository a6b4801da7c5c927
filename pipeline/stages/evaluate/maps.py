"""What a map is worth against annotated boxes, and the thresholds that it is scored at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.metric.components import threshold_index
from pipeline.metric.max_box_acc import Protocol, map_curves
from pipeline.metric.measurement import FIXED_THRESHOLD, choose_frame
from pipeline.results.thresholds import threshold_for_image, validation_threshold_info
from pipeline.segmenter.auto import auto_threshold
from pipeline.types import Curves, Cut, Size

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class MeasuredMap:
    """Curves of a map, and its IoU at each of the thresholds that it is cut at."""

    curves: Curves
    cuts: tuple[float, ...]


@dataclass(frozen=True)
class MapScale:
    """How maps are measured: by which protocol, and at which thresholds beside the boxes' own."""

    protocol: Protocol
    cuts: tuple[Cut, ...]

    def choose_frame(self, size: Size) -> Size:
        """Return the size at which maps of an image of `size` are measured."""
        return choose_frame(size, self.protocol)

    def measure(
        self, scaled: Float[np.ndarray, "h w"], true: Float[np.ndarray, "M 4"], size: Size, id: str
    ) -> MeasuredMap:
        """Measure a map in [0, 1] over the whole image `id` of `size`, against its true boxes."""
        curves = map_curves(scaled, true, size, self.protocol)
        if not self.cuts:
            return MeasuredMap(curves, ())
        auto = auto_threshold(np.asarray(scaled, np.float32))
        values = (_cut_value(cut.info, auto, id) for cut in self.cuts)
        return MeasuredMap(curves, tuple(iou_at(curves, value) for value in values))


def list_cuts(used: str, ious: Sequence[float], validation: Mapping[str, Any] | None) -> list[Cut]:
    """Return what maps could also have been cut at without a look at the scored images' boxes.

    Args:
        used: the kind of threshold that the boxes were cut at, which is left out.
        ious: the IoUs that are scored.
        validation: thresholds of stage calibrate, if there are some: by IoU, and their source.
    """
    values = {"fixed": FIXED_THRESHOLD, "auto": None}
    cuts = [
        Cut({"kind": kind, "value": value}, tuple(ious))
        for kind, value in values.items()
        if kind != used
    ]
    if validation is None or validation["source"] is None:
        return cuts
    for iou in ious:
        chosen = validation["thresholds"][f"{iou:g}"]
        cuts.append(Cut(validation_threshold_info(chosen, validation["source"]), (iou,)))
    return cuts


def _cut_value(info: Mapping[str, Any], auto: float, id: str) -> float:
    """Return the threshold of an image."""
    if info["kind"] == "auto":
        return auto
    value = info["value"]
    return threshold_for_image(value if isinstance(value, list) else [value], id)


def iou_at(curves: Curves, value: float) -> float:
    """Return the IoU of the largest component at a threshold, a multiple of a thousandth."""
    return float(curves.largest[threshold_index(value)])
