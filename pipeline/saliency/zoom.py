"""Looking again: the found object, filling the frame.

A second look costs a second forward pass, so that it is for images whose class the first left open.
Boxes are relative to the image, [b, 4] as x0, y0, x1, y1 from 0 to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float

CUT = 0.2  # of the foreground, which is from 0 to 1
MARGIN = 0.1  # of the box's sides, to each side


def boxes_of(foreground: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 4"]:
    """The box around all that is foreground; the whole image where nothing is."""
    found = foreground[:, 0] >= CUT

    def span(hit: Tensor) -> tuple[Tensor, Tensor]:
        size = hit.shape[1]
        places = torch.arange(size, device=hit.device)
        first = torch.where(hit, places, size).amin(1)
        last = torch.where(hit, places + 1, 0).amax(1)
        none = ~hit.any(1)
        return first.masked_fill(none, 0) / size, last.masked_fill(none, size) / size

    (x0, x1), (y0, y1) = span(found.any(1)), span(found.any(2))
    return torch.stack((x0, y0, x1, y1), 1)


def widened(boxes: Float[Tensor, "b 4"]) -> Float[Tensor, "b 4"]:
    """With a margin, as far as the image goes."""
    reach = MARGIN * (boxes[:, 2:] - boxes[:, :2])
    return torch.cat((boxes[:, :2] - reach, boxes[:, 2:] + reach), 1).clamp(0, 1)


def zoomed(images: Float[Tensor, "b 3 H W"], boxes: Float[Tensor, "b 4"]) -> Tensor:
    """What lies in each image's box, in the size of the whole image."""
    boxes = boxes.to(images)
    centre, scale = boxes[:, :2] + boxes[:, 2:] - 1, boxes[:, 2:] - boxes[:, :2]
    grid = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    grid[:, 0, 0], grid[:, 1, 1], grid[:, :, 2] = scale[:, 0], scale[:, 1], centre
    places = F.affine_grid(grid, list(images.shape), align_corners=False)
    found: Tensor = F.grid_sample(images, places, padding_mode="border", align_corners=False)
    return found.contiguous(memory_format=torch.channels_last)
