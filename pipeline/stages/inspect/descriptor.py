"""Stage inspect: pictures of what a network looks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage
from pipeline.formats.files import read_json
from pipeline.stages.inspect.config import InspectOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Inspect(Stage):
    """Pictures of what a network looks for."""

    name = "inspect"
    after = ("refine", "explain", "draw", "audit")
    needs = ("train",)
    options = InspectOptions
    publishes = (Published(".", "inspected", how="link"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        from pipeline.stages.inspect import stage

        return stage.cache_key(run)

    def check(self, run: Run) -> None:
        from pipeline.stages.inspect import stage

        stage.check(run)

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.inspect import stage

        stage.make(run, folder)

    def announce(self, result: Path, run_folder: Path) -> Sequence[str]:
        """Name the sheets, and what there is to say of them."""
        notes = [f"inspect: {note}" for note in read_json(result / "notes.json")]
        sheets = sorted((run_folder / "inspected").glob("*.png"))
        return [*notes, *(f"sheet      {sheet}" for sheet in sheets)]
