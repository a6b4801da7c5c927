"""Stage draw: boxes drawn on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage
from pipeline.stages.draw.config import DrawOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Draw(Stage):
    """Boxes drawn on images."""

    name = "draw"
    after = ("localize", "evaluate", "compare", "score")
    needs = ("localize",)
    per_method = True
    options = DrawOptions
    publishes = (Published("pictures", how="link"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return all that can change the result."""
        return {
            "source": run.sources(__name__, "data"),
            "localize": run.key("localize"),
            "draw": run.config["draw"],
        }

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.draw.drawing import draw_boxes

        draw_boxes(run, folder)
