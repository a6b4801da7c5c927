"""Stage compare: paired tests between methods and runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Compare(Stage):
    """Paired tests between methods and runs."""

    name = "compare"
    after = ("evaluate",)
    needs = ("evaluate",)
    reads = ("against",)
    prints = "comparison.txt"
    publishes = (Published("comparison.json"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        from pipeline.stages.compare import stage

        return stage.cache_key(run)

    def check(self, run: Run) -> None:
        from pipeline.stages.compare import stage

        stage.check(run)

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.compare import stage

        stage.make(run, folder)
