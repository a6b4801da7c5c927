"""Targets of the localization head in images whose boxes a person left.

Only with `annotate.learn_from_human=true`: what learns from these says `supervision: boxes`.

    target   the mask that a person drew; else GrabCut inside the box, all outside is background
             (Rother et al., "GrabCut", SIGGRAPH 2004)

Of several boxes the targets are united. An image with a box that its cut does not fill is left out:
filled boxes make a head worse (docs/refine.md). Khoreva et al., "Simple Does It: Weakly Supervised
Instance and Semantic Segmentation", CVPR 2017, train segmentation on such cuts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from pipeline.engine import runtime
from pipeline.engine.images import SplitImages
from pipeline.errors import SkippedImage
from pipeline.ops.iou import best_iou
from pipeline.stages.refine.pseudo_labels import target_size
from pipeline.types import HumanBoxes, Size

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, UInt8

CUT_SIDE = 112  # pixels of the longer side at which an image is cut
ITERATIONS = 5  # of GrabCut
MIN_FIT = 0.7  # IoU of the box around the cut and the person's box


@dataclass(frozen=True, kw_only=True)
class HumanTargets:
    """Computes targets from boxes of a person.

    Args:
        images: the training images.
        workers: threads.
    """

    images: SplitImages
    workers: int

    def compute(
        self, boxes: Mapping[int, HumanBoxes]
    ) -> dict[int, Float32[np.ndarray, "H W"] | None]:
        """Return the target of each image, from 0 to 1; None: it is left out, or cannot be read.

        Args:
            boxes: by the position of the image.
        """
        return dict(runtime.map_in_threads(self._compute, iter(boxes.items()), self.workers))

    def _compute(
        self, item: tuple[int, HumanBoxes]
    ) -> tuple[int, Float32[np.ndarray, "H W"] | None]:
        position, human = item
        example = self.images.read(position, self.images.size)
        if isinstance(example, SkippedImage):
            return position, None
        return position, compute_target(example.image, human)


def compute_target(
    image: UInt8[np.ndarray, "h w 3"], human: HumanBoxes
) -> Float32[np.ndarray, "H W"] | None:
    """Compute the target of an image, at the size of targets; None where a box has none.

    Args:
        image: at the network's size.
        human: its boxes, one at least.
    """
    frame = target_size((image.shape[0], image.shape[1]))
    scale = CUT_SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
    small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    target = np.zeros(frame, np.float32)
    for n, box in enumerate(human.boxes):
        drawn = None if human.masks is None else human.masks[n]
        mask = (
            cut_box(small, _scale_box(box, human.size, size))
            if drawn is None
            else np.asarray(coco_mask.decode(drawn), np.float32)
        )
        if mask is None:
            return None
        target = np.maximum(target, cv2.resize(mask, frame[::-1], interpolation=cv2.INTER_AREA))
    return target


def cut_box(
    image: UInt8[np.ndarray, "h w 3"], box: Float64[np.ndarray, 4]
) -> Float32[np.ndarray, "h w"] | None:
    """Cut the object in a box by colours; None where the cut does not fill the box.

    Args:
        image: RGB.
        box: xyxy in pixels of the image.
    """
    height, width = image.shape[:2]
    x0, y0 = np.minimum(box[:2].round().astype(int), (width - 1, height - 1))
    x1, y1 = np.maximum(box[2:].round().astype(int), (x0 + 1, y0 + 1))
    mask = np.full((height, width), cv2.GC_BGD, np.uint8)
    mask[y0:y1, x0:x1] = cv2.GC_PR_FGD
    if (mask == cv2.GC_PR_FGD).all():
        return None  # no pixel is background
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # OpenCV has a generator for each thread
    cv2.grabCut(np.ascontiguousarray(image), mask, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    rows, columns = np.nonzero(mask & 1)  # surely or probably the object
    if not len(rows):
        return None
    around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    fit = best_iou(np.array(around, np.float64), np.array([[x0, y0, x1, y1]], np.float64))
    return (mask & 1).astype(np.float32) if fit >= MIN_FIT else None


def _scale_box(box: Float32[np.ndarray, 4], size: Size, frame: Size) -> Float64[np.ndarray, 4]:
    """Scale a box of an image of a size to a frame; both are (height, width)."""
    factors = np.array([frame[1] / size[1], frame[0] / size[0]] * 2, np.float64)
    return box.astype(np.float64) * factors
