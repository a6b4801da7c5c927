"""COCO AP and AR of boxes and of masks, by pycocotools itself.

    AP   precision averaged over 101 recalls, ten IoUs .50:.05:.95, and classes
    AR   highest recall with 1, 10 or 100 boxes an image, averaged over the same IoUs and classes
    small < 32^2 <= medium < 96^2 <= large, in pixels of area

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; pycocotools.cocoeval does every
sum. Its xywh boxes exist only in this file and in what it reads. A number that is not defined, for
want of objects of its kind (-1 there), is left out.

pycocotools looks at every class in every image: 50,000 images of 1000 classes would take it hours.
A class's precision and recall depend on its own boxes alone, so each class is measured on the
images that it is in, and the mean over classes is the same number.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.errors import UserError
from pipeline.metric.base import MetricBase
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

Kind = Literal["bbox", "segm"]
FIELDS = {"bbox": "bbox", "segm": "segmentation"}
_NAMES = (
    ("ap", None), ("ap", 0.5), ("ap", 0.75), ("ap_small", None), ("ap_medium", None),
    ("ap_large", None), ("ar_1", None), ("ar_10", None), ("ar_100", None),
    ("ar_small", None), ("ar_medium", None), ("ar_large", None),
)  # fmt: skip


def coco_scores(
    annotations: Mapping[str, Any] | str | Path,
    results: Sequence[Mapping[str, Any]],
    kind: Kind = "bbox",
    image_ids: Sequence[int] | None = None,
    category_ids: Sequence[int] | None = None,
    label: str | None = None,
    threshold: Mapping[str, Any] | None = None,
    each: Mapping[int, str] | None = None,
) -> list[Score]:
    """Compute the twelve numbers of COCO, `coco_box_*` or `coco_mask_*`.

    `annotations`: a COCO file or what it holds; `results`: COCO's list of results, which may be
    empty. `image_ids`, `category_ids`: only these; None: all. `each`: names of categories whose
    own AP is added, `n` then being the images that hold a box of it, annotated or found. An area
    is that of the mask alone for "segm", that of the box else. Nothing is printed.
    """
    if kind not in FIELDS:
        raise ValueError(f"kind: expected bbox or segm, got {kind!r}")
    content = _content(annotations, kind)
    images = {image["id"] for image in content["images"]}
    _check(results, kind, images)
    chosen = images if image_ids is None else set(image_ids)
    numbers = [one["id"] for one in content["categories"]] if category_ids is None else category_ids
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = content
        true.createIndex()
        found = _found(true, results, kind)
        held: dict[int, set[int]] = {}  # images by category
        for part in (true, found):
            for one in part.dataset["annotations"]:
                if one["image_id"] in chosen:
                    held.setdefault(one["category_id"], set()).add(one["image_id"])
        stats = {n: _of_category(true, found, kind, n, held.get(n, set())) for n in sorted(numbers)}
    prefix = _prefix(kind)
    every = np.array(list(stats.values()), float).reshape(-1, len(_NAMES))
    known = ~np.isnan(every)
    scores = [
        Score(
            prefix + name, float(every[known[:, k], k].mean()), len(chosen), iou, threshold, label
        )
        for k, (name, iou) in enumerate(_NAMES)
        if known[:, k].any()
    ]
    for number, name in (each or {}).items():
        scores += [
            Score(prefix + "ap", float(value), len(held[number]), iou, threshold, name)
            for (what, iou), value in zip(_NAMES, stats[number], strict=True)
            if what == "ap" and not np.isnan(value)
        ]
    return scores


def _prefix(kind: Kind) -> str:
    return "coco_box_" if kind == "bbox" else "coco_mask_"


def _of_category(
    true: COCO, found: COCO, kind: Kind, number: int, images: set[int]
) -> Float64[np.ndarray, "12"]:
    """Pycocotools' numbers of one category; NaN where it has none."""
    if not images:
        return np.full(len(_NAMES), np.nan)
    evaluation = COCOeval(None, None, kind)  # with them it would list all images, every time
    evaluation.cocoGt, evaluation.cocoDt = true, found
    evaluation.params.imgIds, evaluation.params.catIds = sorted(images), [number]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.where(evaluation.stats > -1, evaluation.stats, np.nan)


def _check(results: Sequence[Mapping[str, Any]], kind: Kind, images: set[int]) -> None:
    for i, result in enumerate(results):
        for name in ("image_id", "category_id", "score", FIELDS[kind]):
            if name not in result:
                raise UserError(f"COCO result {i}: expected a field {name!r}, got {sorted(result)}")
        if result["image_id"] not in images:
            raise UserError(
                f"COCO result {i}: image_id {result['image_id']} is none of the {len(images)} "
                "images of the annotations"
            )


def coco_box(box: Float[np.ndarray, "4"]) -> list[float]:
    """Xyxy half-open -> COCO's xywh."""
    x0, y0, x1, y1 = (float(v) for v in box)
    return [x0, y0, x1 - x0, y1 - y0]


def _content(annotations: Mapping[str, Any] | str | Path, kind: Kind) -> dict[str, Any]:
    """Copy annotations, with the fields that pycocotools needs and some files lack."""
    if isinstance(annotations, (str, Path)):
        try:
            annotations = json.loads(Path(annotations).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"COCO annotations {annotations}: {error}") from error
    if not isinstance(annotations, Mapping):
        raise UserError(f"COCO annotations: expected an object, got {type(annotations).__name__}")
    content = {"info": {}, **annotations}
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list):
            raise UserError(
                f"COCO annotations: expected a list {name!r}, got {sorted(annotations)}"
            )
    sizes = {one["id"]: (one.get("height"), one.get("width")) for one in content["images"]}
    filled = []
    for i, one in enumerate(content["annotations"]):
        for name in ("image_id", "category_id", "bbox"):
            if name not in one:
                raise UserError(
                    f"COCO annotation {i}: expected a field {name!r}, got {sorted(one)}"
                )
        full = {"id": i + 1, "iscrowd": 0, **one}
        if "area" not in one:
            full["area"] = _area(one, kind, sizes.get(one["image_id"], (None, None)))
        filled.append(full)
    content["annotations"] = filled
    return content


def _area(one: Mapping[str, Any], kind: Kind, size: tuple[int | None, int | None]) -> float:
    """In pixels, for an annotation that does not say: of its mask, or of its box."""
    shape = one.get("segmentation")
    if kind == "segm" and shape and (isinstance(shape, Mapping) or None not in size):
        from pycocotools import mask

        rle = shape
        if isinstance(shape, list):
            rle = mask.merge(mask.frPyObjects(shape, *size))
        elif isinstance(shape["counts"], list):
            rle = mask.frPyObjects(shape, *shape["size"])
        return float(mask.area(rle))
    return float(one["bbox"][2] * one["bbox"][3])


def _found(true: COCO, results: Sequence[Mapping[str, Any]], kind: Kind) -> COCO:
    if results:
        # With a box and a mask, loadRes would take masks' areas from boxes.
        fields = ("image_id", "category_id", "score", FIELDS[kind])
        return true.loadRes([{name: result[name] for name in fields} for result in results])
    empty = COCO()  # loadRes looks at the first result to tell boxes from masks
    empty.dataset = {**true.dataset, "annotations": []}
    empty.createIndex()
    return empty


# -- the metrics ----------------------------------------------------------------------------------

_TITLES = {"ap": "AP", "ar": "AR"}


def _numbers(kind: Kind, order: int) -> tuple[MetricNumber, ...]:
    """Return the names of COCO's numbers; AP alone has a row in the table."""
    what = "boxes" if kind == "bbox" else "masks"
    return tuple(
        MetricNumber(
            name=_prefix(kind) + name,
            title=f"COCO {_TITLES[name[:2]]}{name[2:].replace('_', ' ')}, {what}",
            order=order,
            in_table=name == "ap",
            names_threshold=False,
        )
        for name in dict.fromkeys(name for name, _ in _NAMES)
    )


class CocoBoxes(MetricBase):
    """COCO's AP and AR of boxes: all images, all classes that are annotated or found."""

    numbers: ClassVar[Sequence[MetricNumber]] = _numbers("bbox", 80)
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"coco_boxes"})
    order: ClassVar[int] = 10
    kind: ClassVar[Kind] = "bbox"

    def __init__(self) -> None:
        self.settings = EvaluationSettings()
        self._records: list[CocoRecords] = []
        self._scores: list[Score] | None = None  # over all images, and of each class

    def with_settings(self, settings: EvaluationSettings) -> CocoBoxes:
        """Return an empty accumulator with these settings."""
        metric = type(self)()
        metric.settings = settings
        return metric

    def update(self, evidence: Evidence) -> None:
        """Add an image with all its classes."""
        assert evidence.coco is not None
        self._records.append(evidence.coco)
        self._scores = None

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the numbers over the selected images, with all classes in them."""
        if select is None:
            return [score for score in self._all_scores() if score.label is None]
        records = [record for record, keep in zip(self._records, select, strict=True) if keep]
        return self._compute(records, label, classes=False)

    def compute_classes(self) -> list[Score]:
        """Compute the AP of each class that is annotated, on the images that it is in."""
        return [score for score in self._all_scores() if score.label is not None]

    def _all_scores(self) -> list[Score]:
        if self._scores is None:
            self._scores = self._compute(self._records, None, classes=True)
        return self._scores

    def _compute(
        self, records: Sequence[CocoRecords], label: str | None, classes: bool
    ) -> list[Score]:
        annotations = [one for record in records for one in record.annotations]
        results = [one for record in records for one in record.results]
        if not annotations or not self._is_measured(annotations, results):
            return []
        names = dict(zip(self._category_ids(), self.settings.classes, strict=True))
        content = {
            "images": [record.image for record in records],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in names.items()],
        }
        held = {one["category_id"] for one in annotations if not one.get("iscrowd")}
        each = {number: name for number, name in names.items() if number in held}
        return coco_scores(
            content, results, self.kind, label=label, threshold=self.settings.threshold,
            each=each if classes else None,
        )  # fmt: skip

    def _category_ids(self) -> Sequence[int]:
        return self.settings.category_ids or range(1, len(self.settings.classes) + 1)

    def _is_measured(
        self, annotations: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Return whether both sides have what is measured."""
        return True


class CocoMasks(CocoBoxes):
    """COCO's AP and AR of masks, where all annotations and all results have masks."""

    numbers: ClassVar[Sequence[MetricNumber]] = _numbers("segm", 90)
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"coco_masks"})
    order: ClassVar[int] = 20
    kind: ClassVar[Kind] = "segm"

    def notes(self) -> list[str]:
        """Return which side lacks masks, where the results have some."""
        results = [one for record in self._records for one in record.results]
        masked = [_has_mask(one) for one in results]
        if not any(masked):
            return []
        if not all(masked):
            return ["not all records have masks: no AP of masks"]
        if all(_has_mask(one) for record in self._records for one in record.annotations):
            return []
        return ["not all annotations have masks: no AP of masks"]

    def _is_measured(
        self, annotations: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Return whether there are results, and all of both sides have masks."""
        return bool(results) and all(map(_has_mask, results)) and all(map(_has_mask, annotations))


def _has_mask(record: Mapping[str, Any]) -> bool:
    return bool(record.get("segmentation"))
