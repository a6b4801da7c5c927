"""COCO AP and AR of boxes and of masks, by pycocotools itself.

    AP   precision averaged over 101 recalls, ten IoUs .50:.05:.95, and classes
    AR   highest recall with 1, 10 or 100 boxes an image, averaged over the same IoUs and classes
    small < 32^2 <= medium < 96^2 <= large, in pixels of area

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; pycocotools.cocoeval does every
sum. Its xywh boxes exist only in this file and in what it reads. A number that is not defined, for
want of objects of its kind (-1 there), is left out.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.records import Problem, Score

if TYPE_CHECKING:
    from jaxtyping import Float

_NAMES = (
    ("ap", None), ("ap", 0.5), ("ap", 0.75), ("ap_small", None), ("ap_medium", None),
    ("ap_large", None), ("ar_1", None), ("ar_10", None), ("ar_100", None),
    ("ar_small", None), ("ar_medium", None), ("ar_large", None),
)  # fmt: skip


def coco_scores(
    annotations: Mapping[str, Any] | str | Path,
    results: Sequence[Mapping[str, Any]],
    kind: Literal["bbox", "segm"] = "bbox",
    image_ids: Sequence[int] | None = None,
    category_ids: Sequence[int] | None = None,
    label: str | None = None,
    threshold: Mapping[str, Any] | None = None,
) -> list[Score]:
    """The twelve numbers of COCO, `coco_box_*` or `coco_mask_*`.

    `annotations`: a COCO file or what it holds; `results`: COCO's list of results, which may be
    empty. `image_ids`, `category_ids`: only these; None: all. Nothing is printed.
    """
    if kind not in ("bbox", "segm"):
        raise ValueError(f"kind: expected bbox or segm, got {kind!r}")
    content = _content(annotations)
    field = "bbox" if kind == "bbox" else "segmentation"
    images = {image["id"] for image in content["images"]}
    for i, result in enumerate(results):
        for name in ("image_id", "category_id", "score", field):
            if name not in result:
                raise Problem(f"COCO result {i}: expected a field {name!r}, got {sorted(result)}")
        if result["image_id"] not in images:
            raise Problem(
                f"COCO result {i}: image_id {result['image_id']} is none of the {len(images)} "
                "images of the annotations"
            )
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = content
        true.createIndex()
        evaluation = COCOeval(true, _found(true, results), kind)
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        if category_ids is not None:
            evaluation.params.catIds = sorted(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    prefix = "coco_box_" if kind == "bbox" else "coco_mask_"
    return [
        Score(prefix + name, float(value), len(evaluation.params.imgIds), iou, threshold, label)
        for (name, iou), value in zip(_NAMES, evaluation.stats, strict=True)
        if value > -1
    ]


def coco_box(box: Float[np.ndarray, "4"]) -> list[float]:
    """xyxy half-open -> COCO's xywh."""
    x0, y0, x1, y1 = (float(v) for v in box)
    return [x0, y0, x1 - x0, y1 - y0]


def _content(annotations: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A copy with the fields that pycocotools needs and some files lack."""
    if isinstance(annotations, (str, Path)):
        try:
            annotations = json.loads(Path(annotations).read_text())
        except (OSError, ValueError) as error:
            raise Problem(f"COCO annotations {annotations}: {error}") from error
    if not isinstance(annotations, Mapping):
        raise Problem(f"COCO annotations: expected an object, got {type(annotations).__name__}")
    content = {"info": {}, **annotations}
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list):
            raise Problem(f"COCO annotations: expected a list {name!r}, got {sorted(annotations)}")
    filled = []
    for i, one in enumerate(content["annotations"]):
        for name in ("image_id", "category_id", "bbox"):
            if name not in one:
                raise Problem(f"COCO annotation {i}: expected a field {name!r}, got {sorted(one)}")
        filled.append({"id": i + 1, "iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3], **one})
    content["annotations"] = filled
    return content


def _found(true: COCO, results: Sequence[Mapping[str, Any]]) -> COCO:
    if results:
        return true.loadRes([dict(result) for result in results])
    empty = COCO()  # loadRes looks at the first result to tell boxes from masks
    empty.dataset = {**true.dataset, "annotations": []}
    empty.createIndex()
    return empty
