"""Evaluate: boxes and maps against annotations, classification against labels.

    python -m pipeline +experiment=cam                                        this run itself
    python -m pipeline +experiment=evaluate boxes=theirs.json annotations=instances.json
    python -m pipeline +experiment=evaluate maps=theirs/ metadata=metadata/val
    ... against=others.json      the same images scored again, and whether the difference is luck

    metrics.json      all numbers with what they stand on; `group` says of which images
    images.json       the boxes of each image and their IoU; images_against.json: of against=
    table.json, table.txt  the main numbers       curve.json  accuracy over the threshold
    notes.json        what was left out, counted and named
    rows.safetensors  of a run, a row for each scored image: what stage compare takes
    comparison.json   of boxes= or maps= with against=: each difference, its interval, p, a sentence

A source gives evidence, image by image (own_run.py, coco_results.py, map_folder.py); the evaluator
feeds it to the metrics of conf/metric/; the table and the comparison follow from what these say of
their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from pipeline.engine.images import read_for_segmenter
from pipeline.engine.methods import parse_targets
from pipeline.engine.metrics import load_metrics, metrics_key
from pipeline.engine.run import Run
from pipeline.engine.thresholds import used_thresholds, uses_validation_threshold
from pipeline.errors import UserError
from pipeline.protocols import AnnotatedDataSet, RefiningSegmenter
from pipeline.results.boxes import load_notes
from pipeline.results.thresholds import (
    USED_IOU,
    load_thresholds,
    validation_threshold_info,
)
from pipeline.stages.evaluate import others, outcome
from pipeline.stages.evaluate.maps import MapScale, list_cuts
from pipeline.stages.evaluate.own_run import Explained, OwnRun, RefinedMaps, guesses_have_boxes
from pipeline.types import EvaluationSettings


def cache_key(run: Run) -> dict[str, Any]:
    """Return all that can change the numbers."""
    metrics = metrics_key()
    if others.are_named(run.config):
        named = others.cache_key(run.config, run.segmenter().threshold_info)
        return {"source": run.sources(__name__), "metrics": metrics, **named}
    return {
        "source": run.sources(__name__, "data"),
        "metrics": metrics,
        "localize": run.key("localize"),
        "explain": run.key("explain"),
        "calibrate": run.key("calibrate") if "calibrate" in run.config["stages"] else None,
        "truth": annotated_data(run).truth_fingerprint("val"),
        "evaluate": run.config["evaluate"],
        "protocol": run.config["protocol"],
        "seed": run.config["seed"],
    }


def annotated_data(run: Run) -> AnnotatedDataSet:
    """Return the data set with the annotations that it may have."""
    return cast(AnnotatedDataSet, run.data)


def check(run: Run) -> None:
    """Raise UserError for annotations that cannot be read, and where there is nothing to score,
    before anything is computed."""
    if others.are_named(run.config):
        others.check(run.config)
        return
    if run.config["stages"] == ["evaluate"]:
        try:
            run.folder("localize")
        except UserError as problem:
            raise UserError(
                "boxes=null, maps=null: nothing to score; give boxes=RESULTS.json "
                "annotations=INSTANCES.json, or maps=FOLDER; or for a run of our own:\n"
                f"{problem}"
            ) from None
    annotated_data(run).truth("val")


def make(run: Run, folder: Path) -> None:
    """Score what the configuration names: what others made, or this run."""
    metrics = load_metrics()
    if others.are_named(run.config):
        sources, notes = others.open_sources(
            run.config, run.segmenter().threshold_info, run.workers
        )
        outcome.write_others(folder, sources, metrics, notes)
        return
    picked = _picked_thresholds(run)
    outcome.write_run(
        folder,
        _own_run(run, picked),
        metrics,
        _refined_maps(run, picked),
        run.config["protocol"],
    )


def _picked_thresholds(run: Run) -> Mapping[str, Any] | None:
    """Return the thresholds that stage calibrate chose, or what the boxes were cut at, if any."""
    if uses_validation_threshold(run):
        return used_thresholds(run)
    if "calibrate" in run.config["stages"]:
        return load_thresholds(run.folder("calibrate"))
    return None


def _explained(run: Run, picked: Mapping[str, Any] | None) -> Explained:
    """Return the images of this run; what somebody drew to choose the threshold is not scored."""
    drawn = set() if picked is None else set(picked["images"])
    truth = annotated_data(run).truth("val")
    return Explained(
        ids=run.data.ids(run.split),
        labels=run.data.labels(run.split).tolist(),
        scored=frozenset(run.data.ids("val")),
        truth={id: known for id, known in truth.items() if id not in drawn},
        maps=run.folder("explain"),
        workers=run.workers,
    )


def _settings(
    run: Run, picked: Mapping[str, Any] | None, chosen: Mapping[str, Any] | None
) -> EvaluationSettings:
    """Return what the metrics are told. `chosen`: the validation thresholds of what is scored."""
    info = run.segmenter().threshold_info
    used_validation = uses_validation_threshold(run)
    if used_validation and picked is not None and picked["source"] is not None:
        values = picked["thresholds"][f"{USED_IOU:g}"]
        info = validation_threshold_info(values, picked["source"])
    ious = tuple(run.config["evaluate"]["ious"])
    # Boxes that were cut at the validation threshold are measured themselves.
    cuts = list_cuts(info["kind"], ious, None if used_validation else chosen)
    return EvaluationSettings(
        ious=ious, seed=run.config["seed"], threshold=info, cuts=tuple(cuts), classes=run.classes
    )


def _own_run(run: Run, picked: Mapping[str, Any] | None) -> OwnRun:
    """Return this run as a source."""
    settings, boxes = _settings(run, picked, picked), run.folder("localize")
    return OwnRun(
        run.method,
        _explained(run, picked),
        boxes,
        settings,
        MapScale(run.config["protocol"], settings.cuts),
        guesses_have_boxes(parse_targets(run), run.classes),
        [*annotated_data(run).truth_notes(), *load_notes(boxes)],
    )


def _refined_maps(run: Run, picked: Mapping[str, Any] | None) -> RefinedMaps | None:
    """Return what the segmenter makes of the maps as a source; None where it makes nothing."""
    segmenter = run.segmenter()
    if not isinstance(segmenter, RefiningSegmenter):
        return None
    refined = None if picked is None or uses_validation_threshold(run) else picked["refined"]
    settings = _settings(run, picked, refined)
    return RefinedMaps(
        f"{run.method}+{run.config['segmenter']['_target_'].split('.')[-2]}",
        _explained(run, picked),
        settings,
        MapScale(run.config["protocol"], settings.cuts),
        segmenter,
        partial(read_for_segmenter, run, segmenter),
    )
