"""Stage refine: a localization head learns from pseudo-labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Stage
from pipeline.stages.refine.config import RefineOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


UNHASHED = ("teacher", "cut", "images")  # they stand in the key of the pseudo-labels


class Refine(Stage):
    """A localization head learns from pseudo-labels."""

    name = "refine"
    after = ("train",)
    needs = ("train",)
    options = RefineOptions

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return all that can change the result."""
        from pipeline.stages.refine import pseudo_labels

        knobs = run.config["refine"]
        return {
            "source": run.sources(__name__),
            "lessons": pseudo_labels.cache_key(run),
            "refine": {name: value for name, value in knobs.items() if name not in UNHASHED},
            "seed": run.config["seed"],
        }

    def check(self, run: Run) -> None:
        """Refuse a segmenter that makes no better map, and a teacher that cannot be built."""
        from pipeline.engine.methods import build_method
        from pipeline.stages.refine import pseudo_labels

        pseudo_labels.cutter(run)
        build_method(run.for_teacher())

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.refine.refinement import refine_classifier

        refine_classifier(run, folder)
