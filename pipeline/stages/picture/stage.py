"""Stage picture: maps as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage
from pipeline.formats.files import read_json
from pipeline.stages.picture.config import PictureOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


MAX_NAMED_SHEETS = 6  # that are named line by line


class Picture(Stage):
    """Maps as pictures."""

    name = "picture"
    after = ("explain",)
    needs = ("explain",)
    options = PictureOptions
    publishes = (Published("explained", how="link"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return all that can change the result."""
        return {
            "source": run.sources(__name__, "data"),
            "explain": [[name, run.for_method(name).key("explain")] for name in run.methods],
            "picture": run.config["picture"],
        }

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.picture.pictures import draw_pictures

        draw_pictures(run, folder)

    def announce(self, result: Path, run_folder: Path) -> Sequence[str]:
        """Name the images without pictures, and the sheets."""
        folder = run_folder / "explained"
        lines = [f"set aside  {why}" for why in read_json(result / "set_aside.json")]
        sheets = [*sorted(folder.glob("overview.png")), *sorted(folder.glob("*/sheet.png"))]
        lines += [f"sheet      {sheet}" for sheet in sheets[:MAX_NAMED_SHEETS]]
        if len(sheets) > MAX_NAMED_SHEETS:
            lines.append(f"           and {len(sheets) - MAX_NAMED_SHEETS} more in {folder}")
        return lines
