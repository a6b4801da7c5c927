"""Stage export: the boxes of stage localize in other file formats.

    exported/<format>/    the files of each of `export.formats`, a choice of conf/exporter/

boxes.json and predictions.json are written by stages localize and rank themselves. With
`run=RUN`, as in `+experiment=export run=outputs/latest`, the boxes are those of RUN.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.choices import build_choices, complete_choice
from pipeline.engine.found_boxes import open_found_boxes
from pipeline.engine.images import find_common_folder, image_source
from pipeline.engine.sources import hash_sources
from pipeline.engine.stage import Published, Stage
from pipeline.engine.store import list_versions
from pipeline.results.boxes import drop_doubtful
from pipeline.results.human import hash_boxes, replace_by_human
from pipeline.results.negatives import number_labels
from pipeline.results.notes import write_notes
from pipeline.stages.export.config import ExportOptions
from pipeline.stages.export.mapping import map_images

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.protocols import Exporter
    from pipeline.types import FoundBoxes

EXPORTER_OPTIONS = ("images", "upright", "outlines", "image_paths")


class Export(Stage):
    """Boxes as the files that a tool opens."""

    name = "export"
    after = ("localize", "rank", "evaluate", "compare")
    needs = ("explain", "localize")
    per_method = True
    options = ExportOptions
    reads = ("run",)
    publishes = (Published("exported", how="link"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the files, which includes the exporters' source."""
        options = run.config["export"]
        given = {name: options[name] for name in EXPORTER_OPTIONS}
        nodes = {name: complete_choice("exporter", name, given) for name in options["formats"]}
        targets = [str(node["_target_"]).rpartition(".")[0] for node in nodes.values()]
        return {
            "source": run.sources(__name__) | hash_sources(targets),
            "localize": run.key("localize"),
            "rank": run.key("rank") if run.has_result("rank") else None,
            "formats": nodes,
            "human": hash_boxes(run.human[0]),
            "min_confidence": options["min_confidence"],
            "root": str(find_common_folder(run.data, run.split)),
        }

    def check(self, run: Run) -> None:
        """Check the formats, and with run= that the images are those of that run.

        Raises:
            UserError: an exporter does not take an argument, or images were added or changed.
        """
        self._exporters(run)
        run.check_recorded_images()

    def run(self, run: Run, folder: Path) -> None:
        """Write the files of each format into its folder."""
        boxes, notes = self._boxes(run)
        boxes = replace(boxes, mapper=partial(map_images, threads=run.workers, folder=folder))
        for name, write in self._exporters(run).items():
            target = folder / "exported" / name
            target.mkdir(parents=True, exist_ok=True)
            notes += [f"export: {name}: {note}" for note in write(boxes, target) or ()]
        write_notes(folder, notes)

    def announce(self, result: Path, run_folder: Path) -> list[str]:
        """Return a line that names the folder of each format."""
        names = sorted(path.name for path in (result / "exported").iterdir() if path.is_dir())
        return [f"           {run_folder / 'exported' / name}/" for name in names]

    def _exporters(self, run: Run) -> dict[str, Exporter]:
        options = run.config["export"]
        given = {name: options[name] for name in EXPORTER_OPTIONS}
        return build_choices("exporter", options["formats"], given)

    def _boxes(self, run: Run) -> tuple[FoundBoxes, list[str]]:
        """Return the boxes to write, and notes on what is left out."""
        boxes = open_found_boxes(run, run.ranking)
        boxes, notes = replace_by_human(boxes, run.human[0])
        version = f"label2box {list_versions()['label2box']} {run.config['name']}"
        learned = ", supervision: boxes" if boxes.supervision == "boxes" else ""
        boxes = replace(
            boxes,
            source=number_labels(
                image_source(run.data, run.split), len(run.classes), run.negatives
            ),
            model_version=f"{version} {run.key('localize')}{learned}",
        )
        boxes, dropped = drop_doubtful(boxes, run.config["export"]["min_confidence"])
        return boxes, [*notes, *run.human[1], *dropped]
