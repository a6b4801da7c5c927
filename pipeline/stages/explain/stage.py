"""Stage explain: saliency maps of a split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint
from pipeline.engine.stage import Stage
from pipeline.stages.explain.config import ExplainOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Explain(Stage):
    """Saliency maps of a split."""

    name = "explain"
    after = ("train", "refine")
    needs = ("train",)
    per_method = True
    distributed = True
    options = ExplainOptions

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return all that can change the result."""
        from pipeline.engine.methods import fitting_split, needs_fitting, parse_targets

        return {
            "source": run.sources(__name__, "data", "saliency"),
            "checkpoint": checkpoint.fingerprint(run.checkpoint),
            "saliency": run.methods[run.method],
            "target": parse_targets(run),
            "views": [run.config["explain"][name] for name in ("flips", "scales", "colour")],
            "fitted_on": run.data.fingerprint(fitting_split(run)) if needs_fitting(run) else None,
            "split": run.split,
            "data": run.data.fingerprint(run.split),
            "size": run.size,
            "precision": run.precision,
        }

    def check(self, run: Run) -> None:
        """Refuse a target that this data set cannot have, impossible views, and a method that the
        network to be trained cannot have: not after hours of training."""
        from pipeline.engine.methods import check_methods

        check_methods(run)

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.explain.maps import make_maps

        make_maps(run, folder)
