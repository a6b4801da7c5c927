"""False alarms: what an image without an object would get a box for, and how sure it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pipeline.metric.false_alarms import MIN_CONFIDENCE
from pipeline.ops.wilson import wilson_interval
from pipeline.types import Boxes, Note, SaliencyMap


def measure_alarm(
    maps: Sequence[SaliencyMap],
    boxes: Mapping[int, Boxes],
    predicted: int,
    negatives: Collection[int],
) -> float | None:
    """Return the confidence of the best-scored box of the predicted class (see `Evidence.alarm`).

    Args:
        maps: of the image.
        boxes: of the image by class, with confidences.
        predicted: the most probable class.
        negatives: classes without an object.

    Returns:
        0 where the predicted class is negative, or has no box in its map; None where it has no map.
    """
    if predicted in negatives:
        return 0.0
    if all(saliency.explained != predicted for saliency in maps):
        return None
    found = boxes.get(predicted)
    if found is None or found.confidences is None or not len(found.confidences):
        return 0.0
    return float(found.confidences[0])


def describe_alarms(alarms: Mapping[str, float]) -> list[Note]:
    """Return how many images without an object would get a box, in a sentence.

    Args:
        alarms: by the name of the image.
    """
    total = len(alarms)
    if not total:
        return []
    names = [name for name, alarm in alarms.items() if alarm >= MIN_CONFIDENCE]
    low, high = wilson_interval(len(names), total)
    some = sum(alarm > 0 for alarm in alarms.values())
    text = (
        f"evaluate: of {total} images without an object (data.negatives) {len(names)} "
        f"({100 * len(names) / total:.1f} %, 95 %: {100 * low:.1f} to {100 * high:.1f}) are "
        f"taken for an object, with a box of confidence {MIN_CONFIDENCE:g} or more; {some} "
        "with a box of any confidence"
    )
    return [Note(text, names)]


def describe_backgrounds(boxes: Mapping[str, int], total: int) -> list[Note]:
    """Return what images that are labelled as showing no class count as.

    Args:
        boxes: how many boxes each of them has, by its name.
        total: how many images the split has.
    """
    if not boxes:
        return []
    count, wrong = sum(boxes.values()), [name for name, number in boxes.items() if number]
    boxed = "they have no box, as none is asked for"
    if count:
        boxed = (
            f"{len(wrong)} of them have {count} box{'es' * (count > 1)} of predicted classes, "
            "which COCO's AP and VOC's AP count as wrong"
        )
    text = (
        f"evaluate: {len(boxes)} of {total} images {'are' if len(boxes) > 1 else 'is'} labelled as "
        "showing no class: they count in the classifier's mAP as images without each class, and "
        f"not in CorLoc and what else is of an object or a map of one; {boxed}"
    )
    return [Note(text, wrong or [*boxes])]
