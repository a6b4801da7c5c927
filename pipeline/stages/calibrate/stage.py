"""Calibrate: the threshold, chosen on boxes that are never scored.

Which boxes, the first that there are:

    user       calibrate.boxes=FILE: a few that somebody drew; those images are then not scored
    split      of a split that is there for this, where the data set has one (data.calibration=)
    held_back  of the part of train that is held back, where the data set has boxes there (CUB)
    two_fold   the scored images in two halves by hash: each half is cut at the other's threshold

What is handed on is a number for each IoU (two for the halves); no box leaves this stage. With
`segmenter.threshold=validation` the maps are cut there, at the number for IoU 0.5. Where the
segmenter makes a map of its own of map and image (GrabCut), that is what it cuts: it has numbers
of its own, under `refined`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.engine import runtime, terminal
from pipeline.engine.images import read_for_segmenter
from pipeline.engine.run import Run
from pipeline.engine.thresholds import uses_validation_threshold
from pipeline.errors import SkippedImage, UserError
from pipeline.formats.files import write_json
from pipeline.metric.components import THRESHOLDS
from pipeline.metric.max_box_acc import map_curves, two_fold_thresholds, validation_threshold
from pipeline.metric.measurement import refine_map, scale_map
from pipeline.ops.hashing import hash_file
from pipeline.protocols import AnnotatedDataSet, RefiningSegmenter
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.results.thresholds import (
    MIN_BOXED_IMAGES,
    USED_IOU,
    fold_of_image,
    too_few_boxes_error,
    without_threshold,
)
from pipeline.types import GroundTruth, SaliencyMap, Split

# Splits that are not scored, and what metrics.json calls them; the first with boxes enough.
APART: dict[Split, str] = {"calibration": "split", "held_back": "held_back"}


def cache_key(run: Run) -> dict[str, Any]:
    drawn = run.config["calibrate"]["boxes"]
    refines = isinstance(run.segmenter(), RefiningSegmenter)
    return {
        "source": run.sources(__name__, "data", *(("segmenter",) if refines else ())),
        "explain": run.key("explain"),
        "apart": [run.for_split(split).key("explain") for split in APART],
        "truth": [annotated_data(run).truth_fingerprint(split) for split in ("val", *APART)],
        "drawn": drawn and hash_file(Path(drawn)),
        "ious": run.config["evaluate"]["ious"],
        "protocol": run.config["protocol"],
        **({"segmenter": without_threshold(run.config["segmenter"])} if refines else {}),
    }


def annotated_data(run: Run) -> AnnotatedDataSet:
    """Return the data set with the annotations that it may have."""
    return cast(AnnotatedDataSet, run.data)


def check(run: Run) -> None:
    """Raises UserError for drawn boxes that cannot be read or used, and where boxes are to be cut
    at a threshold that no box could choose."""
    drawn = run.config["calibrate"]["boxes"]
    if drawn is not None:
        drawn_boxes(run, Path(drawn))
    elif uses_validation_threshold(run):
        truth, _, _ = _boxed(run)
        if (count := sum(len(one.of_label()) > 0 for one in truth.values())) < MIN_BOXED_IMAGES:
            raise too_few_boxes_error(count, run.config["checkpoint"])


def drawn_boxes(run: Run, file: Path) -> Mapping[str, GroundTruth]:
    draw = getattr(run.data, "drawn", None)
    if draw is None:
        raise UserError("calibrate.boxes: boxes that you draw are for data=folder")
    if not file.is_file():
        raise UserError(f"calibrate.boxes={file}: no such file; expected COCO JSON")
    return cast(Mapping[str, GroundTruth], draw(file))


def make(run: Run, folder: Path) -> None:
    ious = sorted({*run.config["evaluate"]["ious"], USED_IOU})
    drawn = run.config["calibrate"]["boxes"]
    if drawn is not None:
        truth, source, of = drawn_boxes(run, Path(drawn)), "user", run.for_split("all")
        maps = of.get_or_create("explain")[0]
        kept = measured(of, maps, truth)
        if len(kept) < MIN_BOXED_IMAGES:
            raise UserError(
                f"calibrate.boxes={drawn}: {len(kept)} images of the data set have boxes of their "
                f"class there; a threshold wants {MIN_BOXED_IMAGES} at least, and 50 serve well"
            )
    else:
        truth, source, of = _boxed(run)
        maps = run.folder("explain") if of is run else of.get_or_create("explain")[0]
        kept = measured(of, maps, truth)
    result = {**chosen(kept, ious, source), "refined": None}
    if isinstance(segmenter := run.segmenter(), RefiningSegmenter):
        result["refined"] = chosen(measured(of, maps, truth, segmenter), ious, source)
    if result["source"] is None:
        terminal.print_line("calibrate: too few boxes for a validation threshold; "
                 "calibrate.boxes=FILE takes "
                  "a COCO file of some that you draw")  # fmt: skip
    write_json(folder / "thresholds.json", result, indent=1)


def _boxed(run: Run) -> tuple[Mapping[str, GroundTruth], str, Run]:
    """Boxes that a threshold can be chosen on, what they are called, and the run over them."""
    for split, source in APART.items():
        truth = annotated_data(run).truth(split)
        if sum(len(one.of_label()) > 0 for one in truth.values()) >= MIN_BOXED_IMAGES:
            return truth, source, run.for_split(split)
    return annotated_data(run).truth("val"), "two_fold", run


def measured(
    run: Run,
    maps: Path,
    truth: Mapping[str, GroundTruth],
    refining: RefiningSegmenter | None = None,
) -> dict[str, np.ndarray]:
    """IoU of the largest component at each of `THRESHOLDS`, float64 [1000], by image id; of the
    maps, or of what a segmenter makes of them before it cuts them."""
    ids, labels = run.data.ids(run.split), run.data.labels(run.split)
    protocol = run.config["protocol"]

    def items() -> Iterator[tuple[int, SaliencyMap]]:
        for shard in list_shards(maps):
            yield from iterate_maps(shard, ids)

    def of_map(item: tuple[int, SaliencyMap]) -> tuple[str, np.ndarray | None]:
        position, saliency = item
        known = truth.get(saliency.id)
        if known is None or saliency.explained != labels[position] or not len(known.of_label()):
            return saliency.id, None
        scaled: np.ndarray
        if refining is None:
            scaled = scale_map(saliency.raw(), saliency.size, protocol)
        else:
            example = read_for_segmenter(run, refining, position, saliency)
            if isinstance(example, SkippedImage):
                return saliency.id, None
            scaled = refine_map(refining, saliency, example, protocol)
        return saliency.id, map_curves(scaled, known.of_label(), saliency.size, protocol).largest

    found = runtime.map_in_threads(of_map, items(), run.workers)
    return {id: iou for id, iou in found if iou is not None}


def chosen(
    measured: Mapping[str, np.ndarray], ious: Sequence[float], source: str
) -> dict[str, Any]:
    """thresholds.json: for each IoU the value, or one for each half; and on which images."""
    ids = list(measured)
    if len(ids) < MIN_BOXED_IMAGES:
        return {"source": None, "n": len(ids), "images": [], "thresholds": {},
                "elsewhere": {}}  # fmt: skip
    rows = np.stack([measured[id] for id in ids])
    half = np.array([fold_of_image(id) for id in ids])
    elsewhere = {f"{iou:g}": validation_threshold((rows >= iou).mean(0)) for iou in ious}
    # Each half is cut at what is best for the other; all others at what is best for these.
    thresholds = {iou: [value] for iou, value in elsewhere.items()}
    if source == "two_fold":
        thresholds = {
            f"{iou:g}": two_fold_thresholds([(rows[half == n] >= iou).mean(0) for n in (0, 1)])
            for iou in ious
        }
    return {
        "source": source,
        "n": len(ids),
        # Images that chose the threshold for all are not to be scored with it.
        "images": ids if source == "user" else [],
        "thresholds": thresholds,
        # For an image that is in neither half.
        "elsewhere": elsewhere,
        "expected": _expected(rows, half, ious) if source == "user" else None,
    }


def _expected(rows: np.ndarray, half: np.ndarray, ious: Iterable[float]) -> dict[str, Any]:
    """Accuracy to expect on the rest: of these images, each half cut at the other's threshold."""
    from pipeline.ops.bootstrap import interval

    told = {}
    for iou in ious:
        correct = np.zeros(len(rows))
        for fold in (0, 1):
            other = (rows[half != fold] >= iou).mean(0)
            at = int(np.searchsorted(THRESHOLDS, validation_threshold(other) - 1e-9))
            correct[half == fold] = rows[half == fold, at] >= iou
        told[f"{iou:g}"] = {"value": float(correct.mean()), "interval": list(interval(correct))}
    return told
