"""Boxes of a map at 101 thresholds, for the slider of the page.

    step k    the boxes that segmenter.threshold=k/100 gives, best first, k = 0 ... 100

Where a box is kept for the largest component alone, the component tree of metric/components.py has
it for all thresholds at once; else the map is segmented at each of them. Both are the boxes that
stage localize would write, to the last bit (tests/stages/test_report_steps.py). A box is written as
65535ths of the image's sides, so a corner moves by less than a hundredth of a pixel in images of
up to 1,300 pixels; its IoU and its cause (causes.py) are computed before that, the cause from
boxes that are rounded as images.json has them.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.metric.components import THRESHOLDS, curves, threshold_index
from pipeline.ops.iou import pairwise_iou
from pipeline.ops.maps import frame_size, upsample
from pipeline.segmenter.threshold import Threshold
from pipeline.stages.report.causes import CAUSES, CODES, NO_CODE, Cause, find_causes_at_steps
from pipeline.types import SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

    from pipeline.protocols import Segmenter

COUNT = 101
STEPS = tuple(round(n / 100, 2) for n in range(COUNT))
MAX_BOXES = 20  # of a step that the page draws; all are counted
FULL = 65535  # the side of an image in the page's numbers
UNSCORED = 65535  # an IoU that was not measured
IOU_SCALE = 10_000


@dataclass(frozen=True)
class StepBoxes:
    """The boxes of a map at each threshold.

    Attributes:
        boxes: for each step the boxes, xyxy in pixels of the image, best first.
        ious: for each step the IoU of the first box with the true box that it fits best; None:
            the image is not scored.
        causes: for each step why the boxes are wrong, None where nothing is; None: the image is
            not scored.
    """

    boxes: Sequence[Float32[np.ndarray, "N 4"]]
    ious: Float[np.ndarray, 101] | None
    causes: Sequence[Cause | None] | None = None

    def pack(self, size: tuple[int, int]) -> dict[str, str]:
        """Return counts, the first boxes and IoUs in base64, and a character for each cause.

        Args:
            size: height and width of the image in pixels.
        """
        height, width = size
        sides = np.array([width, height, width, height], np.float64)
        shown = [boxes[:MAX_BOXES] for boxes in self.boxes]
        corners = np.concatenate(shown).astype(np.float64) / sides * FULL
        ious = np.full(COUNT, UNSCORED) if self.ious is None else self.ious * IOU_SCALE
        return {
            "counts": encode(np.array([len(boxes) for boxes in self.boxes], "<u2")),
            "boxes": encode(np.clip(corners.round(), 0, FULL).astype("<u2")),
            # Rounded down: an IoU below 0.5 must not become one that counts as right.
            "iou": encode(np.floor(ious + 1e-9).astype("<u2")),
            "causes": "".join(
                NO_CODE if cause is None else CODES[cause] for cause in self.causes or ()
            ),
        }


def explain_no_steps(segmenter: Segmenter, name: str) -> str | None:
    """Explain why the page has no slider; None where it has one.

    Args:
        segmenter: of the run.
        name: of the segmenter.
    """
    if not isinstance(segmenter, Threshold):
        return (
            f"No slider: segmenter {name} works on the image at each threshold, so its steps would "
            "have to be computed anew for each; the chart above shows the accuracy of the map alone"
        )
    if segmenter.at != "fraction":
        return (
            f"No slider: segmenter.at={segmenter.at} is no fraction of the map's maximum; "
            "segmenter.at=fraction has one"
        )
    return None


def segment_at_steps(
    segmenter: Threshold,
    saliency: SaliencyMap,
    true: Float[np.ndarray, "M 4"] | None,
    is_class_right: bool = True,
) -> StepBoxes:
    """Segment a map at each threshold.

    Args:
        segmenter: of the run, at whatever threshold.
        saliency: the map.
        true: the annotated boxes of its class, xyxy in pixels; None: it is not scored.
        is_class_right: whether the classifier has the class first; true where it was not asked.
    """
    if saliency.score < segmenter.probability:
        none = np.zeros((0, 4), np.float32)
        boxes = [none] * COUNT
    else:
        boxes = _list_boxes(segmenter, saliency)
    if true is None:
        return StepBoxes(boxes, None)
    nothing = np.zeros(4, np.float32)  # no box has an IoU of 0 with any
    firsts = np.stack([each[0] if len(each) else nothing for each in boxes])
    ious = pairwise_iou(firsts, true).max(axis=1) if len(true) else np.zeros(COUNT)
    rounded = [np.round(each, 2) for each in boxes]
    causes = find_causes_at_steps(rounded, true, is_class_right) if len(true) else None
    return StepBoxes(boxes, ious, causes)


def _list_boxes(segmenter: Threshold, saliency: SaliencyMap) -> list[Float32[np.ndarray, "N 4"]]:
    """Return the boxes of each step."""
    scaled = upsample(saliency.raw(), frame_size(saliency.size))
    at_once = segmenter.components == "largest" and segmenter.connectivity == 8
    if not at_once or segmenter.parts != "none" or not scaled.any():
        return [segmenter.segment(scaled, saliency, step).boxes for step in STEPS]
    largest = curves(scaled, np.zeros((0, 4)), saliency.size).boxes
    boxes = [largest[threshold_index(step)][None] for step in STEPS if step <= THRESHOLDS[-1]]
    return [*boxes, segmenter.segment(scaled, saliency, STEPS[-1]).boxes]


def measure_steps(
    steps: Sequence[StepBoxes], ious: Sequence[float]
) -> Mapping[str, Sequence[float]] | None:
    """Return the share of right images at each step, for each IoU; None where none is scored.

    Args:
        steps: of each map that is shown.
        ious: at which a first box is right.
    """
    scored = [each.ious for each in steps if each.ious is not None]
    if not scored:
        return None
    table = np.stack(scored)
    return {f"{iou:g}": np.round((table >= iou).mean(axis=0), 4).tolist() for iou in ious}


def count_causes(steps: Sequence[StepBoxes]) -> dict[Cause, list[int]]:
    """Return how many boxes have each cause at each step; of causes that occur.

    Args:
        steps: of each map that is shown.
    """
    counts = [
        Counter(each.causes[step] for each in steps if each.causes is not None)
        for step in range(COUNT)
    ]
    return {
        cause: [count[cause] for count in counts]
        for cause in CAUSES
        if any(count[cause] for count in counts)
    }


def encode(values: np.ndarray[Any, Any]) -> str:
    """Return the bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
