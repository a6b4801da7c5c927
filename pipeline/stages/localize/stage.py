"""Stage localize: maps -> scored boxes in shards, and two files that detection tools load.

A map is segmented at the segmenter's threshold; with segmenter.threshold=validation, at the
threshold that stage calibrate chose on other images.

    boxes.json        a COCO results file: image_id, category_id, bbox, score
    predictions.json  a whole COCO data set: images, categories, annotations with scores
    notes.json        how often the segmenter fell back to a simpler segmentation, and why
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage
from pipeline.errors import UserError
from pipeline.exporter.coco import Coco
from pipeline.results.boxes import describe_fallbacks, open_boxes
from pipeline.results.maps import load_skipped
from pipeline.results.notes import skipped_note, write_notes

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Localize(Stage):
    """From maps to boxes."""

    name = "localize"
    after = ("explain", "calibrate")
    needs = ("explain",)
    per_method = True
    distributed = True
    publishes = (Published("boxes.json"), Published("predictions.json"))

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        names = run.coco_names()
        numbers = repr((list(names.image_ids), list(names.file_names), list(names.category_ids)))
        return {
            "source": run.sources(__name__, "segmenter"),
            "explain": run.key("explain"),
            "segmenter": run.config["segmenter"],
            "names": hashlib.sha256(numbers.encode()).hexdigest()[:16],
            **self._threshold_key(run),
        }

    def check(self, run: Run) -> None:
        """Raise UserError for a validation threshold that no stage would choose."""
        stages = run.config["stages"]
        if not run.uses_validation_threshold:
            return
        if not run.chooses_own_threshold():
            for name in run.methods:
                run.for_method(name).chosen_thresholds()
        elif "calibrate" not in stages and "explain" in stages and run.config["checkpoint"] is None:
            raise UserError(
                f"segmenter.threshold=validation: stage calibrate chooses it, and it is not among "
                f"stages={[*stages]}; add it after explain, or give segmenter.threshold=auto, "
                "which needs no boxes"
            )

    def run(self, run: Run, folder: Path) -> None:
        """Segment the maps, and write the boxes and where the segmenter fell back."""
        from pipeline.engine import ranks
        from pipeline.stages.localize.segmentation import MapSegmenter

        maps = run.folder("explain")
        segmenter = MapSegmenter(
            images=run.images(),
            segmenter=run.segmenter(),
            thresholds=run.chosen_thresholds() if run.uses_validation_threshold else None,
            workers=run.workers,
        )
        segmenter.write(maps, folder)
        if ranks.current_world().rank > 0:
            return  # rank 0 merges the shards
        ids = run.images().ids
        reasons = [why for _, why in sorted(load_skipped(folder).items())]
        unread = skipped_note("localize", reasons, len(ids), "have no box")
        write_notes(folder, [*describe_fallbacks(folder, ids), *unread])
        boxes = open_boxes(folder, maps, ids, run.classes, run.coco_names())
        Coco()(boxes, folder)

    def _threshold_key(self, run: Run) -> dict[str, Any]:
        """Return the part of the key for a validation threshold; empty for any other."""
        if not run.uses_validation_threshold:
            return {}
        if run.chooses_own_threshold():
            return {"calibrate": run.key("calibrate")}
        return {"chosen": run.chosen_thresholds()["thresholds"]}
