"""Stage localize: from maps to boxes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage
from pipeline.engine.thresholds import (
    chooses_own_threshold,
    used_thresholds,
    uses_validation_threshold,
)
from pipeline.errors import UserError

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
        """Return all that can change the result."""
        names = run.coco_names()
        numbers = repr((list(names.image_ids), list(names.file_names), list(names.category_ids)))
        return {
            "source": run.sources(__name__, "segmenter"),
            "explain": run.key("explain"),
            "segmenter": run.config["segmenter"],
            "names": hashlib.sha256(numbers.encode()).hexdigest()[:16],
            **_threshold_key(run),
        }

    def check(self, run: Run) -> None:
        """Refuse a validation threshold that nothing would choose."""
        stages = run.config["stages"]
        if not uses_validation_threshold(run):
            return
        if not chooses_own_threshold(run):
            for name in run.methods:
                used_thresholds(run.for_method(name))
        elif "calibrate" not in stages and "explain" in stages and run.config["checkpoint"] is None:
            raise UserError(
                f"segmenter.threshold=validation: stage calibrate chooses it, and it is not among "
                f"stages={[*stages]}; add it after explain, or give segmenter.threshold=auto, "
                "which needs no boxes"
            )

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.localize.segmentation import segment_maps

        segment_maps(run, folder)


def _threshold_key(run: Run) -> dict[str, Any]:
    """Return what stands for the threshold that was chosen, where one was."""
    if not uses_validation_threshold(run):
        return {}
    if chooses_own_threshold(run):
        return {"calibrate": run.key("calibrate")}
    return {"chosen": used_thresholds(run)["thresholds"]}
