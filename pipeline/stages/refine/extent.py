"""Training of the extent head: the boxes of pseudo-masks teach where objects begin and end.

    loss = 4 smooth_L1(box, box of the mask) + 1 - GIoU(box, box of the mask)

Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019. The localization head is not
changed. No true box is read; docs/metrics.md has the gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from pipeline.engine.compute import Compute
from pipeline.engine.progress import show_progress
from pipeline.model.extent import ExtentHead
from pipeline.model.foreground import ForegroundHead, select_class
from pipeline.ops.schedule import lr_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Float32, Int
    from torch import Tensor

DISTANCE_WEIGHT, SMOOTH_BELOW = 4.0, 0.05  # of the distance of the sides, relative to the image
DECAY = 1e-3


@dataclass(frozen=True)
class Lesson:
    """A batch of pseudo-labels.

    Attributes:
        features: of each layer that the localization head reads.
        masks: from 0 to 1.
        classes: the class of each; 0 where the head has one map for all.
    """

    features: Sequence[Tensor]
    masks: Float32[np.ndarray, "b H W"]
    classes: Int[Tensor, b]


def fit_extent(
    head: ForegroundHead, batches: Iterator[Lesson], *, steps: int, lr: float, compute: Compute
) -> ExtentHead:
    """Train an extent head for a localization head that is trained already.

    Args:
        head: the localization head.
        batches: features and masks of random pseudo-labels, as many as there are steps.
        steps: how many.
        lr: the learning rate at its highest.
        compute: device and precision.

    Returns:
        The extent head in eval mode.
    """
    extent = ExtentHead(head.out.in_channels).to(compute.device)
    optimizer = torch.optim.AdamW(extent.parameters(), lr, weight_decay=DECAY)
    with show_progress("extent", steps, unit="steps") as advance:
        for step, lesson in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = lr * lr_factor(step, steps, steps // 10)
            target, has_object = find_mask_boxes(lesson.masks)
            with torch.no_grad(), compute.autocast():
                hidden = head.hidden(*lesson.features)
                logits = select_class(head.out(hidden), lesson.classes)
                hidden = head.near(hidden, logits)
            with compute.autocast():
                boxes = extent.boxes(hidden, logits)
            wanted = torch.from_numpy(target).to(boxes)
            loss = compute_loss(boxes, wanted)[torch.from_numpy(has_object)].mean()
            optimizer.zero_grad(set_to_none=True)
            if has_object.any():
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            advance(1)
    return extent.eval()


def find_mask_boxes(
    masks: Float32[np.ndarray, "b H W"],
) -> tuple[Float32[np.ndarray, "b 4"], np.ndarray]:
    """Find the box of the largest component of each mask.

    Args:
        masks: from 0 to 1.

    Returns:
        Boxes `xyxy` relative to the image, and whether each mask has a component.
    """
    boxes, known = np.zeros((len(masks), 4), np.float32), np.zeros(len(masks), bool)
    height, width = masks.shape[1:]
    for n, mask in enumerate(masks):
        inside = (mask >= 0.5).astype(np.uint8)
        count, _, statistics, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        if count < 2:
            continue
        x, y, w, h, _ = statistics[1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())]
        boxes[n], known[n] = (x / width, y / height, (x + w) / width, (y + h) / height), True
    return boxes, known


def compute_loss(boxes: Float[Tensor, "b 4"], wanted: Float[Tensor, "b 4"]) -> Float[Tensor, b]:
    """Compute the loss of each box.

    Args:
        boxes: predicted, `xyxy` relative to the image; their sides may be in the wrong order.
        wanted: the boxes of the masks.
    """
    distance = F.smooth_l1_loss(boxes, wanted, beta=SMOOTH_BELOW, reduction="none").mean(1)
    first, last = torch.maximum(boxes, wanted), torch.minimum(boxes, wanted)
    both = (last[:, 2:] - first[:, :2]).clamp(min=0).prod(1)
    either = _area(boxes) + _area(wanted) - both
    around = (first[:, 2:] - last[:, :2]).prod(1)
    giou = both / either.clamp(min=1e-6) - (around - either) / around.clamp(min=1e-6)
    return DISTANCE_WEIGHT * distance + 1 - giou


def _area(boxes: Float[Tensor, "b 4"]) -> Float[Tensor, b]:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
