"""GrabCut: the map and the colours of the image decide together where the object ends.

    surely object        map above its 95 % quantile      surely background   below its 30 %
    probably object      map above Otsu's threshold       probably background the rest
    mask                 cv2.grabCut of the image from these seeds, its largest component
    refined map          map_share * map + (1 - map_share) * mask, cut as any map is

GrabCut fits a mixture of Gaussians to the colours of each side and cuts where that explains the
image with the least edge (Rother, Kolmogorov and Blake, "GrabCut", SIGGRAPH 2004). Seeds from a
saliency map: Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", ICLR-W 2014,
section 3.2: foreground above the 95 % quantile, background below the 30 %, the rest undecided.

Colours do not always say more than the map does: a mask alone gains on birds and loses on objects
that are large or of many colours. With map_share 0.7 and threshold 0.2 a pixel counts where the
map alone reaches 0.29, or in the mask: what the map is sure of, a mask cannot take away.
Where the mask is another thing than the map's own cut by Otsu (IoU below `agree`), it has no say.
Nothing here knows of a box; docs/segmenters.md has what each rule gains.

Fitting and cutting in turn at full resolution is what takes GrabCut's time, and only the cut needs
the resolution: shrunk, it is too smooth and loses legs and tails. So GrabCut is run in small, on
every n-th pixel, `colours` of them along the longer side; its mixtures are then held while the
image is cut once at `longer_side`, no further than `band` pixels from the small cut's edge. Pixels
are picked, not averaged: averages would vary less than the colours that are cut. In the last cut
the mixtures' covariances are divided by `colour_weight`: distances to colours weigh that much more
against a smooth edge, and the cut is found sooner. Colours are fitted to the whole image; a crop to
where the map is would lose those of the background. Whoever calls it, in whatever order, an image
has one mask: the generator behind GrabCut's clusters is seeded from the map.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from pipeline.ops.maps import frame_size, min_max, upsample
from pipeline.segmenter.threshold import Threshold, nothing, otsu, quantile
from pipeline.types import Boxes, Example, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, UInt8

SMALLEST = 8  # pixels a side: below, there are no colours to model


@dataclass(frozen=True)
class GrabCut:
    """`threshold` is of the refined map's maximum. Boxes are scored by the map inside them."""

    threshold: float | Literal["auto", "validation"] = 0.2  # or auto, validation: from calibrate
    seeds: Literal["quantile", "fraction"] = "quantile"  # what the next two are of: image, maximum
    foreground: float = 0.95  # surely the object: the map reaches this
    background: float = 0.3  # surely not: it does not exceed this
    middle: float | None = None  # probably the object: it exceeds this; null: Otsu's threshold
    iterations: int = 2  # of colours and cut in turn
    colours: int | None = 104  # pixels a side that colours are fitted to; null: all, cut in turn
    colour_weight: float = 2.0  # of colours against smoothness in the last cut; not if all are
    band: int = 32  # pixels about the small cut's edge that the last cut decides
    longer_side: int = 224  # pixels at which the cut is made
    map_share: float = 0.7  # of the map in the refined map; 0: the mask alone
    agree: float = 0.2  # IoU of mask and map below which the map is cut alone
    components: Literal["largest", "all"] = "largest"  # one box, or several
    share: float = 0.0  # all: those with this share of the largest's pixels
    merge: float | None = None  # all: boxes inside one another by so much become one
    connectivity: Literal[4, 8] = 8  # whether diagonal neighbours are connected
    score: Literal["mean", "peak"] = "mean"  # of the map inside a component
    probability: float = 0.0  # of the class: below, it has no box

    def __post_init__(self) -> None:
        if not 0 <= self.background < self.foreground <= 1:
            raise ValueError(
                f"background={self.background}, foreground={self.foreground}: expected fractions, "
                "the background's below the foreground's"
            )
        for name in ("middle", "map_share", "agree"):
            value = getattr(self, name)
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
        for name in ("longer_side", "colours"):
            value = getattr(self, name)
            if value is not None and not SMALLEST <= value <= 4096:
                raise ValueError(f"{name}={value}: expected pixels from {SMALLEST} to 4096")
        self._cut  # noqa: B018  its arguments are checked too

    @property
    def needs_image(self) -> int:
        return self.longer_side

    @property
    def threshold_info(self) -> Mapping[str, Any]:
        return self._cut.threshold_info

    def with_threshold(self, value: float) -> GrabCut:
        return replace(self, threshold=value)

    def __call__(self, saliency: SaliencyMap, example: Example | None) -> Boxes:
        if saliency.score < self.probability:
            return nothing(saliency)
        refined, fell_back = self.refined(saliency, example)
        scaled = upsample(saliency.raw(), (refined.shape[0], refined.shape[1]))
        return replace(self._cut.cut(refined, saliency, scores=scaled), fell_back=fell_back)

    def refined(
        self, saliency: SaliencyMap, example: Example | None
    ) -> tuple[Float32[np.ndarray, "H W"], str | None]:
        """The refined map in [0, 1] at the image's frame; and why it is the map alone, where it
        is."""
        frame = frame_size(saliency.size)
        scaled = upsample(saliency.raw(), frame)
        mask, fell_back = self.mask(saliency, example)
        if fell_back is not None:
            return scaled, fell_back
        large = cv2.resize(mask.astype(np.float32), frame[::-1], interpolation=cv2.INTER_LINEAR)
        return min_max(cv2.addWeighted(scaled, self.map_share, large, 1 - self.map_share, 0)), None

    @property
    def _cut(self) -> Threshold:
        return Threshold(
            self.threshold, self.components, share=self.share, merge=self.merge,
            connectivity=self.connectivity, score=self.score, masks=True,
            probability=self.probability,
        )  # fmt: skip

    def mask(
        self, saliency: SaliencyMap, example: Example | None
    ) -> tuple[Bool[np.ndarray, "h w"], str | None]:
        """The object's pixels at the reduced resolution; and why they are not to be trusted."""
        frame = frame_size(saliency.size, self.longer_side)
        if example is None:
            raise ValueError(f"{saliency.id!r}: GrabCut needs the image")
        none = np.zeros(frame, bool)
        if min(frame) < SMALLEST:
            return none, f"the image is less than {SMALLEST} pixels wide or high where it is cut"
        image, small = _at(example.image, frame), upsample(saliency.raw(), frame)
        if not small.any():
            return none, "the map is constant"
        own = small > otsu(small)
        seeds = self._seeds(small, own)
        for value, name in ((cv2.GC_BGD, "background"), (cv2.GC_FGD, "object")):
            if not (seeds == value).any():
                return none, f"no pixel is surely {name}"
        mask = _largest(self._cut_out(image, seeds, saliency))
        if not mask.any() or mask.all():
            return none, "the cut is all or nothing"
        if _iou(mask, own) < self.agree:
            return mask, "colours and map do not agree"
        return mask, None

    def _cut_out(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        seeds: UInt8[np.ndarray, "h w"],
        saliency: SaliencyMap,
    ) -> Bool[np.ndarray, "h w"]:
        mask, models, number = seeds.copy(), _Models(), _number(saliency)
        few = self._few(seeds, saliency)
        if few is None:
            models.fit(image, mask, self.iterations, number)
        else:
            small = _picked(seeds, few)
            models.fit(_picked(image, few), small, self.iterations, number)
            _settle(mask, small, self.band)
            models.cut(image, mask, self.colour_weight)
        return np.asarray((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD))

    def _few(
        self, seeds: UInt8[np.ndarray, "h w"], saliency: SaliencyMap
    ) -> tuple[int, int] | None:
        """The frame of the pixels that colours are fitted to; None where it is all of them: a
        small image, or one whose few sure pixels would not be among those picked."""
        if self.colours is None:
            return None
        height, width = frame_size(saliency.size, self.colours)
        if min(height, width) < SMALLEST or max(height, width) >= max(seeds.shape):
            return None
        picked = _picked(seeds, (height, width))
        both = (picked == cv2.GC_BGD).any() and (picked == cv2.GC_FGD).any()
        return (height, width) if both else None

    def _seeds(
        self, small: Float32[np.ndarray, "h w"], own: Bool[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w"]:
        high, low = self.foreground, self.background
        if self.seeds == "quantile":
            high, low = quantile(small, high), quantile(small, low)
        probably = own if self.middle is None else small > self._middle(small)
        seeds = np.where(probably, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        # Where half of a map is 0, both quantiles may be: what is 0 is no object.
        seeds[small >= high] = cv2.GC_FGD
        seeds[small <= low] = cv2.GC_BGD
        return seeds

    def _middle(self, small: Float32[np.ndarray, "h w"]) -> float:
        assert self.middle is not None
        return quantile(small, self.middle) if self.seeds == "quantile" else self.middle


def _at(image: UInt8[np.ndarray, "H W 3"], frame: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    if image.shape[:2] == frame:
        return image
    return np.asarray(cv2.resize(image, frame[::-1], interpolation=cv2.INTER_AREA))


def _number(saliency: SaliencyMap) -> int:
    """A seed that is the image's own, whatever it is called and wherever it is cut."""
    return zlib.crc32(np.ascontiguousarray(saliency.values).tobytes()) & 0x7FFFFFFF


def _picked(
    values: UInt8[np.ndarray, "H W *c"], frame: tuple[int, int]
) -> UInt8[np.ndarray, "..."]:
    """One pixel of each cell, as it is."""
    return np.asarray(cv2.resize(values, frame[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


class _Models:
    """The mixtures of background and object, as cv2.grabCut keeps them between its calls."""

    def __init__(self) -> None:
        self.both = np.zeros((1, 65)), np.zeros((1, 65))

    def fit(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask: UInt8[np.ndarray, "h w"],
        iterations: int,
        number: int,
    ) -> None:
        """From the seeds in `mask`, which becomes the last cut."""
        # Each thread has a generator of its own, which goes on from image to image.
        cv2.setRNGSeed(number)
        cv2.grabCut(np.ascontiguousarray(image), mask, None, *self.both, iterations,
                    cv2.GC_INIT_WITH_MASK)  # fmt: skip

    def cut(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask: UInt8[np.ndarray, "h w"],
        colour_weight: float,
    ) -> None:
        """`mask`'s probable pixels by the models as they are."""
        background, object_ = (model.copy() for model in self.both)
        for model in (background, object_):  # of 5 Gaussians: weights, means, covariances
            model[:, 20:] /= colour_weight
        cv2.grabCut(np.ascontiguousarray(image), mask, None, background, object_, 1,
                    cv2.GC_EVAL_FREEZE_MODEL)  # fmt: skip


def _settle(mask: UInt8[np.ndarray, "H W"], small: UInt8[np.ndarray, "h w"], band: int) -> None:
    """In `mask`: what lies far from the edge of the small cut is sure. What is sure stays so."""
    height, width = mask.shape
    inside = cv2.resize(small & 1, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    around = np.ones((2 * band + 1, 2 * band + 1), np.uint8)
    # OpenCV ignores what lies outside: the image's border is no edge of the cut.
    far_out = cv2.dilate(inside, around) == 0
    far_in = cv2.erode(inside, around) == 1
    mask[far_out & (mask >= cv2.GC_PR_BGD)] = cv2.GC_BGD
    mask[far_in & (mask >= cv2.GC_PR_BGD)] = cv2.GC_FGD


def _largest(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    count, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_SAUF
    )
    return mask if count < 3 else np.asarray(labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax())


def _iou(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    both, either = np.count_nonzero(a & b), np.count_nonzero(a | b)
    return float(both) / float(either) if either else 0.0
