"""Threshold: keep what is at least a fraction of the map's maximum, box the components.

    mask = map >= threshold * max(map)        map min-max scaled to [0, 1] at the image's size

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 3.2:
20 % of the maximum and the bounding box of the largest connected component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from pipeline.records import Boxes, Example, SaliencyMap
from pipeline.segmenter.frame import frame_size, to_image, upsampled

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int32, UInt8


@dataclass(frozen=True)
class Threshold:
    """`components`: the largest one (8-connected, the first of equals), or all of them.

    A box's score is the mean of the scaled map inside its component, times the probability that
    the network gives the class.
    """

    threshold: float = 0.2
    components: Literal["largest", "all"] = "largest"

    needs_image = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"threshold={self.threshold}: expected a fraction of the maximum, from 0 to 1"
            )

    @property
    def stands_on(self) -> Mapping[str, Any]:
        return {"kind": "fixed", "value": self.threshold}

    def __call__(self, saliency: SaliencyMap, example: Example | None = None) -> Boxes:
        """Boxes in pixels of the original image, best score first, equals in raster order.

        A constant map has no telling part: its box is the whole image, with score 0.
        """
        frame = frame_size(saliency.size)
        scaled = upsampled(saliency.raw(), frame)
        level = _not_below(self.threshold) if scaled.any() else np.float32(0)
        mask = (scaled >= level).view(np.uint8)
        boxes, means = (_largest if self.components == "largest" else _all)(mask, scaled)
        scores = (means * saliency.score).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        return Boxes(
            saliency.id,
            saliency.explained,
            to_image(boxes[order], frame, saliency.size),
            scores[order],
            saliency.size,
        )


def _not_below(threshold: float) -> np.float32:
    """The least float32 that reaches the threshold: a float32 map is then cut as exactly as in
    float64, where 0.3 is not what it is in float32, at a fraction of the time."""
    level = np.float32(threshold)
    return level if float(level) >= threshold else np.nextafter(level, np.float32(2))


# OpenCV's statistics cost five times its labelling; a map has few components, and up to this many
# are measured one by one.
FEW = 10


def _labels(mask: UInt8[np.ndarray, "H W"]) -> tuple[int, Int32[np.ndarray, "H W"]]:
    """8-connected components, numbered from 1 in raster order of their first pixels, as SAUF does
    and OpenCV's default does not."""
    count, labels = cv2.connectedComponentsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_SAUF)
    return count - 1, labels


def _largest(
    mask: UInt8[np.ndarray, "H W"], scaled: Float32[np.ndarray, "H W"]
) -> tuple[Int32[np.ndarray, "1 4"], Float64[np.ndarray, "1"]]:
    """Box and mean of the component with most pixels, the first of equals."""
    count, labels = _labels(mask)
    if count > 1:
        areas = (
            np.array([np.count_nonzero(labels == n) for n in range(1, count + 1)])
            if count <= FEW
            else np.bincount(labels.ravel())[1:]
        )
        mask = (labels == np.argmax(areas) + 1).view(np.uint8)
    box, mean = _measured(mask, scaled)
    return np.array([box], np.int32), np.array([mean])


def _all(
    mask: UInt8[np.ndarray, "H W"], scaled: Float32[np.ndarray, "H W"]
) -> tuple[Int32[np.ndarray, "N 4"], Float64[np.ndarray, "N"]]:
    """Box and mean of every component, in raster order of their first pixels."""
    count, labels = _labels(mask)
    if count <= FEW:
        members = ((labels == n).view(np.uint8) for n in range(1, count + 1))
        boxes, means = zip(*(_measured(member, scaled) for member in members), strict=True)
        return np.array(boxes, np.int32), np.array(means)
    _, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask, 8, cv2.CV_32S, cv2.CCL_SAUF
    )
    sums = np.bincount(labels.ravel(), scaled.ravel())[1:]
    found = stats[1:, :4].copy()
    found[:, 2:] += found[:, :2]
    return found, sums / stats[1:, cv2.CC_STAT_AREA]


def _measured(
    member: UInt8[np.ndarray, "H W"], scaled: Float32[np.ndarray, "H W"]
) -> tuple[tuple[int, int, int, int], float]:
    """Half-open box of a mask, and the mean of the map in it."""
    x, y, width, height = cv2.boundingRect(member)
    part = slice(y, y + height), slice(x, x + width)
    return (x, y, x + width, y + height), cv2.mean(scaled[part], member[part])[0]
