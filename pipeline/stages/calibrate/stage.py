"""Stage calibrate: thresholds chosen on boxes that are not scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Stage
from pipeline.ops.hashing import hash_file
from pipeline.protocols import RefiningSegmenter
from pipeline.results.thresholds import (
    MIN_BOXED_IMAGES,
    too_few_boxes_error,
    without_threshold,
)
from pipeline.stages.calibrate.config import CalibrateOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Calibrate(Stage):
    """Thresholds chosen on boxes that are not scored."""

    name = "calibrate"
    after = ("explain", "picture")
    needs = ("explain",)
    per_method = True
    options = CalibrateOptions

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return all that can change the result."""
        from pipeline.stages.calibrate.calibration import APART, annotated_data

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

    def check(self, run: Run) -> None:
        """Refuse drawn boxes that cannot be read or used, and a validation threshold where too few
        images have boxes to choose it on."""
        from pipeline.engine.thresholds import uses_validation_threshold
        from pipeline.stages.calibrate.calibration import drawn_boxes, find_boxed_images

        drawn = run.config["calibrate"]["boxes"]
        if drawn is not None:
            drawn_boxes(run, Path(drawn))
        elif uses_validation_threshold(run):
            truth, _, _ = find_boxed_images(run)
            if (count := sum(len(one.of_label()) > 0 for one in truth.values())) < MIN_BOXED_IMAGES:
                raise too_few_boxes_error(count, run.config["checkpoint"])

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.calibrate.calibration import choose_thresholds

        choose_thresholds(run, folder)
