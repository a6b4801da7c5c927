"""Stage report: an HTML page with the numbers, and images with their maps and boxes.

Pictures are embedded in the page, and it loads nothing from a network, so it can be sent as it is.
The numbers of several methods are in a common table, and an image is shown with the maps of all.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage, find_stage
from pipeline.formats.files import read_json, write_text
from pipeline.ops.hashing import hash_file
from pipeline.stages.report.config import ReportOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.stages.report.words import ImageCounts, MethodResult

TEMPLATE = Path(__file__).with_name("page.html")
REVIEW_PAGE = "review/index.html"  # in the folder of the run


class Report(Stage):
    """One HTML page."""

    name = "report"
    after = (
        "picture",
        "localize",
        "rank",
        "evaluate",
        "compare",
        "draw",
        "export",
        "annotate",
        "audit",
        "inspect",
    )
    needs = ("evaluate",)
    options = ReportOptions
    publishes = (Published("index.html", "report/index.html"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        from pipeline.data.left_out import without_results
        from pipeline.stages.report.words import list_files, page_title

        methods = [run.for_method(name) for name in run.methods]
        return {
            "source": run.sources(__name__, drawing=True),
            "template": hash_file(TEMPLATE),
            "evaluate": [method.key("evaluate") for method in methods],
            "rank": [method.key("rank") for method in methods] if self._ranks(run) else None,
            "compare": run.key("compare") if "compare" in run.config["stages"] else None,
            "report": run.config["report"],
            "title": page_title(str(run.config["name"]), list(run.methods), run.config["data"]),
            "links": list_files(self._before(run)),
            "review_page": self._has_review_page(run),
            "notes": without_results(self._notes(run)),
        }

    def run(self, run: Run, folder: Path) -> None:
        """Write the page."""
        import jinja2
        import numpy as np

        from pipeline.engine import checkpoint, store
        from pipeline.engine.images import is_multi_label
        from pipeline.stages.report import gallery, words

        results = [self._result(run.for_method(name)) for name in run.methods]
        card, first = checkpoint.read_card(run.checkpoint), results[0]
        compares = "compare" in run.config["stages"]
        differences = read_json(run.folder("compare") / "comparison.json") if compares else []
        rows = self._draw(run, results)
        shapes = [p["width"] / p["height"] for row in rows for p in row["pictures"]]
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            title=words.page_title(str(run.config["name"]), list(run.methods), run.config["data"]),
            facts=words.describe_facts(card, self._counts(run, first), run.precision),
            sections=results,
            comparison=words.compare_methods(results) if len(results) > 1 else None,
            differences=words.describe_differences(differences),
            unmeasured=words.explain_unmeasured(
                first, bool(run.data.classes), "boxes" in run.config["data"]
            ),
            gallery=rows,
            is_ranked=results[0].review is not None,
            confidence_kind=results[0].confidence_kind,
            review_page=REVIEW_PAGE if self._has_review_page(run) else None,
            aspect=float(np.clip(np.median(shapes), 0.75, 1.5)) if shapes else 1,
            labelled=bool(run.data.classes),
            several=is_multi_label(run.data),
            keys={
                "annotated": gallery.legend_key(gallery.TRUE, True),
                "found": gallery.legend_key(gallery.FOUND, False),
            },
            notes=words.show_notes(self._notes(run)),
            links=words.list_files(self._before(run)),
            essentials=words.command_line(
                data=run.config["data"],
                segmenter=run.config["segmenter"],
                card=card,
                methods=list(run.methods),
                seed=run.config["seed"],
            ),
            made=store.provenance(),
        )
        write_text(folder / "index.html", page)

    def _ranks(self, run: Run) -> bool:
        """Return whether the run computes confidences."""
        return "rank" in run.config["stages"]

    def _has_review_page(self, run: Run) -> bool:
        """Return whether stage annotate writes a page to mark boxes on."""
        return "annotate" in run.config["stages"] and run.config["annotate"]["sheet"] > 0

    def _before(self, run: Run) -> list[str]:
        """Return the stages of the run whose files lie beside the page."""
        return [name for name in run.config["stages"] if name != self.name]

    def _result(self, run: Run) -> MethodResult:
        from pipeline.stages.report.words import MethodResult

        return MethodResult(
            method=run.method,
            maps=run.folder("explain"),
            boxes=run.folder("localize"),
            evaluation=run.folder("evaluate"),
            ranking=run.folder("rank") if self._ranks(run) else None,
        )

    def _counts(self, run: Run, result: MethodResult) -> ImageCounts:
        from pipeline.results.maps import load_skipped
        from pipeline.stages.report.words import ImageCounts

        return ImageCounts(
            images=len(run.images()),
            skipped=len(load_skipped(result.maps)),
            scored=sum(record["iou"] is not None for record in result.images),
            split=run.split if run.data.classes else "",
        )

    def _notes(self, run: Run) -> list[str]:
        """Return the notes on files, and those of the stages before this one, for all methods."""
        notes = [*run.data.notes()]
        for name in self._before(run):
            stage = find_stage(name)
            for method in run.methods if stage.per_method else [run.method]:
                job = run.for_method(method)
                notes += stage.notes(job, job.folder(name))
        return notes

    def _draw(self, run: Run, results: list[MethodResult]) -> list[dict[str, Any]]:
        """Return the rows of the gallery."""
        from pipeline.engine.runtime import map_in_threads
        from pipeline.stages.report.gallery import (
            Gallery,
            ShownMethod,
            choose_for_review,
            choose_records,
            list_for_review,
        )

        main, count, images = results[0], run.config["report"]["images"], run.images()
        rows = choose_records(main.images, count) if main.review is None else []
        order = [] if main.review is None else choose_for_review(main.images, main.review, count)
        positions = {record["position"] for _, records in rows for record in records} | set(order)
        shown = [ShownMethod.read(result, images.ids, positions) for result in results]
        if main.review is not None and order:
            labels = images.labels.tolist()
            records = list_for_review(order, main.images, main.review, shown[0], labels)
            rows = [("In the order of review", records)]
        gallery = Gallery(images=images, classes=run.classes, methods=shown)
        return gallery.draw_rows(rows, partial(map_in_threads, threads=run.workers))
