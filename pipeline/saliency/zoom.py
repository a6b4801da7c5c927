"""Crop images to the localized object, for a second forward pass on the crop.

Boxes are relative to the image: [b, 4] `xyxy` from 0 to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float

THRESHOLD = 0.2  # of the foreground, which is from 0 to 1
MARGIN = 0.1  # added on each side, as a share of the width or height of the box


def find_foreground_boxes(foreground: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 4"]:
    """Return the tightest box around all pixels of the foreground of each image.

    Args:
        foreground: Maps in [0, 1].

    Returns:
        Boxes `xyxy` relative to the image, in [0, 1]; the whole image where no value reaches
        THRESHOLD.
    """
    mask = foreground[:, 0] >= THRESHOLD

    def span(covered: Tensor) -> tuple[Tensor, Tensor]:
        size = covered.shape[1]
        positions = torch.arange(size, device=covered.device)
        first = torch.where(covered, positions, size).amin(1)
        last = torch.where(covered, positions + 1, 0).amax(1)
        none = ~covered.any(1)
        return first.masked_fill(none, 0) / size, last.masked_fill(none, size) / size

    (x0, x1), (y0, y1) = span(mask.any(1)), span(mask.any(2))
    return torch.stack((x0, y0, x1, y1), 1)


def widen_boxes(boxes: Float[Tensor, "b 4"]) -> Float[Tensor, "b 4"]:
    """Add MARGIN of its width and height to each side of a box, within the image."""
    margin = MARGIN * (boxes[:, 2:] - boxes[:, :2])
    return torch.cat((boxes[:, :2] - margin, boxes[:, 2:] + margin), 1).clamp(0, 1)


def crop_to_boxes(images: Float[Tensor, "b 3 H W"], boxes: Float[Tensor, "b 4"]) -> Tensor:
    """Crop each image to its box and resize the crop bilinearly to the size of the image.

    Args:
        images: Images as the network sees them.
        boxes: A box `xyxy` for each image, relative to it, in [0, 1].

    Returns:
        Crops [b, 3, H, W] in the dtype of `images`, in channels-last layout.
    """
    boxes = boxes.to(images)
    centre, scale = boxes[:, :2] + boxes[:, 2:] - 1, boxes[:, 2:] - boxes[:, :2]
    grid = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    grid[:, 0, 0], grid[:, 1, 1], grid[:, :, 2] = scale[:, 0], scale[:, 1], centre
    positions = F.affine_grid(grid, list(images.shape), align_corners=False)
    crops: Tensor = F.grid_sample(images, positions, padding_mode="border", align_corners=False)
    return crops.contiguous(memory_format=torch.channels_last)
