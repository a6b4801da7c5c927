"""Average precision of boxes as the devkit of PASCAL VOC computes it.

Boxes of a class are taken from the best score down over all images. Each goes with the annotated
box of the class that it overlaps most in its image; at an IoU of at least 0.5 it is

    right         if that box is free, which it then no longer is
    wrong         if another box of a higher score has it: each object is found once
    not counted   if the annotated box is difficult

and wrong below. Objects that are difficult need not be found. The mean over classes is given, as
the area under precision over recall (VOC 2010 and later) and over 11 points (VOC 2007), see
pipeline/metric/precision_recall.py. COCO's AP differs: it gives a box the best box that is free.
Difficult objects are COCO's regions (`iscrowd`) in the records here.

Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase
from pipeline.metric.precision_recall import area_under, eleven_points, precision_recall
from pipeline.metric.scores import chosen
from pipeline.ops.iou import pairwise_iou
from pipeline.types import (
    CocoRecords,
    EvaluationSettings,
    Evidence,
    EvidenceKind,
    MetricNumber,
    Score,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

MIN_IOU = 0.5


def match(
    found: Float[np.ndarray, "N 4"],
    true: Float[np.ndarray, "M 4"],
    is_difficult: Bool[np.ndarray, M],
    iou: float = MIN_IOU,
) -> tuple[Bool[np.ndarray, N], Bool[np.ndarray, N]]:
    """Match the boxes of a class in an image with the annotated ones.

    Args:
        found: the predicted boxes, best score first.
        true: the annotated boxes, difficult ones among them.
        is_difficult: whether each of these is difficult.
        iou: what a box must reach.

    Returns:
        Whether each predicted box is right, and whether it counts.
    """
    is_right, counts = np.zeros(len(found), bool), np.ones(len(found), bool)
    if not len(true):
        return is_right, counts
    taken = np.zeros(len(true), bool)
    for n, fits in enumerate(pairwise_iou(found, true)):
        best = int(fits.argmax())
        if fits[best] < iou:
            continue
        if is_difficult[best]:
            counts[n] = False
        else:
            is_right[n] = not taken[best]
            taken[best] = True
    return is_right, counts


Records = Sequence[Mapping[str, Any]]


def class_curve(
    images: Iterable[tuple[Records, Records]],
) -> tuple[Float64[np.ndarray, m], Float64[np.ndarray, m], int]:
    """Compute precision and recall of the boxes of a class.

    Args:
        images: the annotations and the results of each image, of the class alone.

    Returns:
        Precision and recall by falling score, and how many objects are to be found.
    """
    scores, right, total = [np.zeros(0)], [np.zeros(0, bool)], 0
    for true, results in images:
        is_difficult = np.array([bool(record.get("iscrowd")) for record in true], bool)
        total += int((~is_difficult).sum())
        values = np.array([record["score"] for record in results], np.float64)
        order = np.argsort(-values, kind="stable")
        is_right, counts = match(_corners(results)[order], _corners(true), is_difficult)
        scores.append(values[order][counts])
        right.append(is_right[counts])
    return (*precision_recall(np.concatenate(scores), np.concatenate(right), total), total)


def _corners(records: Records) -> Float64[np.ndarray, "n 4"]:
    """Return the boxes of COCO records as half-open xyxy."""
    boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _group_by_class(records: Iterable[CocoRecords]) -> dict[int, list[tuple[Records, Records]]]:
    """Return the annotations and results of each image that has any, by category id."""
    by_class: dict[int, list[tuple[Records, Records]]] = {}
    for image in records:
        sides: dict[int, tuple[list[Any], list[Any]]] = {}
        for n, side in enumerate((image.annotations, image.results)):
            for record in side:
                sides.setdefault(record["category_id"], ([], []))[n].append(record)
        for number, both in sides.items():
            by_class.setdefault(number, []).append(both)
    return by_class


class VocAp(MetricBase):
    """VOC's AP of boxes at IoU 0.5, by area and by 11 points, mean over classes."""

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="voc_ap",
            title="VOC AP, boxes",
            row="VOC AP, boxes: area, 11 points",
            order=77,
            names_threshold=False,
            beside=("voc_ap_11",),
        ),
        MetricNumber(name="voc_ap_11", title="VOC AP of 11 points, boxes", in_table=False),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"voc_boxes"})
    order: ClassVar[int] = 30

    def __init__(self) -> None:
        self.settings = EvaluationSettings()
        self._records: list[CocoRecords] = []

    def with_settings(self, settings: EvaluationSettings) -> VocAp:
        """Return an empty accumulator with these settings."""
        metric = VocAp()
        metric.settings = settings
        return metric

    def update(self, evidence: Evidence) -> None:
        """Add an image with all its classes."""
        assert evidence.coco is not None
        self._records.append(evidence.coco)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the means over the classes that have an object in the selected images."""
        rows = chosen(np.arange(len(self._records)), select)
        each = [*self._of_classes([self._records[n] for n in rows]).values()]
        if not each:
            return []
        area, points = np.mean(each, 0).tolist()
        return [
            Score(name, value, len(rows), MIN_IOU, self.settings.threshold, label)
            for name, value in (("voc_ap", area), ("voc_ap_11", points))
        ]

    def compute_classes(self) -> list[Score]:
        """Compute the AP of each class that has an object, over all images."""
        count = len(self._records)
        return [
            Score(name, value, count, MIN_IOU, self.settings.threshold, label)
            for label, values in self._of_classes(self._records).items()
            for name, value in zip(("voc_ap", "voc_ap_11"), values, strict=True)
        ]

    def _of_classes(self, records: Sequence[CocoRecords]) -> dict[str, tuple[float, float]]:
        """Return the area and the mean of 11 points of each class that has an object."""
        classes = self.settings.classes
        numbers = self.settings.category_ids or range(1, len(classes) + 1)
        by_class, values = _group_by_class(records), {}
        for name, number in zip(classes, numbers, strict=True):
            precision, recall, total = class_curve(by_class.get(number, ()))
            if total:
                values[name] = area_under(precision, recall), eleven_points(precision, recall)
        return values
