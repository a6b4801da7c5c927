"""Stage evaluate: boxes and maps against annotations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage
from pipeline.stages.evaluate.config import EvaluateOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Evaluate(Stage):
    """Boxes and maps against annotations."""

    name = "evaluate"
    after = ("localize",)
    needs = ("explain", "localize")
    per_method = True
    reads = ("against",)
    prints = "table.txt"
    options = EvaluateOptions
    publishes = (Published("metrics.json", how="append"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        from pipeline.stages.evaluate import stage

        return stage.cache_key(run)

    def check(self, run: Run) -> None:
        from pipeline.stages.evaluate import stage

        stage.check(run)

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.evaluate import stage

        stage.make(run, folder)
