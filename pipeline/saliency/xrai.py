"""XRAI: regions in the order of how much integrated gradients each adds.

    next = argmax_s  mean of A over the pixels of s that no region has yet        map = that mean

Kapishnikov et al., "XRAI: Better Attributions Through Regions", ICCV 2019. A is the mean of the
integrated gradients from a black and from a white baseline, the largest of R, G and B; segments s
come from Felzenszwalb's algorithm at several scales, each dilated to have its edge in it. What no
segment covers gets its own mean.

Scales, smoothing, sizes and the baselines, the least and largest values of the image, are those of
the authors' code. It resizes an image to 224 x 224 pixels to segment it, where here the sizes grow
with the image, and takes the least value of all channels; a network's black differs by channel, so
that here it is that of each. Integrals are by Gauss-Legendre's rule. Float32 always, as the
gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.saliency.felzenszwalb import segment_felzenszwalb
from pipeline.saliency.gradients import sum_gradients
from pipeline.saliency.integrated import IntegratedGradients
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

SIDE = 224  # of the image that sizes in pixels belong to
SIGMA = 0.8  # pixels of the Gaussian that smooths an image before it is segmented
UNIT = 255  # of a scale: segments at 50 have k = 50 / 255 for colours from -1 to 1


@dataclass(frozen=True)
class XRAI:
    """XRAI: regions ranked by integrated gradients."""

    steps: int = 32  # points on the line from each baseline, a forward and a backward pass each
    # Black and white: the least and largest values of each image, or triples of numbers as the
    # network sees them (black: -mean / std).
    baselines: Literal["range"] | tuple[tuple[float, float, float], ...] = "range"
    channels: Literal["max", "sum"] = "max"  # of R, G and B
    segment_scales: tuple[float, ...] = (50, 100, 150, 250, 500, 1200)  # larger: larger segments
    smallest_segment: int = 150  # pixels, of an image of 224 x 224
    smallest_addition: int = 50  # new pixels of a region, of an image of 224 x 224
    dilation: int = 5  # pixels by which segments grow, of an image of 224 x 224

    def __post_init__(self) -> None:
        counts = {
            "steps": (self.steps, 1),
            "smallest_segment": (self.smallest_segment, 1),
            "smallest_addition": (self.smallest_addition, 1),
            "dilation": (self.dilation, 0),
        }
        for name, (count, least) in counts.items():
            if count < least:
                raise UserError(f"saliency.{name}={count}: expected at least {least}")
        if not self.segment_scales or not all(scale > 0 for scale in self.segment_scales):
            raise UserError(
                f"saliency.segment_scales={[*self.segment_scales]}: expected one or more numbers "
                "above 0, as in [50,250,1200]"
            )
        if not self.baselines:
            raise UserError(
                "saliency.baselines=[]: expected range, or one or more triples, as in [[0,0,0]]"
            )

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image."""
        with full_precision(images, graph=False):
            logits = network(images).logits
        classes = choose(logits)
        colour = self._integrate(network, images, classes)
        attribution = colour.amax(2) if self.channels == "max" else colour.sum(2)
        values = attribution.double().cpu().numpy()
        fewest = max(1, round(self.smallest_addition * self._area(images)))
        maps = np.empty(values.shape)
        for n, image in enumerate(images):
            segments = self.list_segments(image)
            for column in range(classes.shape[1]):
                maps[n, column] = rank_regions(values[n, column], segments, fewest)
        return Explanation(torch.from_numpy(maps).to(attribution), classes, logits)

    def list_segments(self, image: Float[Tensor, "c H W"]) -> Bool[np.ndarray, "n H W"]:
        """Return the segments of all scales, dilated; they overlap.

        Args:
            image: As the network sees it.
        """
        colours = image.detach().double().permute(1, 2, 0).cpu().numpy()
        least, largest = colours.min(), colours.max()
        colours = 2 * (colours - least) / max(largest - least, 1e-12) - 1
        area = self._area(image)
        scales = tuple(scale / UNIT * area for scale in self.segment_scales)
        smallest = max(1, round(self.smallest_segment * area))
        radius = round(self.dilation * area**0.5)
        places = np.arange(-radius, radius + 1)
        disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(np.uint8)
        return np.stack(
            [
                cv2.dilate((labels == label).astype(np.uint8), disk) > 0
                for labels in segment_felzenszwalb(colours, scales, SIGMA, smallest)
                for label in range(labels.max() + 1)
            ]
        )

    def _integrate(
        self, network: Network, images: Float[Tensor, "b 3 H W"], classes: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t 3 H W"]:
        """Compute integrated gradients, the mean of those from each baseline."""
        baselines = (
            [images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)]
            if self.baselines == "range"
            else [images.new_tensor(numbers)[None, :, None, None] for numbers in self.baselines]
        )
        line = IntegratedGradients(steps=self.steps)
        parts = []
        for baseline in baselines:
            difference = images - baseline
            total = sum_gradients(network, line.interpolate(images, difference), classes)
            parts.append(total * difference[:, None])
        return torch.stack(parts).mean(0)

    @staticmethod
    def _area(images: Tensor) -> float:
        """Return the pixels of an image as a share of those of a square of SIDE."""
        return images.shape[-2] * images.shape[-1] / SIDE**2


def rank_regions(
    attribution: Float[np.ndarray, "H W"], segments: Bool[np.ndarray, "n H W"], fewest: int
) -> Float[np.ndarray, "H W"]:
    """Add segments, the one with the largest mean over its new pixels first.

    Args:
        attribution: A.
        segments: Masks, which may overlap.
        fewest: A segment with fewer new pixels is left out.

    Returns:
        The mean over the new pixels of the segment that brought each pixel; of the pixels that none
        brought, their mean.
    """
    values, masks = attribution.ravel(), segments.reshape(len(segments), -1)
    sums, counts = masks @ values, masks.sum(1)
    regions, left = np.empty(values.shape), np.ones(values.shape, bool)
    while (counts >= fewest).any():
        means = np.where(counts >= fewest, sums / np.maximum(counts, 1), -np.inf)
        best = means.argmax()
        added = np.flatnonzero(masks[best] & left)
        regions[added] = values[added].mean()
        left[added] = False
        sums -= masks[:, added] @ values[added]
        counts -= masks[:, added].sum(1)
    if left.any():
        regions[left] = values[left].mean()
    return regions.reshape(attribution.shape)
