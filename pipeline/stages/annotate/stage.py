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

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, runtime
from pipeline.engine.earlier_network import is_frozen
from pipeline.engine.found_boxes import open_found_boxes
from pipeline.engine.images import is_multi_label
from pipeline.engine.progress import show_progress
from pipeline.engine.stage import Published, Stage
from pipeline.formats.files import read_json, write_json
from pipeline.ops.hashing import hash_file
from pipeline.ops.text import count_note
from pipeline.protocols import HasFiles
from pipeline.results.human import hash_boxes, replace_by_human
from pipeline.results.maps import load_skipped
from pipeline.results.notes import load_notes, write_notes
from pipeline.stages.annotate.config import AnnotateOptions

if TYPE_CHECKING:
    from pipeline.engine.pictures import Pictures
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
        detections = open_found_boxes(run, run.folder("rank"))
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

        classes, labels, several = run.classes, run.images().labels, is_multi_label(run.data)
        pictures, review_folder = self._pictures(run, folder), folder / "review"
        assert detections.review is not None, "stage rank ranks the images"
        review = detections.review

        def draw(image: ImageBoxes) -> tuple[sheets.Cell, page.Entry] | None:
            pixels = pictures.read(image.position, page.picture_frame(image.size))
            if pixels is None:
                return None
            label = int(labels[image.position])
            name = classes[label] if label >= 0 else "no class"
            named = [detections.classes[box.label] for box in image.boxes]
            if named:
                name = ", ".join(dict.fromkeys(named)) if several else named[0]
            rank, is_random = (
                int(review.ranks[image.position]),
                bool(review.sampled[image.position]),
            )
            picture = page.draw_picture(pixels, image)
            return (
                sheets.Cell(sheets.shrink(pixels), image, rank, is_random, name),
                page.Entry(picture, image, rank, is_random, name),
            )

        for old in (*review_folder.glob("sheet-*.jpg"), *review_folder.glob("*.html")):
            old.unlink()
        order = page.Order.of(review, len(images))
        about = "" if order.is_calibrated else "confidences are not calibrated"
        sheet = sheets.SheetWriter(review_folder, about)
        template, script = (path.read_text(encoding="utf-8") for path in (TEMPLATE, SCRIPT))
        pages = page.PageWriter(review_folder, detections.classes, order, template, script)
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
        pictures.write()
        return unread

    def _pictures(self, run: Run, folder: Path) -> Pictures:
        """Return the reader of pictures, with those of earlier results of the stage."""
        from pipeline.engine.pictures import Pictures
        from pipeline.engine.reuse import STAMPS_FILE, Stamps
        from pipeline.stages.annotate import page

        made_for = {
            "source": run.sources(__name__, "data"),
            "reading": run.data.reading_record() if isinstance(run.data, HasFiles) else None,
            "side": page.SIDE,
        }
        maps = run.folder("explain")
        content = Stamps.read(maps).content if (maps / STAMPS_FILE).is_file() else None
        return Pictures(run.images().read, content, folder, made_for)


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
