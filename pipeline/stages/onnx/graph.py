"""The network that is exported: pixels in, logits, map and box out, all by operators of ONNX.

    x       = (pixels / 255 - mean) / std                    pixels uint8 [b, H, W, 3] RGB
    logits  [b, C]      of object_class where the network has it, else of the classifier's head
    map     [b, h, w]   the foreground, or the CAM of the class of the highest logit
    maps    [b, C, h, w]                              the CAMs of all classes, where CAM is the map
    box     [b, 4]      xyxy, half-open, from 0 to 1: around the pixels with v >= t
    score   [b]         mean of v over these pixels times softmax(logits) of that class (of a
                        single logit: sigmoid)

Where an image may have several classes, each has its own map, box and score:

    maps    [b, C, h, w]    boxes [b, C, 4]    scores [b, C], the mean times sigmoid(logit)

    v = minmax(up(map))      bilinear, at H x W            t a number, or by the rule `size`

ONNX has no connected components: the box is around all these pixels, not around the largest
component. The rule `size` (segmenter/auto.py) reads the box of all pixels with v >= 0.5 for the
same reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.classifier import FOREGROUND, LAST, OBJECT_CLASS, Classifier
from pipeline.ops.probabilities import compute_probabilities
from pipeline.segmenter.auto import (
    CORE,
    MAX_SIZE_THRESHOLD,
    MIN_AREA,
    MIN_SIZE_THRESHOLD,
    SIZE_SHIFT,
    SIZE_SLOPE,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8

MapKind = Literal["foreground", "cam", "cam_positive"]


@dataclass(frozen=True)
class GraphOptions:
    """What the exported network computes.

    Attributes:
        size: height and width of the images.
        mean: of red, green and blue, for pixels from 0 to 1.
        std: of red, green and blue, for pixels from 0 to 1.
        kind: the map.
        threshold: a fraction of the maximum; None: chosen for each map by the rule `size`.
        is_of_each_class: whether each class has a map, a box and a score, as where an image may
            have several; else the most probable class alone.
    """

    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    kind: MapKind
    threshold: float | None
    is_of_each_class: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        if self.is_of_each_class:
            return ("logits", "maps", "boxes", "scores")
        names = ("logits", "map", "box", "score")
        return names if self.kind == FOREGROUND else (*names, "maps")


class ExportedNetwork(nn.Module):
    """A network from pixels to logits, map and box.

    Args:
        network: in eval mode, in float32.
        options: what it computes.
    """

    def __init__(self, network: Classifier, options: GraphOptions) -> None:
        super().__init__()
        self.network = network
        self.options = options
        scale = torch.tensor([1 / (255 * std) for std in options.std])
        pairs = zip(options.mean, options.std, strict=True)
        shift = torch.tensor([-mean / std for mean, std in pairs])
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, images: UInt8[Tensor, "b H W 3"]) -> tuple[Tensor, ...]:
        """Compute the outputs that `GraphOptions.outputs` names."""
        pixels = images.permute(0, 3, 1, 2).float()
        x = pixels * self.get_buffer("scale") + self.get_buffer("shift")
        if self.options.is_of_each_class:
            return self._localize_each_class(x)
        if self.options.kind == FOREGROUND:
            logits, values = self._find_foreground(x)
            every = None
        else:
            logits, every = self._compute_cams(x)
            chosen = logits.argmax(1)[:, None, None, None].expand(-1, 1, *every.shape[2:])
            values = every.gather(1, chosen)[:, 0]
        box, mean = self.find_box(values)
        score = mean * compute_probabilities(logits).amax(1)
        outputs = (logits, values, box, score)
        return outputs if every is None else (*outputs, every)

    def _localize_each_class(self, x: Float[Tensor, "b 3 H W"]) -> tuple[Tensor, ...]:
        """Return logits, maps [b, C, h, w], boxes [b, C, 4] and scores [b, C]."""
        if self.options.kind == FOREGROUND:
            answer = self.network(x, at=(FOREGROUND,))
            logits, maps = answer.logits, answer.activations[FOREGROUND]
            maps = maps.expand(-1, logits.shape[1], -1, -1)  # of a head with a map for all classes
        else:
            logits, maps = self._compute_cams(x)
        boxes, means = self.find_box(maps.flatten(0, 1))
        scores = means.reshape(logits.shape) * self.network.probabilities(logits)
        return logits, maps, boxes.reshape(*logits.shape, 4), scores

    def _find_foreground(self, x: Float[Tensor, "b 3 H W"]) -> tuple[Tensor, Tensor]:
        """Return logits [b, C] and the foreground [b, h, w]."""
        names = [FOREGROUND, *([OBJECT_CLASS] if self.network.tells_objects else [])]
        answer = self.network(x, at=names)
        logits = answer.logits
        if self.network.tells_objects:
            logits = answer.activations[OBJECT_CLASS].log_softmax(1)
        maps = answer.activations[FOREGROUND]
        if maps.shape[1] > 1:
            chosen = logits.argmax(1)[:, None, None, None].expand(-1, 1, *maps.shape[2:])
            maps = maps.gather(1, chosen)
        return logits, maps[:, 0]

    def _compute_cams(self, x: Float[Tensor, "b 3 H W"]) -> tuple[Tensor, Tensor]:
        """Return logits [b, C] and the CAMs of all classes [b, C, h, w]."""
        answer = self.network(x, at=(LAST,))
        weights = self.network.class_weights
        if self.options.kind == "cam_positive":
            weights = weights.clamp(min=0)
        return answer.logits, F.conv2d(answer.activations[LAST], weights[:, :, None, None])

    def find_box(self, maps: Float[Tensor, "b h w"]) -> tuple[Tensor, Tensor]:
        """Return the box [b, 4] of each map, and the mean [b] of the scaled map inside its mask."""
        size = list(self.options.size)
        large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        scaled = (large - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        # A constant map has no maximum, however its upsampled values are rounded: its box is the
        # whole image, with score 0.
        varies = (maps.amax((1, 2)) > maps.amin((1, 2)))[:, None, None]
        scaled = torch.where(varies, scaled, torch.zeros_like(scaled))
        if self.options.threshold is None:
            threshold = _choose_threshold(scaled)
        else:
            threshold = torch.full_like(low, self.options.threshold)
        mask = scaled >= torch.where(varies, threshold, torch.zeros_like(threshold))
        inside = mask.float()
        mean = (scaled * inside).sum((1, 2)) / inside.sum((1, 2))
        return find_mask_box(mask), mean


def find_mask_box(mask: Bool[Tensor, "b H W"]) -> Float[Tensor, "b 4"]:
    """Return the tightest box around all pixels of each mask: xyxy, half-open, from 0 to 1.

    Args:
        mask: each with at least one pixel.
    """
    columns, rows = mask.any(1), mask.any(2)

    def span(covered: Tensor) -> tuple[Tensor, Tensor]:
        count = covered.shape[1]
        places = torch.arange(count, device=covered.device, dtype=torch.float32)
        first = torch.where(covered, places, float(count)).amin(1)
        end = torch.where(covered, places + 1, 0.0).amax(1)
        return first / count, end / count

    (x0, x1), (y0, y1) = span(columns), span(rows)
    return torch.stack((x0, y0, x1, y1), 1)


def _choose_threshold(scaled: Float[Tensor, "b H W"]) -> Float[Tensor, "b 1 1"]:
    """Choose the threshold of each map by the rule `size`, for the box of its whole core."""
    box = find_mask_box(scaled >= CORE)
    area = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).clamp(MIN_AREA, 1 - MIN_AREA)
    threshold = (SIZE_SHIFT + SIZE_SLOPE * (area / (1 - area)).log()).sigmoid()
    return threshold.clamp(MIN_SIZE_THRESHOLD, MAX_SIZE_THRESHOLD)[:, None, None]
