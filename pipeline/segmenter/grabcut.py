"""GrabCut: segment the object by the map and by the colours of the image.

    surely object        map above its 95 % quantile      surely background   below its 30 %
    probably object      map above Otsu's threshold       probably background the rest
    mask                 cv2.grabCut of the image from these seeds, its largest component
    refined map          map_share * map + (1 - map_share) * mask, thresholded like other maps

GrabCut fits a mixture of Gaussians to the colours of the object and of the background, and cuts the
graph of pixels where this explains the image with the shortest edge (Rother, Kolmogorov and Blake,
"GrabCut", SIGGRAPH 2004). Seeds from a saliency map: Simonyan, Vedaldi and Zisserman, "Deep Inside
Convolutional Networks", ICLR-W 2014, section 3.2: foreground above the 95 % quantile, background
below the 30 %, the rest undecided.

Colours are not always better than the map: a mask alone gains on birds and loses on objects that
are large or have many colours. With map_share 0.7 and threshold 0.2 a pixel is inside where the map
reaches 0.29, or in the mask: the mask cannot remove what the map is confident of. Where mask and
map (thresholded by Otsu) differ too much (IoU below `agree`), the map is used alone. No boxes are
read here; docs/segmenters.md has the gain of each rule.

GrabCut's time goes into fitting and cutting in turn at full resolution, and only the cut needs that
resolution: at a lower one it is too smooth and loses legs and tails. So GrabCut runs on each n-th
pixel, `colours` pixels along the longer side. Then its mixtures are kept, and the image is cut once
at `longer_side`, where only pixels within `band` of the small cut's edge can change. Pixels are
sampled, not averaged: averages would vary less than the colours at `longer_side`. In this last cut
the mixtures' covariances are divided by `colour_weight`: colours weigh more against a smooth edge,
and the cut takes less time. Colours are fitted to the complete image; a crop around the map would
lose those of the background. An image always has the same mask, in any order and in any thread: the
random generator of GrabCut's clusters is seeded from the map.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from pipeline.ops.maps import frame_size, min_max, upsample
from pipeline.segmenter.threshold import (
    Source,
    Threshold,
    compute_otsu_threshold,
    compute_quantile,
    make_empty_boxes,
)
from pipeline.types import Boxes, Example, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, UInt8

MIN_SIDE = 8  # pixels: below, there are too few colours to fit mixtures to


@dataclass(frozen=True)
class GrabCut:
    """A segmenter that refines the map by GrabCut and thresholds the refined map.

    A box's score is the mean (or the peak) of the map, not of the refined map, inside its
    component, times the probability of the class by the network.

    Args:
        threshold: a fraction of the refined map's maximum; auto: chosen for each map; validation:
            the one that stage calibrate chooses.
        seeds: what `foreground`, `background` and `middle` are: quantiles of the map's values, or
            fractions of its maximum.
        foreground: a pixel is surely of the object where the map reaches this.
        background: a pixel is surely of the background where the map does not exceed this.
        middle: a pixel is probably of the object where the map exceeds this; null: Otsu's
            threshold.
        iterations: how often colours and cut are computed in turn.
        colours: pixels of the longer side that colours are fitted to; null: those of `longer_side`,
            without a last cut.
        colour_weight: of colours against smoothness in the last cut.
        band: how far from the small cut's edge the last cut may change pixels, in pixels.
        longer_side: of the image in pixels, in which it is cut.
        map_share: weight of the map in the refined map; 0: the mask alone.
        agree: where the IoU of mask and map is below this, the map is used alone.
        components: largest gives one box, all may give several.
        share: of all components, keep those with at least this share of the largest one's pixels.
        merge: of all components, merge two if the smaller box has at least this share of its area
            in the other; null: merge none.
        connectivity: 8 if diagonal neighbours are connected, else 4.
        score: mean or peak of the map inside a component.
        probability: a class with a lower probability has no box.
        threshold_source: how a number was found: fixed beforehand, or oracle (threshold.py).

    Raises:
        ValueError: An argument is out of its range.
    """

    threshold: float | Literal["auto", "validation"] = 0.2
    seeds: Literal["quantile", "fraction"] = "quantile"
    foreground: float = 0.95
    background: float = 0.3
    middle: float | None = None
    iterations: int = 2
    colours: int | None = 104
    colour_weight: float = 2.0
    band: int = 32
    longer_side: int = 224
    map_share: float = 0.7
    agree: float = 0.2
    components: Literal["largest", "all"] = "largest"
    share: float = 0.0
    merge: float | None = None
    connectivity: Literal[4, 8] = 8
    score: Literal["mean", "peak"] = "mean"
    probability: float = 0.0
    threshold_source: Source = "fixed"

    def __post_init__(self) -> None:
        if not 0 <= self.background < self.foreground <= 1:
            raise ValueError(
                f"background={self.background}, foreground={self.foreground}: expected fractions, "
                "the background's below the foreground's"
            )
        fractions = {"middle": self.middle, "map_share": self.map_share, "agree": self.agree}
        for name, value in fractions.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: expected a number from 0 to 1")
        if not 1 <= self.iterations <= 100:
            raise ValueError(f"iterations={self.iterations}: expected a number from 1 to 100")
        if not 0.1 <= self.colour_weight <= 10:
            raise ValueError(
                f"colour_weight={self.colour_weight}: expected a number from 0.1 to 10"
            )
        if not 1 <= self.band <= 4096:
            raise ValueError(f"band={self.band}: expected pixels from 1 to 4096")
        for name, side in (("longer_side", self.longer_side), ("colours", self.colours)):
            if side is not None and not MIN_SIDE <= side <= 4096:
                raise ValueError(f"{name}={side}: expected pixels from {MIN_SIDE} to 4096")
        self._thresholder  # noqa: B018  checks its arguments

    @property
    def needs_image(self) -> int:
        """The longer side in pixels that the image is needed at."""
        return self.longer_side

    @property
    def threshold_info(self) -> Mapping[str, Any]:
        """The threshold as metrics.json names it."""
        return self._thresholder.threshold_info

    def with_threshold(self, value: float) -> GrabCut:
        """Return the same segmenter with a number for its threshold."""
        return replace(self, threshold=value)

    def __call__(self, saliency: SaliencyMap, example: Example | None) -> Boxes:
        """Segment a map and its image into boxes.

        Args:
            saliency: the map.
            example: its image, of any resolution.

        Returns:
            Boxes in pixels of the original image, highest score first, equal ones in raster order,
            with masks; and in `fell_back` why the map was used alone, where it was.

        Raises:
            ValueError: There is no image, or the threshold is `validation` and has not been given
                its number.
        """
        if saliency.score < self.probability:
            return make_empty_boxes(saliency)
        refined, fell_back = self.refined(saliency, example)
        scaled = upsample(saliency.raw(), (refined.shape[0], refined.shape[1]))
        boxes = self._thresholder.segment(refined, saliency, scores=scaled)
        return replace(boxes, fell_back=fell_back)

    def refined(
        self, saliency: SaliencyMap, example: Example | None
    ) -> tuple[Float32[np.ndarray, "H W"], str | None]:
        """Refine a map by its image.

        Args:
            saliency: the map.
            example: its image.

        Returns:
            The refined map in [0, 1] at the size that `frame_size` gives; and why it is the map
            alone, None where it is not.

        Raises:
            ValueError: There is no image.
        """
        frame = frame_size(saliency.size)
        scaled = upsample(saliency.raw(), frame)
        mask, fell_back = self.compute_mask(saliency, example)
        if fell_back is not None:
            return scaled, fell_back
        large = cv2.resize(mask.astype(np.float32), frame[::-1], interpolation=cv2.INTER_LINEAR)
        return min_max(cv2.addWeighted(scaled, self.map_share, large, 1 - self.map_share, 0)), None

    @property
    def _thresholder(self) -> Threshold:
        """The segmenter of the refined map."""
        return Threshold(
            self.threshold, self.components, share=self.share, merge=self.merge,
            connectivity=self.connectivity, score=self.score, masks=True,
            probability=self.probability, threshold_source=self.threshold_source,
        )  # fmt: skip

    def compute_mask(
        self, saliency: SaliencyMap, example: Example | None
    ) -> tuple[Bool[np.ndarray, "h w"], str | None]:
        """Compute the mask of the object at a longer side of `longer_side` pixels.

        Args:
            saliency: the map.
            example: its image.

        Returns:
            The mask; and why it must not be used, None where it may be.

        Raises:
            ValueError: There is no image.
        """
        frame = frame_size(saliency.size, self.longer_side)
        if example is None:
            raise ValueError(f"{saliency.id!r}: GrabCut needs the image")
        none = np.zeros(frame, bool)
        if min(frame) < MIN_SIDE:
            return none, f"the image is less than {MIN_SIDE} pixels wide or high where it is cut"
        image, small = _resize_image(example.image, frame), upsample(saliency.raw(), frame)
        if not small.any():
            return none, "the map is constant"
        map_mask = small > compute_otsu_threshold(small)
        seeds = self._choose_seeds(small, map_mask)
        for value, name in ((cv2.GC_BGD, "background"), (cv2.GC_FGD, "object")):
            if not (seeds == value).any():
                return none, f"no pixel is surely {name}"
        mask = _keep_largest(self._run_grabcut(image, seeds, saliency))
        if not mask.any() or mask.all():
            return none, "the cut is all or nothing"
        if _compute_iou(mask, map_mask) < self.agree:
            return mask, "colours and map do not agree"
        return mask, None

    def _run_grabcut(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        seeds: UInt8[np.ndarray, "h w"],
        saliency: SaliencyMap,
    ) -> Bool[np.ndarray, "h w"]:
        """Run GrabCut from seeds: on sampled pixels and then once on all, or on all alone."""
        mask, models, seed = seeds.copy(), _ColourModels(), _derive_seed(saliency)
        frame = self._choose_small_frame(seeds, saliency)
        if frame is None:
            models.fit(image, mask, self.iterations, seed)
        else:
            small = _sample_pixels(seeds, frame)
            models.fit(_sample_pixels(image, frame), small, self.iterations, seed)
            _fix_far_pixels(mask, small, self.band)
            models.cut(image, mask, self.colour_weight)
        return np.asarray((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD))

    def _choose_small_frame(
        self, seeds: UInt8[np.ndarray, "h w"], saliency: SaliencyMap
    ) -> tuple[int, int] | None:
        """Choose the height and width at which colours are fitted; None: to all pixels.

        All pixels are used of a small image, and of one where no pixel that is surely of the object
        or of the background would be sampled.
        """
        if self.colours is None:
            return None
        height, width = frame_size(saliency.size, self.colours)
        if min(height, width) < MIN_SIDE or max(height, width) >= max(seeds.shape):
            return None
        sampled = _sample_pixels(seeds, (height, width))
        both = (sampled == cv2.GC_BGD).any() and (sampled == cv2.GC_FGD).any()
        return (height, width) if both else None

    def _choose_seeds(
        self, small: Float32[np.ndarray, "h w"], map_mask: Bool[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w"]:
        """Choose for each pixel one of OpenCV's four classes: surely or probably object or not."""
        high, low = self.foreground, self.background
        if self.seeds == "quantile":
            high, low = compute_quantile(small, high), compute_quantile(small, low)
        is_probable = map_mask if self.middle is None else small > self._compute_middle(small)
        seeds = np.where(is_probable, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        # Both quantiles may be 0: the background is set last, as pixels of value 0 belong to it.
        seeds[small >= high] = cv2.GC_FGD
        seeds[small <= low] = cv2.GC_BGD
        return seeds

    def _compute_middle(self, small: Float32[np.ndarray, "h w"]) -> float:
        assert self.middle is not None
        return compute_quantile(small, self.middle) if self.seeds == "quantile" else self.middle


def _resize_image(
    image: UInt8[np.ndarray, "H W 3"], frame: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    if image.shape[:2] == frame:
        return image
    return np.asarray(cv2.resize(image, frame[::-1], interpolation=cv2.INTER_AREA))


def _derive_seed(saliency: SaliencyMap) -> int:
    """Compute a random seed from the values of a map, not from the name of its image."""
    return zlib.crc32(np.ascontiguousarray(saliency.values).tobytes()) & 0x7FFFFFFF


def _sample_pixels(
    values: UInt8[np.ndarray, "H W *c"], frame: tuple[int, int]
) -> UInt8[np.ndarray, "..."]:
    """Sample pixels on a regular grid of so many rows and columns, without averaging."""
    return np.asarray(cv2.resize(values, frame[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


class _ColourModels:
    """The mixtures of background and object, as cv2.grabCut stores them between its calls."""

    def __init__(self) -> None:
        self.both = np.zeros((1, 65)), np.zeros((1, 65))

    def fit(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask: UInt8[np.ndarray, "h w"],
        iterations: int,
        seed: int,
    ) -> None:
        """Fit the mixtures from the seeds in `mask`, which is overwritten by the last cut."""
        # OpenCV has a generator for each thread, which would continue from image to image.
        cv2.setRNGSeed(seed)
        cv2.grabCut(np.ascontiguousarray(image), mask, None, *self.both, iterations,
                    cv2.GC_INIT_WITH_MASK)  # fmt: skip

    def cut(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask: UInt8[np.ndarray, "h w"],
        colour_weight: float,
    ) -> None:
        """Cut the probable pixels of `mask`, which is overwritten, by the mixtures as fitted."""
        background, object_ = (model.copy() for model in self.both)
        for model in (background, object_):  # of 5 Gaussians: weights, means, covariances
            model[:, 20:] /= colour_weight
        cv2.grabCut(np.ascontiguousarray(image), mask, None, background, object_, 1,
                    cv2.GC_EVAL_FREEZE_MODEL)  # fmt: skip


def _fix_far_pixels(
    mask: UInt8[np.ndarray, "H W"], small: UInt8[np.ndarray, "h w"], band: int
) -> None:
    """Mark probable pixels of `mask` as sure that are farther than `band` from a small cut's edge.

    Args:
        mask: OpenCV's classes of pixels, which are changed.
        small: the same after the small cut, at its resolution.
        band: pixels of `mask`.
    """
    height, width = mask.shape
    inside = cv2.resize(small & 1, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    around = np.ones((2 * band + 1, 2 * band + 1), np.uint8)
    # OpenCV ignores pixels outside the image, so its border does not count as an edge of the cut.
    far_out = cv2.dilate(inside, around) == 0
    far_in = cv2.erode(inside, around) == 1
    mask[far_out & (mask >= cv2.GC_PR_BGD)] = cv2.GC_BGD
    mask[far_in & (mask >= cv2.GC_PR_BGD)] = cv2.GC_FGD


def _keep_largest(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Keep the largest component of a mask."""
    count, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_SAUF
    )
    return mask if count < 3 else np.asarray(labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax())


def _compute_iou(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    both, either = np.count_nonzero(a & b), np.count_nonzero(a | b)
    return float(both) / float(either) if either else 0.0
