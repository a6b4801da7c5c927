"""Which threshold the maps of a run are segmented at, where stage calibrate chose it.

With `checkpoint=RUN` and no stage calibrate of its own, as `+experiment=predict`, a run uses what
that run chose, which must have segmented the same maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.engine import store
from pipeline.engine.run import Run
from pipeline.protocols import RefiningSegmenter
from pipeline.results.thresholds import (
    find_thresholds,
    load_thresholds,
    select_thresholds,
    too_few_boxes_error,
)


def uses_validation_threshold(run: Run) -> bool:
    """Whether the maps are cut at the threshold that is chosen here."""
    return str(run.segmenter().threshold_info["kind"]) == "validation"


def chooses_own_threshold(run: Run) -> bool:
    """Whether this run's stage calibrate chooses it, and not the run that checkpoint= names."""
    if run.config["checkpoint"] is None or "calibrate" in run.config["stages"]:
        return True
    folder = store.Store(run.outputs).folder("calibrate", run.cache_key("calibrate"))
    return store.is_done(folder) and load_thresholds(folder)["source"] is not None


def used_thresholds(run: Run) -> dict[str, Any]:
    """What boxes are cut at: `source`, the `images` not to be scored, `thresholds` by IoU.

    Raises UserError where nothing was chosen.
    """
    if chooses_own_threshold(run):
        picked = select_thresholds(
            load_thresholds(run.folder("calibrate")), isinstance(run.segmenter(), RefiningSegmenter)
        )
        if picked["source"] is None:
            raise too_few_boxes_error(picked["n"])
        return picked
    picked = select_thresholds(
        load_thresholds(checkpoint_thresholds_folder(run)),
        isinstance(run.segmenter(), RefiningSegmenter),
    )
    alone = {iou: [value] for iou, value in picked["elsewhere"].items()}
    return {**picked, "source": "checkpoint", "thresholds": alone}


def checkpoint_thresholds_folder(run: Run) -> Path:
    """The folder of stage calibrate of the run that checkpoint= names."""
    views = [run.config["explain"][name] for name in ("flips", "scales")]
    node = run.config["segmenter"] if isinstance(run.segmenter(), RefiningSegmenter) else None
    return find_thresholds(Path(run.config["checkpoint"]), run.methods[run.method], views, node)
