"""Stage annotate: contact sheets in the order of review, and what to do next.

    python -m pipeline +experiment=annotate data=folder data.root=photos model=mobilenet_v2

    review/sheet-0001.jpg ...   images with their boxes (`annotate.sheet` of them), in review order
    annotate.json               how many images, boxes and reviewed images there are

With `annotate.retrain=auto` the network of the newest run of the same recipe is used again, as long
as the classes are the same (pipeline/engine/earlier_network.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, runtime
from pipeline.engine.earlier_network import is_frozen
from pipeline.engine.progress import show_progress
from pipeline.engine.stage import Published, Stage
from pipeline.formats.files import read_json, write_json
from pipeline.ops.text import count_note
from pipeline.protocols import HasFiles
from pipeline.results.boxes import open_boxes
from pipeline.results.human import hash_boxes, replace_by_human
from pipeline.results.maps import load_skipped
from pipeline.results.notes import load_notes, write_notes
from pipeline.stages.annotate.config import AnnotateOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.types import FoundBoxes, ImageBoxes

SUMMARY = "annotate.json"


class Annotate(Stage):
    """What a person reviews, and what to do next."""

    name = "annotate"
    after = ("localize", "rank", "evaluate", "export")
    needs = ("explain", "localize", "rank")
    options = AnnotateOptions
    publishes = (Published("review", how="link"), Published(SUMMARY))

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        return {
            "source": run.sources(__name__, "data", drawing=True),
            "rank": run.key("rank"),
            "human": hash_boxes(run.human[0]),
            "sheet": run.config["annotate"]["sheet"],
        }

    def run(self, run: Run, folder: Path) -> None:
        """Draw the contact sheets, and count."""
        detections = open_boxes(
            run.folder("localize"),
            run.folder("explain"),
            run.images().ids,
            run.classes,
            run.coco_names(),
            run.folder("rank"),
            labels=run.images().labels,
            negatives=run.negatives,
        )
        detections, _ = replace_by_human(detections, run.human[0])
        skipped = load_skipped(run.folder("explain"))
        images, summary = order_and_count(detections, run.config["annotate"]["sheet"], len(skipped))
        (folder / "review").mkdir(exist_ok=True)
        unread = self._draw(run, detections, images, folder)
        write_json(folder / SUMMARY, {**summary, "on_sheets": len(images)}, indent=1)
        why = "that have no picture on the contact sheets, as they could not be read again"
        write_notes(folder, [count_note(unread, "image", why, where="annotate")] if unread else [])

    def notes(self, run: Run, result: Path) -> Sequence[str]:
        """Return what could not be read, and what annotate.retrain=never keeps."""
        frozen = [self._describe_frozen(run)] if is_frozen(run.config) else []
        return [*load_notes(result), *frozen]

    def _describe_frozen(self, run: Run) -> str:
        """Return which parts annotate.retrain=never keeps as an earlier run fitted them."""
        card = checkpoint.read_card(run.checkpoint)
        parts = ["the network"]
        if card.get("branches"):
            parts.append("its localization head")
        if card.get(checkpoint.INTENSITY):
            parts.append("the ranges that images of more than 8 bits are scaled from")
        if fitted := [name for name in run.methods if run.for_method(name).fit.is_needed]:
            parts.append(f"the components of saliency={', '.join(fitted)}")
        if "calibrate" not in run.config["stages"]:
            parts += ["the threshold that boxes chose"] * run.uses_validation_threshold
            parts.append("the confidences")
        names = ", ".join(parts[:-1])
        return (
            f"annotate.retrain=never: as fitted in {run.config['checkpoint']} stay "
            f"{f'{names} and ' if names else ''}{parts[-1]}: images and boxes of a person that "
            "came since change none of them; with annotate.retrain=auto all but the network "
            "follow them"
        )

    def announce(self, result: Path, run_folder: Path) -> list[str]:
        """Return the counts, where the files are, and what to do next."""
        counts = read_json(result / SUMMARY)
        lines = [
            f"{counts['images']} images: {counts['with_box']} with {counts['boxes']} boxes, "
            f"{counts['without_box']} without a box, {counts['reviewed']} reviewed by a person; "
            f"{counts['unread']} more could not be read"
        ]
        exported = run_folder / "exported"
        if exported.is_dir():
            names = sorted(path.name for path in exported.iterdir() if path.is_dir())
            lines.append(f"for your tool: {exported}/ ({', '.join(names)})")
        if counts["on_sheets"]:
            lines.append(
                f"contact sheets of {counts['on_sheets']} images, first to review first: "
                f"{run_folder / 'review'}/"
            )
        lines.append(
            "next: review images in the order of review_rank; the random sample at its head says "
            "how many are right. Then: python -m pipeline +experiment=ingest "
            f"run={run_folder} corrections=FILE"
        )
        return [f"{'':<10} {line}" for line in lines]

    def _draw(
        self, run: Run, detections: FoundBoxes, images: list[ImageBoxes], folder: Path
    ) -> list[str]:
        """Draw the sheets; return the names of images that could not be read."""
        from pipeline.engine.shards import single_threaded_torch
        from pipeline.plotting.boxes import write_jpeg
        from pipeline.stages.annotate import sheets
        from pipeline.stages.annotate.pictures import Pictures

        classes, labels = run.classes, run.images().labels
        made_for = {
            "source": run.sources(__name__, "data"),
            "reading": run.data.reading_record() if isinstance(run.data, HasFiles) else None,
            "cell": sheets.CELL,
        }
        pictures = Pictures(run.images(), run.folder("explain"), folder, made_for)
        assert detections.review is not None, "stage rank ranks the images"
        review = detections.review
        unread: list[str] = []

        def read(image: ImageBoxes) -> sheets.Cell | str:
            picture = pictures.read(image.position, sheets.cell_frame(image.size))
            if picture is None:
                return image.id
            label = int(labels[image.position])
            name = classes[label] if label >= 0 else "no class"
            return sheets.Cell(
                picture,
                image,
                int(review.ranks[image.position]),
                bool(review.sampled[image.position]),
                detections.classes[image.boxes[0].label] if image.boxes else name,
            )

        def readable() -> Iterator[sheets.Cell]:
            for cell in runtime.map_in_threads(read, images, run.workers):
                advance(1)
                if isinstance(cell, str):
                    unread.append(cell)
                else:
                    yield cell

        def draw(item: tuple[int, list[sheets.Cell]]) -> None:
            number, cells = item
            title = f"sheet {number}: review_rank {cells[0].rank} to {cells[-1].rank}"
            path = folder / "review" / f"sheet-{number:04d}.jpg"
            write_jpeg(path, sheets.draw_sheet(cells, title))

        for old in folder.glob("review/sheet-*.jpg"):
            old.unlink()
        with show_progress("annotate", len(images)) as advance, single_threaded_torch():
            batches = enumerate(runtime.split_into_batches(readable(), sheets.PER_SHEET), 1)
            for _ in runtime.map_in_threads(draw, batches, run.workers, run.workers):
                pass
        pictures.write()
        return unread


def order_and_count(
    detections: FoundBoxes, count: int, unread: int
) -> tuple[list[ImageBoxes], dict[str, int]]:
    """Return the first images in the order of review, and how many images and boxes there are.

    Args:
        detections: all boxes, with an order of review.
        count: of images to return.
        unread: how many images could not be read.
    """
    assert detections.review is not None, "stage rank ranks the images"
    ranks = detections.review.ranks
    counts = dict.fromkeys(("images", "with_box", "without_box", "boxes", "reviewed"), 0)
    chosen = []
    for image in detections.images():
        counts["images"] += 1
        counts["with_box" if image.boxes else "without_box"] += 1
        counts["boxes"] += len(image.boxes)
        counts["reviewed"] += image.is_human
        if 0 < ranks[image.position] <= count:
            chosen.append(image)
    return sorted(chosen, key=lambda image: ranks[image.position]), {**counts, "unread": unread}
