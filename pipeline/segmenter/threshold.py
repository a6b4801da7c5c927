"""Threshold: keep what is at least a fraction of the map's maximum, box the components.

    mask = map >= threshold * max(map)        map min-max scaled to [0, 1] at the image's size

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 3.2:
20 % of the maximum and the bounding box of the largest connected component. By default each map
is cut at a fraction of its own (`auto.py`): which one is right hangs on the method and the data.

`at` says what the threshold is of:

    fraction   of the maximum (of the scaled map)
    quantile   so much of the image lies below: 0.75 keeps the highest quarter
    otsu       none: what parts the map's values best into two classes (Otsu, "A Threshold
               Selection Method from Gray-Level Histograms", IEEE Trans. SMC 9, 1979), in 256 levels
    value      of the raw map's own values, as the method made them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from pipeline.ops.maps import boxes_to_image, frame_size, min_max, upsample, upsample_raw
from pipeline.ops.rle import encode_rle
from pipeline.segmenter.components import parts_of
from pipeline.types import Boxes, Example, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32

At = Literal["fraction", "quantile", "otsu", "value"]


@dataclass(frozen=True)
class Threshold:
    """A box's score is the mean of the scaled map inside its component (or its peak), times the
    probability that the network gives the class."""

    threshold: float | Literal["auto", "validation"] = "auto"  # a number; validation: calibrate's
    components: Literal["largest", "all"] = "largest"  # one box, or several
    at: At = "fraction"  # of the maximum; or quantile, otsu, value (raw)
    share: float = 0.0  # all: those with this share of the largest's pixels
    merge: float | None = None  # all: boxes inside one another by so much become one
    connectivity: Literal[4, 8] = 8  # whether diagonal neighbours are connected
    score: Literal["mean", "peak"] = "mean"  # of the map inside a component
    masks: bool = False  # the components themselves too, as COCO RLE
    probability: float = 0.0  # of the class: below, it has no box

    needs_image = False

    def __post_init__(self) -> None:
        check_cut(self.threshold, self.at)
        check_parts(self.share, self.merge)
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability}: expected a number from 0 to 1")

    @property
    def threshold_info(self) -> Mapping[str, Any]:
        if self.at != "fraction":
            rule = self.at if self.at == "otsu" else f"{self.at} {self.threshold:g}"
            return {"kind": "auto", "value": None, "rule": rule}
        if isinstance(self.threshold, str):
            return {"kind": self.threshold, "value": None}
        return {"kind": "fixed", "value": self.threshold}

    def with_threshold(self, value: float) -> Threshold:
        return replace(self, threshold=value)

    def __call__(self, saliency: SaliencyMap, example: Example | None = None) -> Boxes:
        """Boxes in pixels of the original image, best score first, equals in raster order.

        A constant map has no telling part: its box is the whole image, with score 0.
        """
        if saliency.score < self.probability:
            return nothing(saliency)
        frame = frame_size(saliency.size)
        if self.at == "value":
            raw = upsample_raw(saliency.raw(), frame)
            return self.cut(min_max(raw), saliency, _between(raw, self.threshold))
        return self.cut(upsample(saliency.raw(), frame), saliency)

    def cut(
        self,
        scaled: Float32[np.ndarray, "H W"],
        saliency: SaliencyMap,
        level: float | None = None,
        scores: Float32[np.ndarray, "H W"] | None = None,
    ) -> Boxes:
        """Boxes of a map in [0, 1] at its frame, at `level` or where this cuts; scored by `scores`,
        or by itself."""
        if level is None:
            level = self.level(scaled)
        mask = (scaled >= _not_below(level if scaled.any() else 0)).view(np.uint8)
        found = parts_of(
            mask,
            scaled if scores is None else scores,
            keep=self.components,
            share=self.share,
            merge=self.merge,
            connectivity=self.connectivity,
            score=self.score,
        )
        frame, size = (scaled.shape[0], scaled.shape[1]), saliency.size
        values = np.array([one.score for one in found.parts]) * saliency.score
        order = np.argsort(-values.astype(np.float32), kind="stable")
        boxes = np.array([found.parts[n].box for n in order])
        masks = [encode_rle(found.mask(n), size) for n in order] if self.masks else None
        return Boxes(
            saliency.id,
            saliency.explained,
            boxes_to_image(boxes, frame, size),
            values[order].astype(np.float32),
            size,
            masks,
        )

    def level(self, scaled: Float32[np.ndarray, "H W"]) -> float:
        """The fraction of the maximum at which this map is cut, never above 1."""
        if self.at == "quantile":
            return quantile(scaled, number(self.threshold))
        if self.at == "otsu":
            return otsu(scaled)
        if self.threshold == "auto":
            from pipeline.segmenter.auto import auto_threshold

            return auto_threshold(scaled)
        return number(self.threshold)


def nothing(saliency: SaliencyMap) -> Boxes:
    """No box, of a class that the network does not see."""
    none = np.zeros((0, 4), np.float32)
    return Boxes(saliency.id, saliency.explained, none, none[:, 0], saliency.size, [])


def check_cut(threshold: float | str, at: At = "fraction") -> None:
    """Raises ValueError for a threshold that cannot be one."""
    if isinstance(threshold, str):
        if at != "fraction" and (at, threshold) != ("otsu", "auto"):
            raise ValueError(f"threshold={threshold}: at={at} expects a number")
    elif at == "value":
        if not np.isfinite(threshold):
            raise ValueError(f"threshold={threshold}: expected a number")
    elif not 0 <= threshold <= 1:
        what = "of the maximum" if at == "fraction" else "of the image"
        raise ValueError(f"threshold={threshold}: expected a fraction {what}, from 0 to 1")


def check_parts(share: float, merge: float | None) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: expected a share of the largest component, from 0 to 1")
    if merge is not None and not 0 < merge <= 1:
        raise ValueError(f"merge={merge}: expected a share of the smaller box, above 0, to 1")


def number(threshold: float | str) -> float:
    """A threshold that must have been chosen by now."""
    if isinstance(threshold, str):
        raise ValueError(f"threshold={threshold}: with_threshold(value) gives it its number")
    return threshold


def quantile(values: Float32[np.ndarray, "H W"], share: float) -> float:
    """The value below which so much of the map lies. A large map is looked at in steps: upsampled
    values change little from one pixel to the next."""
    step = max(1, min(values.shape) // 64)
    few = values[::step, ::step].ravel()
    at = min(int(share * len(few)), len(few) - 1)
    return float(np.partition(few, at)[at])


def otsu(values: Float32[np.ndarray, "H W"]) -> float:
    """Otsu's threshold of values in [0, 1]."""
    coarse = cv2.convertScaleAbs(values, alpha=255)
    level, _ = cv2.threshold(coarse, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return float(level + 0.5) / 255  # OpenCV takes what is greater, after rounding


def _between(raw: Float32[np.ndarray, "H W"], value: float | str) -> float:
    """A raw value as a fraction of the maximum; the maximum where it lies above."""
    low, high = float(raw.min()), float(raw.max())
    return min(1.0, max(0.0, (number(value) - low) / (high - low))) if high > low else 0.0


def _not_below(threshold: float) -> np.float32:
    """The least float32 that reaches the threshold: a float32 map is then cut as exactly as in
    float64, where 0.3 is not what it is in float32, at a fraction of the time."""
    level = np.float32(threshold)
    return level if float(level) >= threshold else np.nextafter(level, np.float32(2))
