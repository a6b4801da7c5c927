"""Stage draw: each image with its predicted boxes and the outlines of its masks.

Writes `pictures/<number>-<name>.jpg` in the order of the images; existing files are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.found_boxes import open_found_boxes
from pipeline.engine.progress import show_progress
from pipeline.engine.spread_items import map_items
from pipeline.engine.spreading import NeededPath
from pipeline.engine.stage import Published, Stage
from pipeline.errors import SkippedImage
from pipeline.formats.files import image_file_stem
from pipeline.results.boxes import iterate_boxes
from pipeline.results.maps import load_skipped
from pipeline.results.negatives import find_without_object
from pipeline.results.notes import skipped_note, write_notes
from pipeline.stages.draw.config import DrawOptions
from pipeline.types import Boxes, FoundBoxes

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
            drawn = map_items(
                draw, by_image, run.workers, needed=[NeededPath.of("outputs", folder)], writes=True
            )
            for problem in drawn:
                advance(1)
                if problem is not None:
                    problems.append(str(problem))
        write_notes(folder, skipped_note("draw", problems, len(ids), "have no picture"))

    def finish(self, run: Run, run_folder: Path) -> Sequence[str]:
        """Return how many images and boxes there are, and where they are."""
        unread = len(load_skipped(run.folder("explain")))
        counts = describe_boxes(self._boxes(run), unread)
        files = [run_folder / "pictures", run_folder / "predictions.json"]
        found = ", ".join(f"{file}{'/' * file.is_dir()}" for file in files if file.exists())
        return [f"{'boxes':<10} {counts}", f"{'':<10} {found}"]

    def _boxes(self, run: Run) -> FoundBoxes:
        """Return the boxes that were found, as the pictures show them."""
        return open_found_boxes(run, run.ranking)


def describe_boxes(boxes: FoundBoxes, unread: int) -> str:
    """Describe in a line how many images have boxes, and how sure these are.

    Args:
        boxes: of all images.
        unread: how many images could not be read.
    """
    with_box = without = count = 0
    confidences: list[float] = []
    for image in boxes.images():
        with_box += bool(image.boxes)
        without += not image.boxes
        count += len(image.boxes)
        confidences += [box.confidence for box in image.boxes if box.confidence is not None]
    sureness = ""
    if confidences:
        is_calibrated = boxes.review is not None and boxes.review.confidence_kind == "calibrated"
        kind = "" if is_calibrated else " (not calibrated)"
        sureness = f"; mean confidence of a box {np.mean(confidences):.2f}{kind}"
    more = f"; {unread} more could not be read" * (unread > 0)
    return (
        f"{with_box + without} image{'s' * (with_box + without != 1)}: {with_box} with {count} "
        f"box{'es' * (count != 1)}, {without} without a box{more}{sureness}"
    )
