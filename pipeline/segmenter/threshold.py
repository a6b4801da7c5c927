"""Threshold: segment a map at a fraction of its maximum, and put a box around each component.

    mask = map >= threshold * max(map)        map min-max scaled to [0, 1] at the image's size

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 3.2:
20 % of the maximum and the bounding box of the largest connected component. By default the fraction
is chosen for each map (`auto.py`), as the best one depends on the method and the data: by the rule
`auto`, or by the rule `size` for the maps of a localization head.

`at` says what the threshold means:

    fraction   a fraction of the maximum of the scaled map
    quantile   the share of the image that lies below: 0.75 keeps the highest quarter
    otsu       unused: the threshold separates the map's values best into two classes (Otsu, "A
               Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 9, 1979), in
               256 levels
    value      a value of the raw map, as the method computed it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from pipeline.ops.maps import boxes_to_image, frame_size, min_max, upsample, upsample_raw
from pipeline.ops.rle import encode_rle
from pipeline.segmenter.components import ComponentRules, find_components
from pipeline.segmenter.parts import Parts
from pipeline.types import Boxes, Example, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32

At = Literal["fraction", "quantile", "otsu", "value"]
Source = Literal["fixed", "oracle"]
MIN_SAMPLED_SIDE = 64  # pixels of a side that a quantile is computed from, where there are so many


@dataclass(frozen=True)
class Threshold:
    """A segmenter that thresholds the map.

    A box's score is the mean (or the peak) of the scaled map inside its component, times the
    probability of the class by the network.

    Args:
        threshold: a number, whose meaning `at` defines; auto: chosen for each map; size: chosen for
            each map of a localization head; validation: the one that stage calibrate chooses.
        components: largest gives one box, all may give several.
        at: what the threshold means, see the module.
        share: of all components, keep those with at least this share of the largest one's pixels.
        merge: of all components, merge two if the smaller box has at least this share of its area
            in the other; null: merge none.
        connectivity: 8 if diagonal neighbours are connected, else 4.
        score: mean or peak of the map inside a component.
        masks: whether the components are returned too, as COCO RLE.
        probability: a class with a lower probability has no box.
        parts: how components are parted into objects that touch: none; peaks, by the peaks of the
            map; necks, where the component is narrow (parts.py).
        depth: how far the map or the width must fall between two parts, as a share of the lower of
            their peaks, above 0.
        threshold_source: how a number was found: fixed beforehand; or oracle, where it was chosen
            by looking at scored images, as with the slider of the report. Boxes are the same, and
            all numbers at it are named oracle.

    Raises:
        ValueError: An argument is out of its range.
    """

    threshold: float | Literal["auto", "size", "validation"] = "auto"
    components: Literal["largest", "all"] = "largest"
    at: At = "fraction"
    share: float = 0.0
    merge: float | None = None
    connectivity: Literal[4, 8] = 8
    score: Literal["mean", "peak"] = "mean"
    masks: bool = False
    probability: float = 0.0
    parts: Parts = "none"
    depth: float = 0.3
    threshold_source: Source = "fixed"

    needs_image = False

    def __post_init__(self) -> None:
        check_threshold(self.threshold, self.at)
        check_threshold_source(self.threshold_source, self.threshold, self.at)
        check_component_shares(self.share, self.merge)
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability}: expected a number from 0 to 1")
        if not 0 < self.depth <= 1:
            raise ValueError(f"depth={self.depth}: expected a share of a peak, above 0, to 1")

    @property
    def threshold_info(self) -> Mapping[str, Any]:
        """The threshold as metrics.json names it."""
        if self.at != "fraction":
            rule = self.at if self.at == "otsu" else f"{self.at} {self.threshold:g}"
            return {"kind": "auto", "value": None, "rule": rule}
        if self.threshold == "size":
            return {"kind": "auto", "value": None, "rule": "size"}
        if isinstance(self.threshold, str):
            return {"kind": self.threshold, "value": None}
        if self.threshold_source == "oracle":
            return {"kind": "oracle", "value": self.threshold, "source": "given"}
        return {"kind": "fixed", "value": self.threshold}

    def with_threshold(self, value: float) -> Threshold:
        """Return the same segmenter with a number for its threshold."""
        return replace(self, threshold=value)

    def __call__(self, saliency: SaliencyMap, example: Example | None = None) -> Boxes:
        """Segment a map into boxes.

        Args:
            saliency: the map.
            example: not used.

        Returns:
            Boxes in pixels of the original image, highest score first, equal ones in raster order.
            The box of a constant map is the complete image, with score 0.

        Raises:
            ValueError: The threshold is `validation` and has not been given its number.
        """
        if saliency.score < self.probability:
            return make_empty_boxes(saliency)
        frame = frame_size(saliency.size)
        if self.at == "value":
            raw = upsample_raw(saliency.raw(), frame)
            fraction = _convert_to_fraction(raw, self.threshold)
            return self.segment(min_max(raw), saliency, fraction)
        return self.segment(upsample(saliency.raw(), frame), saliency)

    def segment(
        self,
        scaled: Float32[np.ndarray, "H W"],
        saliency: SaliencyMap,
        fraction: float | None = None,
        scores: Float32[np.ndarray, "H W"] | None = None,
    ) -> Boxes:
        """Segment a scaled map into boxes.

        Args:
            scaled: the map to segment, in [0, 1], at the size that `frame_size` gives.
            saliency: the map that it was computed from: its image, class and probability.
            fraction: the threshold; None: as the arguments of the segmenter define it.
            scores: the map that boxes are scored by, in [0, 1]; None: `scaled`.

        Returns:
            Boxes as from a call of the segmenter.
        """
        if fraction is None:
            fraction = self.choose_fraction(scaled)
        mask = (scaled >= _round_up_to_float32(fraction if scaled.any() else 0)).view(np.uint8)
        rules = ComponentRules(
            keep=self.components,
            share=self.share,
            merge=self.merge,
            connectivity=self.connectivity,
            score=self.score,
            parts=self.parts,
            depth=self.depth,
        )
        components = find_components(mask, scaled if scores is None else scores, rules)
        frame, size = (scaled.shape[0], scaled.shape[1]), saliency.size
        values = np.array([component.score for component in components.kept]) * saliency.score
        order = np.argsort(-values.astype(np.float32), kind="stable")
        boxes = np.array([components.kept[n].box for n in order])
        masks = [encode_rle(components.mask(n), size) for n in order] if self.masks else None
        return Boxes(
            saliency.id,
            saliency.explained,
            boxes_to_image(boxes, frame, size),
            values[order].astype(np.float32),
            size,
            masks,
        )

    def choose_fraction(self, scaled: Float32[np.ndarray, "H W"]) -> float:
        """Choose the threshold of a map, as a fraction of the maximum, at most 1.

        Args:
            scaled: the map in [0, 1].

        Raises:
            ValueError: The threshold is `validation` and has not been given its number.
        """
        if self.at == "quantile":
            return compute_quantile(scaled, require_number(self.threshold))
        if self.at == "otsu":
            return compute_otsu_threshold(scaled)
        if self.threshold == "auto":
            from pipeline.segmenter.auto import auto_threshold

            return auto_threshold(scaled)
        if self.threshold == "size":
            from pipeline.segmenter.auto import size_threshold

            return size_threshold(scaled)
        return require_number(self.threshold)


def make_empty_boxes(saliency: SaliencyMap) -> Boxes:
    """Return no boxes, for a class whose probability is too low."""
    none = np.zeros((0, 4), np.float32)
    return Boxes(saliency.id, saliency.explained, none, none[:, 0], saliency.size, [])


def check_threshold(threshold: float | str, at: At = "fraction") -> None:
    """Raise ValueError unless a threshold is in the range that `at` allows."""
    if isinstance(threshold, str):
        if at != "fraction" and (at, threshold) != ("otsu", "auto"):
            raise ValueError(f"threshold={threshold}: at={at} expects a number")
    elif at == "value":
        if not np.isfinite(threshold):
            raise ValueError(f"threshold={threshold}: expected a number")
    elif not 0 <= threshold <= 1:
        base = "of the maximum" if at == "fraction" else "of the image"
        raise ValueError(f"threshold={threshold}: expected a fraction {base}, from 0 to 1")


def check_threshold_source(source: Source, threshold: float | str, at: At = "fraction") -> None:
    """Raise ValueError where a threshold that no one gave is said to be chosen by looking."""
    if source not in ("fixed", "oracle"):
        raise ValueError(f"threshold_source={source}: expected fixed or oracle")
    if source == "oracle" and (isinstance(threshold, str) or at != "fraction"):
        raise ValueError(
            f"threshold_source=oracle: it says that a number was chosen on scored images, and "
            f"threshold={threshold} at={at} was not; leave it away"
        )


def check_component_shares(share: float, merge: float | None) -> None:
    """Raise ValueError unless the shares by which components are kept and merged are in range."""
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: expected a share of the largest component, from 0 to 1")
    if merge is not None and not 0 < merge <= 1:
        raise ValueError(f"merge={merge}: expected a share of the smaller box, above 0, to 1")


def require_number(threshold: float | str) -> float:
    """Return a threshold; raise ValueError where it has not been given its number."""
    if isinstance(threshold, str):
        raise ValueError(
            f"threshold={threshold}: expected a number; set it by with_threshold(value)"
        )
    return threshold


def compute_quantile(values: Float32[np.ndarray, "H W"], share: float) -> float:
    """Compute the value that a share of the pixels lies below.

    A large map is sampled in steps, as upsampled values change little between neighbours.

    Args:
        values: of the map.
        share: from 0 to 1.
    """
    step = max(1, min(values.shape) // MIN_SAMPLED_SIDE)
    sample = values[::step, ::step].ravel()
    position = min(int(share * len(sample)), len(sample) - 1)
    return float(np.partition(sample, position)[position])


def compute_otsu_threshold(values: Float32[np.ndarray, "H W"]) -> float:
    """Compute Otsu's threshold of values in [0, 1], in 256 levels."""
    coarse = cv2.convertScaleAbs(values, alpha=255)
    level, _ = cv2.threshold(coarse, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return float(level + 0.5) / 255  # OpenCV's upper class is above the level, after rounding


def _convert_to_fraction(raw: Float32[np.ndarray, "H W"], value: float | str) -> float:
    """Convert a raw value to a fraction of the scaled map's maximum, clipped to [0, 1]."""
    low, high = float(raw.min()), float(raw.max())
    return min(1.0, max(0.0, (require_number(value) - low) / (high - low))) if high > low else 0.0


def _round_up_to_float32(threshold: float) -> np.float32:
    """Round a threshold up to float32.

    A float32 map is then compared as exactly as in float64, in a fraction of the time; rounded to
    the nearest, 0.3 would be another number in float32.
    """
    level = np.float32(threshold)
    return level if float(level) >= threshold else np.nextafter(level, np.float32(2))
