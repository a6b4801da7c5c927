"""Stage export: the boxes of stage localize in other file formats.

    exported/<format>/    the files of each of `export.formats`, a choice of conf/exporter/

boxes.json and predictions.json are written by stages localize and rank themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.choices import build_choices, complete_choice
from pipeline.engine.sources import hash_sources
from pipeline.engine.stage import Published, Stage
from pipeline.results.boxes import open_boxes
from pipeline.stages.export.config import ExportOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.protocols import Exporter


class Export(Stage):
    """Boxes as the files that a tool opens."""

    name = "export"
    after = ("localize", "rank", "evaluate", "compare")
    needs = ("explain", "localize")
    per_method = True
    options = ExportOptions
    publishes = (Published("exported", how="link"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the files, which includes the exporters' source."""
        formats = run.config["export"]["formats"]
        nodes = {name: complete_choice("exporter", name, {}) for name in formats}
        targets = [str(node["_target_"]).rpartition(".")[0] for node in nodes.values()]
        return {
            "source": run.sources(__name__) | hash_sources(targets),
            "localize": run.key("localize"),
            "rank": run.key("rank") if "rank" in run.config["stages"] else None,
            "formats": nodes,
        }

    def check(self, run: Run) -> None:
        """Raise UserError for an argument that an exporter does not take."""
        build_choices("exporter", run.config["export"]["formats"], {})

    def run(self, run: Run, folder: Path) -> None:
        """Write the files of each format into its folder."""
        boxes = open_boxes(
            run.folder("localize"),
            run.folder("explain"),
            run.images().ids,
            run.classes,
            run.coco_names(),
            run.folder("rank") if "rank" in run.config["stages"] else None,
        )
        exporters: dict[str, Exporter]
        exporters = build_choices("exporter", run.config["export"]["formats"], {})
        for name, write in exporters.items():
            target = folder / "exported" / name
            target.mkdir(parents=True, exist_ok=True)
            write(boxes, target)
