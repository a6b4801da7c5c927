"""Stage annotate: contact sheets and a page to mark them, in the order of review.

    python -m pipeline +experiment=annotate data=folder data.root=photos model=mobilenet_v2

    review/index.html           images with their boxes (`annotate.sheet` of them), in review order;
                                a person marks them as right or wrong, for stage ingest
    review/sheet-0001.jpg ...   the same images as pictures
    annotate.json               how many images, boxes and reviewed images there are

With `annotate.retrain=auto` the network of the newest run of the same recipe is used again, as long
as the classes are the same (pipeline/engine/earlier_network.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import runtime
from pipeline.engine.progress import show_progress
from pipeline.engine.stage import Published, Stage
from pipeline.errors import SkippedImage
from pipeline.formats.files import read_json, write_json
from pipeline.ops.hashing import hash_file
from pipeline.ops.text import count_note
from pipeline.results.boxes import open_boxes
from pipeline.results.human import hash_boxes, replace_by_human
from pipeline.results.maps import load_skipped
from pipeline.results.notes import write_notes
from pipeline.stages.annotate.config import AnnotateOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.types import FoundBoxes, ImageBoxes

SUMMARY = "annotate.json"
TEMPLATE, SCRIPT = (Path(__file__).with_name(name) for name in ("page.html", "marks.js"))


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
            "page": [hash_file(path) for path in (TEMPLATE, SCRIPT)],
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
        images = list_by_rank(detections, run.config["annotate"]["sheet"])
        (folder / "review").mkdir(exist_ok=True)
        unread = self._draw(run, detections, images, folder / "review")
        skipped = load_skipped(run.folder("explain"))
        summary = count_images(detections, len(skipped))
        write_json(folder / SUMMARY, {**summary, "on_sheets": len(images)}, indent=1)
        why = "that have no picture on the contact sheets, as they could not be read again"
        write_notes(folder, [count_note(unread, "image", why, where="annotate")] if unread else [])

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
                f"to mark {counts['on_sheets']} images as right or wrong, first to review first: "
                f"{run_folder / 'review/index.html'}; the same as pictures beside it"
            )
        lines.append(
            "next: review images in the order of review_rank, on that page or in your tool; the "
            "random sample at its head says how many are right. Then: python -m pipeline "
            f"+experiment=ingest run={run_folder} corrections=FILE"
        )
        return [f"{'':<10} {line}" for line in lines]

    def _draw(
        self, run: Run, detections: FoundBoxes, images: list[ImageBoxes], folder: Path
    ) -> list[str]:
        """Draw the sheets and pages; return the names of images that could not be read."""
        from pipeline.engine.shards import single_threaded_torch
        from pipeline.stages.annotate import page, sheets

        reader, classes, labels = run.images(), run.classes, run.images().labels
        assert detections.review is not None, "stage rank ranks the images"
        review = detections.review

        def draw(image: ImageBoxes) -> tuple[sheets.Cell, page.Entry] | None:
            example = reader.read(image.position, page.picture_frame(image.size))
            if isinstance(example, SkippedImage):
                return None
            label = int(labels[image.position])
            name = classes[label] if label >= 0 else "no class"
            name = detections.classes[image.boxes[0].label] if image.boxes else name
            rank, is_random = (
                int(review.ranks[image.position]),
                bool(review.sampled[image.position]),
            )
            picture = page.draw_picture(example.image, image)
            return (
                sheets.Cell(sheets.shrink(example.image), image, rank, is_random, name),
                page.Entry(picture, image, rank, is_random, name),
            )

        for old in (*folder.glob("sheet-*.jpg"), *folder.glob("*.html")):
            old.unlink()
        order = page.Order.of(review, len(images))
        about = "" if order.is_calibrated else "confidences are not calibrated"
        sheet = sheets.SheetWriter(folder, about)
        template, script = (path.read_text(encoding="utf-8") for path in (TEMPLATE, SCRIPT))
        pages = page.PageWriter(folder, detections.classes, order, template, script)
        unread = []
        with show_progress("annotate", len(images)) as advance, single_threaded_torch():
            drawn = runtime.map_in_threads(draw, iter(images), run.workers)
            for image, shown in zip(images, drawn, strict=True):
                advance(1)
                if shown is None:
                    unread.append(image.id)
                else:
                    sheet.add(shown[0])
                pages.add(None if shown is None else shown[1])
            sheet.close()
        return unread


def list_by_rank(detections: FoundBoxes, count: int) -> list[ImageBoxes]:
    """Return the first images in the order of review.

    Args:
        detections: all boxes, with an order of review.
        count: of images.
    """
    assert detections.review is not None, "stage rank ranks the images"
    ranks = detections.review.ranks
    chosen = [image for image in detections.images() if 0 < ranks[image.position] <= count]
    return sorted(chosen, key=lambda image: ranks[image.position])


def count_images(detections: FoundBoxes, unread: int) -> dict[str, int]:
    """Return how many images and boxes there are.

    Args:
        detections: all boxes.
        unread: how many images could not be read.
    """
    counts = dict.fromkeys(("images", "with_box", "without_box", "boxes", "reviewed"), 0)
    for image in detections.images():
        counts["images"] += 1
        counts["with_box" if image.boxes else "without_box"] += 1
        counts["boxes"] += len(image.boxes)
        counts["reviewed"] += image.is_human
    return {**counts, "unread": unread}
