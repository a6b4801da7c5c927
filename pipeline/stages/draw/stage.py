"""Stage draw: each image with its predicted boxes and the outlines of its masks.

Writes `pictures/<number>-<name>.jpg` in the order of the images; existing files are kept.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import runtime
from pipeline.engine.progress import show_progress
from pipeline.engine.stage import Published, Stage
from pipeline.errors import SkippedImage
from pipeline.formats.files import image_file_stem
from pipeline.results.boxes import iterate_boxes
from pipeline.results.negatives import find_without_object
from pipeline.results.notes import skipped_note, write_notes
from pipeline.stages.draw.config import DrawOptions
from pipeline.types import Boxes

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Draw(Stage):
    """Boxes drawn on images."""

    name = "draw"
    after = ("localize", "evaluate", "compare")
    needs = ("localize",)
    per_method = True
    options = DrawOptions
    publishes = (Published("pictures", how="link"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        return {
            "source": run.sources(__name__, "data", drawing=True),
            "localize": run.key("localize"),
            "draw": run.config["draw"],
        }

    def run(self, run: Run, folder: Path) -> None:
        """Draw each image whose picture does not exist yet."""
        from pipeline.engine.shards import single_threaded_torch
        from pipeline.plotting.boxes import write_jpeg
        from pipeline.stages.draw.drawing import draw_image

        images, classes, side = run.images(), run.classes, run.config["draw"]["side"]
        ids = images.ids
        without_object = find_without_object(run.folder("explain"), images.labels, run.negatives)
        positioned_boxes = iterate_boxes(run.folder("localize"), ids)
        grouped = groupby(positioned_boxes, key=lambda positioned: positioned[0])
        by_image = ((position, [boxes for _, boxes in group]) for position, group in grouped)

        def draw(item: tuple[int, list[Boxes]]) -> SkippedImage | None:
            position, boxes_by_class = item
            if position in without_object:
                boxes_by_class = [
                    boxes.select(np.zeros(len(boxes.boxes), bool)) for boxes in boxes_by_class
                ]
            name = f"{position + 1:06d}-{image_file_stem(ids[position])}.jpg"
            path = folder / "pictures" / name
            if path.is_file():
                return None
            picture = draw_image(images, position, boxes_by_class, classes, side)
            if isinstance(picture, SkippedImage):
                return picture
            write_jpeg(path, picture)
            return None

        problems: list[str] = []
        with show_progress("draw", len(ids)) as advance, single_threaded_torch():
            for problem in runtime.map_in_threads(draw, by_image, run.workers):
                advance(1)
                if problem is not None:
                    problems.append(str(problem))
        write_notes(folder, skipped_note("draw", problems, len(ids), "have no picture"))
