"""Why a box is wrong, as far as it can be told from boxes and truth.

With the shares of a found box P and a true box G of its class that lie in both, IoP = |P n G| / |P|
and IoG = |P n G| / |G|, a first box whose IoU with each true box is below 0.5 is

    several merged    it meets at least two true boxes, each with IoG > 0.3
    part              IoP > 0.5: most of the box lies in the object
    context           IoG > 0.7: most of the object lies in the box
    wrong object      no true box is met by more than a tenth of it
    shifted           any other

These are the errors of Gao et al., "TS-CAM: Token Semantic Coupled Attention Map for Weakly
Supervised Object Localization", ICCV 2021 (multi-instance, part, more); where both part and
context hold, the larger share decides. Of right boxes it is told which are of an image that
the classifier takes for another class (wrong class: Top-1 Loc counts it as wrong), and in which
another annotated object has no box (one of several).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.ops.iou import pairwise_iou
from pipeline.results.table import to_percent

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

RIGHT_IOU = 0.5
MERGED, PART, CONTEXT, MET = 0.3, 0.5, 0.7, 0.1  # IoG, IoP, IoG, IoP

Cause = Literal[
    "no_box", "several_merged", "part", "context", "wrong_object", "shifted", "wrong_class",
    "one_of_several",
]  # fmt: skip


Direction = Literal["raise", "lower"]
"""Of a threshold."""


@dataclass(frozen=True)
class CauseText:
    """What a cause is called, means, and what helps.

    Attributes:
        title: on a button.
        meaning: in a sentence.
        beside: what to change besides the threshold.
        threshold: the direction in which a threshold of the image would help; None: neither.
        is_box_wrong: whether the box counts as wrong in GT-known Loc.
    """

    title: str
    meaning: str
    beside: str
    threshold: Direction | None = None
    is_box_wrong: bool = True

    @property
    def advice(self) -> str:
        """What to change where an image alone is looked at."""
        if self.threshold is None:
            return self.beside
        return f"{self.threshold.capitalize()} the threshold. Or: {self.beside}"


CAUSES: Mapping[Cause, CauseText] = {
    "part": CauseText(
        "Part of the object",
        "Most of the box lies in the object, and much of the object outside the box: the network "
        "looks at the part that tells the class best.",
        "Train a localizer that learns whole objects: +experiment=best.",
        threshold="lower",
    ),
    "context": CauseText(
        "Too much around the object",
        "Most of the object lies in the box, and much else does too.",
        "Refine boxes by colours with segmenter=grabcut, or train a localizer: +experiment=best.",
        threshold="raise",
    ),
    "several_merged": CauseText(
        "Several objects in one box",
        "One box covers much of two or more annotated objects.",
        "Part objects that touch: segmenter.components=all segmenter.parts=peaks.",
        threshold="raise",
    ),
    "wrong_object": CauseText(
        "Somewhere else",
        "Less than a tenth of the box lies in any annotated object of its class: another object, "
        "or background that comes with the class.",
        "Look for what these images share; add images of the class elsewhere, or of that "
        "background without it (data.negatives).",
    ),
    "shifted": CauseText(
        "Beside the object",
        "The box meets the object, but most of the box lies outside it, and not most of the object "
        "in the box.",
        "Compute maps of a higher resolution: a smaller model.stride, or explain.scales.",
    ),
    "no_box": CauseText(
        "No box",
        "Nothing was found.",
        "Set a lower segmenter.probability.",
        threshold="lower",
    ),
    "wrong_class": CauseText(
        "Right box, wrong class",
        "The box fits, and the classifier takes the image for another class: right in GT-known "
        "Loc, wrong in Top-1 Loc.",
        "Train longer or with a larger network; look for wrong labels with +experiment=check "
        "check.doubt=true.",
        is_box_wrong=False,
    ),
    "one_of_several": CauseText(
        "One of several found",
        "The first box fits an object, and another annotated one has no box.",
        "Keep a box for each object: segmenter.components=all.",
        is_box_wrong=False,
    ),
}
"""The causes in the order in which the page lists equal counts."""

NO_CODE = "0"
CODES: Mapping[Cause, str] = {cause: str(n) for n, cause in enumerate(CAUSES, start=1)}
"""What the page writes for the cause at each step of its slider: one character."""


def find_cause(
    boxes: Float[np.ndarray, "N 4"], true: Float[np.ndarray, "M 4"], is_class_right: bool
) -> Cause | None:
    """Return why the boxes of an image are wrong; None where nothing is.

    Args:
        boxes: found for the class, xyxy in pixels, best first.
        true: the annotated ones of the class, at least one.
        is_class_right: whether the classifier has the class first; true where it was not asked.
    """
    return find_causes_at_steps([boxes], true, is_class_right)[0]


def find_causes_at_steps(
    boxes: Sequence[Float[np.ndarray, "N 4"]],
    true: Float[np.ndarray, "M 4"],
    is_class_right: bool,
) -> list[Cause | None]:
    """Return why the boxes of an image are wrong at each of several thresholds.

    Args:
        boxes: found for the class at each threshold, xyxy in pixels, best first.
        true: the annotated ones of the class, at least one.
        is_class_right: whether the classifier has the class first; true where it was not asked.
    """
    causes: list[Cause | None] = ["no_box"] * len(boxes)
    counts = np.array([len(each) for each in boxes], np.int64)
    filled = np.flatnonzero(counts).tolist()
    if not filled:
        return causes
    stacked = np.concatenate([boxes[step] for step in filled]).astype(np.float64)
    starts = np.cumsum(counts[filled]) - counts[filled]
    ious = pairwise_iou(stacked, true)
    is_right = ious[starts].max(axis=1) >= RIGHT_IOU
    best: np.ndarray = np.maximum.reduceat(ious, starts, axis=0)
    is_met = np.all(best >= RIGHT_IOU, axis=1)
    wrong = _find_box_causes(stacked[starts], np.asarray(true, np.float64))
    for n, step in enumerate(filled):
        if not is_right[n]:
            causes[step] = wrong[n]
        elif not is_class_right:
            causes[step] = "wrong_class"
        else:
            causes[step] = None if is_met[n] else "one_of_several"
    return causes


def _find_box_causes(
    boxes: Float64[np.ndarray, "N 4"], true: Float64[np.ndarray, "M 4"]
) -> list[Cause]:
    """Return why each of several boxes with an IoU below 0.5 with each true box is wrong."""
    of_box, of_true = _shares(boxes, true)
    nearest = np.argmax(of_box + of_true, axis=1)[:, None]
    iop = np.take_along_axis(of_box, nearest, axis=1)[:, 0]
    iog = np.take_along_axis(of_true, nearest, axis=1)[:, 0]
    holds: Mapping[Cause, Bool[np.ndarray, N]] = {  # the first one that holds is the cause
        "several_merged": (of_true > MERGED).sum(axis=1) > 1,
        "context": (iog > CONTEXT) & ((iog >= iop) | (iop <= PART)),
        "part": iop > PART,
        "wrong_object": of_box.max(axis=1) < MET,
    }
    causes: list[Cause] = np.select(list(holds.values()), list(holds), "shifted").tolist()
    return causes


def _shares(
    boxes: Float64[np.ndarray, "N 4"], true: Float64[np.ndarray, "M 4"]
) -> tuple[Float64[np.ndarray, "N M"], Float64[np.ndarray, "N M"]]:
    """Return the intersections of boxes with true boxes, as shares of the boxes and of the true."""
    low = np.maximum(boxes[:, None, :2], true[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], true[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    of_box, of_true = (
        np.divide(shared, area, out=np.zeros_like(shared), where=area > 0)
        for area in (_areas(boxes)[:, None], _areas(true)[None])
    )
    return of_box, of_true


def _areas(boxes: Float64[np.ndarray, "N 4"]) -> Float64[np.ndarray, N]:
    """Return the area of each box."""
    areas: Float64[np.ndarray, N] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def find_causes(
    records: Sequence[Mapping[str, Any]], is_multi_label: bool
) -> dict[tuple[int, int], Cause]:
    """Return the cause of each scored image, or class of an image, that has one.

    Args:
        records: of images.json.
        is_multi_label: whether an image may have several classes; then the class predicted first
            says nothing of the others.

    Returns:
        The cause by position and class.
    """
    causes = {}
    for record in records:
        if record["iou"] is None:
            continue
        boxes = np.array(record["found"], np.float64).reshape(-1, 4)
        is_right = is_multi_label or record["predicted"] == record["class"]
        cause = find_cause(boxes, np.array(record["true"], np.float64).reshape(-1, 4), is_right)
        if cause is not None:
            causes[record["position"], record["class"]] = cause
    return causes


def list_causes(
    by_method: Mapping[str, Mapping[tuple[int, int], Cause]],
    scored: Mapping[str, int],
    unit: str = "images",
    elsewhere: Collection[Cause] = (),
) -> list[dict[str, Any]]:
    """Return each cause that occurs, with its count for each method, the most frequent first.

    Args:
        by_method: the causes of each method.
        scored: how many were scored of each method.
        unit: what is counted, in the plural.
        elsewhere: causes that occur at some other threshold of the slider: they are listed too.
    """
    counts = {name: Counter(causes.values()) for name, causes in by_method.items()}
    listed = [
        {
            "key": key,
            "code": CODES[key],
            "title": text.title,
            "meaning": text.meaning,
            "advice": text.advice,
            "is_box_wrong": text.is_box_wrong,
            "count": {name: count[key] for name, count in counts.items()},
            "share": {name: count[key] / max(1, scored[name]) for name, count in counts.items()},
            "percent": {
                name: f"{to_percent(count[key] / max(1, scored[name]))} %"
                for name, count in counts.items()
            },
            "told": {
                name: f"{count[key]} of {scored[name]} {unit}" for name, count in counts.items()
            },
        }
        for key, text in CAUSES.items()
        if key in elsewhere or any(count[key] for count in counts.values())
    ]
    return sorted(
        listed, key=lambda cause: (not cause["is_box_wrong"], -max(cause["count"].values()))
    )


def describe_links(
    causes: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    images: Sequence[Mapping[str, Any]],
    total: int,
) -> list[dict[str, Any]]:
    """Return the causes, each with the words of the link that shows its images.

    Args:
        causes: as `list_causes` returns them.
        methods: the names of the methods.
        images: of the gallery, each with the results of each method.
        total: images of the run.
    """
    shown = [Counter(_first_cause(image["results"][n]) for image in images)
             for n, _ in enumerate(methods)]  # fmt: skip
    return [
        {
            **cause,
            "link": {
                name: describe_link(
                    cause["count"][name], shown[n][cause["key"]], len(images), total
                )
                for n, name in enumerate(methods)
            },
        }
        for cause in causes
    ]


def _first_cause(results: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the cause that the filters of the gallery see: that of the class named first."""
    return results[0]["cause"] if results else None


def describe_link(count: int, shown: int, images: int, total: int) -> str:
    """Describe which images of a cause a link shows; empty where it shows none.

    Args:
        count: with the cause.
        shown: of them, images in the gallery.
        images: in the gallery.
        total: images of the run.
    """
    if not shown:
        return ""
    if shown == count:
        return "Show them"
    why = f": {images} of {total} images are shown" if images < total else ""
    return f"Show {shown} of {count}{why}"
