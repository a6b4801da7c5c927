"""Stage score: boxes and maps that other code made, against annotations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Score(Stage):
    """Boxes and maps that other code made, against annotations."""

    name = "score"
    after = ("evaluate", "compare")
    reads = ("boxes", "annotations", "maps", "metadata", "against")
    prints = "table.txt"
    publishes = (Published("metrics.json", how="append"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        from pipeline.stages.score import stage

        return stage.cache_key(run)

    def check(self, run: Run) -> None:
        from pipeline.stages.score import stage

        stage.check(run)

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.score import stage

        stage.make(run, folder)
