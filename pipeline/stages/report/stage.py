"""Stage report: an HTML page that people work in: numbers, charts, images, why boxes are wrong.

Pictures are embedded in the page, and it loads nothing from a network, so it can be sent as it is.
What it shows is the view model (view_model.py), which it holds as JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.compared import name_jobs
from pipeline.engine.found_boxes import open_found_boxes
from pipeline.engine.stage import Published, Stage, find_stage
from pipeline.formats.files import read_json, write_text
from pipeline.ops.hashing import hash_file
from pipeline.results.human import hash_boxes, replace_by_human
from pipeline.results.notes import write_notes
from pipeline.stages.report.causes import RIGHT_IOU
from pipeline.stages.report.config import ReportOptions
from pipeline.stages.report.sections import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.engine.run import Run
    from pipeline.protocols import AuditTest
    from pipeline.stages.report.view_model import Gallery
    from pipeline.stages.report.words import ImageCounts, MethodResult
    from pipeline.types import ImageBoxes

FOLDER = Path(__file__).parent  # of the templates, the style sheet and the scripts
REVIEW_PAGE = "review/index.html"  # in the folder of the run
DRAWN = (".html", ".css", ".js")  # what the page is made of beside its view model
EACH = ("explain", "localize", "evaluate", "picture", "draw")  # stages that go over all images


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

        if self._shows_sections_only(run):
            return self._sections_key(run)
        named = name_jobs(run)  # which opens the runs of `runs=`
        methods = [job for _, job in named]
        return {
            "source": run.sources(__name__, drawing=True),
            "page": _hash_page(),
            "evaluate": [job.key("evaluate") for job in methods],
            "called": [called for called, _ in named],
            "rank": [job.key("rank") if self._ranks(job) else None for job in methods],
            "human": None if self._compares_runs(run) else hash_boxes(run.human[0]),
            "sections": {
                name: [job.key(name) for job in methods]
                for name in SECTIONS
                if name in self._before(run)
            },
            "compare": run.key("compare") if "compare" in run.config["stages"] else None,
            "report": run.config["report"],
            "title": page_title(str(run.config["name"]), list(run.methods), run.config["data"]),
            "links": list_files(self._before(run)),
            "review_page": self._has_review_page(run),
            "notes": without_results(self._notes(run)),
        }

    def run(self, run: Run, folder: Path) -> None:
        """Write the page."""
        from pipeline.stages.report.rendering import render

        if self._shows_sections_only(run):
            write_text(folder / "index.html", render(self._sections_model(run)))
            return
        model = self._view_model(run)
        if notes := model.pop("left_out"):
            write_notes(folder, notes)
        write_text(folder / "index.html", render(model))

    def _shows_sections_only(self, run: Run) -> bool:
        """Return whether the run has no boxes, but stages that the page has sections for."""
        asked = {*SECTIONS} & {*run.config["stages"]}
        return bool(asked) and not run.config["runs"] and not run.has_result("evaluate")

    def _sections_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change a page of sections alone."""
        from pipeline.data.left_out import without_results

        sections = [name for name in SECTIONS if name in self._before(run)]
        jobs = [run.for_method(name) for name in run.methods]
        return {
            "source": run.sources(__name__, drawing=True),
            "page": _hash_page(),
            "sections": {name: [job.key(name) for job in jobs] for name in sections},
            "stages": self._before(run),
            "name": run.config["name"],
            "data": run.data.fingerprint(run.split),
            "split": run.split if run.data.classes else "",
            "notes": without_results(self._notes(run)),
        }

    def _sections_model(self, run: Run) -> dict[str, Any]:
        """Return all that a page of sections alone shows."""
        from pipeline.engine import checkpoint
        from pipeline.stages.report import words
        from pipeline.stages.report.sections_only import (
            describe_data_and_network,
            describe_sections_only,
            explain_missing,
        )

        is_given = run.config["checkpoint"] is not None
        has_network = is_given or run.has_result("train")
        card = checkpoint.read_card(run.checkpoint) if has_network else None
        counts = words.ImageCounts(
            images=len(run.images()),
            skipped=0,
            scored=0,
            split=run.split if run.data.classes else "",
        )
        facts = describe_data_and_network(
            card, counts, run.classes, str(run.precision) if card else ""
        )
        model = card or {"model": run.config["model"]}
        parts = self._common_parts(run, facts, model, list(run.methods) if card else [])
        name, stages = str(run.config["name"]), run.config["stages"]
        return describe_sections_only(parts, explain_missing(name, stages, is_given))

    def _common_parts(
        self, run: Run, facts: Sequence[str], card: Mapping[str, Any], explained: list[str]
    ) -> dict[str, Any]:
        """Return what a page shows with boxes and without.

        Args:
            run: whose page it is.
            facts: on images, classes and network.
            card: of the network, at least its `model`.
            explained: the methods that the title names.
        """
        from pipeline.engine import store
        from pipeline.stages.report import words

        return {
            "title": words.page_title(str(run.config["name"]), explained, run.config["data"]),
            "facts": facts,
            "stages": self._times(run),
            "classes": list(run.classes),
            "sections": self._sections(run),
            "notes": words.show_notes(self._notes(run)),
            "links": words.list_files(self._before(run)),
            "essentials": words.command_line(
                data=run.config["data"],
                segmenter=run.config["segmenter"],
                card=card,
                methods=list(run.methods),
                seed=run.config["seed"],
            ),
            "made": words.describe_made(store.provenance()),
        }

    def _view_model(self, run: Run) -> dict[str, Any]:
        """Return all that the page shows."""
        from pipeline.engine import checkpoint
        from pipeline.engine.images import is_multi_label
        from pipeline.stages.report import words
        from pipeline.stages.report.advice import list_advice
        from pipeline.stages.report.glossary import WORDS
        from pipeline.stages.report.marking import add_marks
        from pipeline.stages.report.steps import MAX_BOXES
        from pipeline.stages.report.verdict import describe_verdict
        from pipeline.stages.report.view_model import VERSION, build_images

        jobs = name_jobs(run)
        results = [self._result(called, job) for called, job in jobs]
        card, first = checkpoint.read_card(run.checkpoint), results[0]
        compares = "compare" in run.config["stages"]
        differences = read_json(run.folder("compare") / "comparison.json") if compares else []
        gallery = self._gallery(run, [job for _, job in jobs])
        shown = build_images(gallery, results)
        sliders, causes = shown.pop("sliders"), shown["causes"]
        measured = [result.measured for result in results]
        has_boxes = bool(run.data.classes)
        facts = words.describe_facts(card, self._counts(run, first), run.precision)
        model = {
            "version": VERSION,
            **self._common_parts(run, facts, card, list(run.methods)),
            "verdict": describe_verdict(measured, causes, differences, gallery.unit),
            "advice": list_advice(
                measured, {each.method: each.table["advice"] for each in results}, causes
            ),
            "expected": words.describe_expected(results),
            "unmeasured": words.explain_unmeasured(first, has_boxes, "boxes" in run.config["data"]),
            "is_labelled": has_boxes,
            "is_multi_label": is_multi_label(run.data),
            "is_ranked": first.review is not None,
            "is_scored": any(record["iou"] is not None for record in first.images),
            "confidence_kind": words.describe_confidence_kinds(results),
            "review_page": REVIEW_PAGE if self._has_review_page(run) else None,
            "right_iou": RIGHT_IOU,
            "max_step_boxes": MAX_BOXES,
            "first_order": "spread-down" if run.config["runs"] else "rank-up",
            "ious": gallery.ious,
            "methods": [
                {**words.describe_method(result), "slider": slider}
                for result, slider in zip(results, sliders, strict=True)
            ],
            "comparison": words.compare_methods(results) if len(results) > 1 else None,
            "differences": words.describe_differences(differences),
            "charts": self._charts(run, results, card),
            **shown,
            "words": WORDS,
        }
        boxes = None if self._compares_runs(run) else self._whole_boxes(run, model["images"])
        shows_all = model["is_multi_label"] or not model["is_labelled"]
        return {**model, "marking": add_marks(model["images"], boxes, run.classes, shows_all)}

    def _compares_runs(self, run: Run) -> bool:
        """Return whether the page shows several runs, of which a mark would not say which."""
        return len(run.config["runs"]) > 1

    def _whole_boxes(self, run: Run, images: Sequence[Mapping[str, Any]]) -> dict[int, ImageBoxes]:
        """Return all boxes of images that are shown, a person's in place of those found."""
        detections = open_found_boxes(run)
        detections, _ = replace_by_human(detections, run.human[0])
        shown = {image["position"] for image in images}
        if not shown:
            return {}
        return {image.position: image for image in detections.images() if image.position in shown}

    def _gallery(self, run: Run, jobs: list[Run]) -> Gallery:
        """Return which images the page shows, and with which segmenter of each method."""
        from pipeline.engine.choices import choice_name
        from pipeline.stages.report.view_model import Gallery

        names = (choice_name("segmenter", str(job.config["segmenter"]["_target_"])) for job in jobs)
        return Gallery(
            images=run.images(),
            segmenters=[(name, job.segmenter()) for name, job in zip(names, jobs, strict=True)],
            most=run.config["report"]["images"],
            seed=run.config["seed"],
            names_files=run.config["report"]["paths"],
            workers=run.workers,
            ious=[float(iou) for iou in run.config["evaluate"]["ious"]],
        )

    def _sections(self, run: Run) -> list[dict[str, Any]]:
        """Return a section for each of check, audit and inspect that is in the run."""
        from pipeline.engine.choices import build_choices
        from pipeline.stages.report import sections

        before, shown = self._before(run), []
        if "check" in before:
            shown.append(sections.describe_check(run.folder("check")))
        if "audit" in before:
            options = run.config["audit"]
            tests: dict[str, AuditTest] = build_choices("audit", options["tests"], options)
            folders = {name: run.for_method(name).folder("audit") for name in run.methods}
            numbers = [number for test in tests.values() for number in test.numbers]
            shown.append(sections.describe_audit(folders, numbers))
        if "inspect" in before:
            shown.append(sections.describe_inspect(run.folder("inspect")))
        return shown

    def _charts(
        self, run: Run, results: list[MethodResult], card: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the charts of the page."""
        from pipeline.engine.images import is_multi_label
        from pipeline.stages.report.chart_model import chart_model

        # A run that explains the network of another one trained none itself.
        history = run.classifier / "history.json" if run.config["checkpoint"] is None else None
        return chart_model(
            results,
            classes=run.classes,
            labels=run.images().labels.tolist(),
            is_multi_label=is_multi_label(run.data),
            card=card,
            history=read_json(history) if history is not None and history.is_file() else (),
            held_back=len(run.images("held_back")) or None,
        )

    def _times(self, run: Run) -> list[dict[str, Any]]:
        """Return what each stage before this one took when its result was computed."""
        from pipeline.engine.store import read_done
        from pipeline.stages.report.view_model import describe_stages

        count, times = len(run.images()), []
        for name in self._before(run):
            stage = find_stage(name)
            for method in run.methods if stage.per_method else [run.method]:
                job = run.for_method(method)
                title = f"{name} {method}" if stage.per_method and len(run.methods) > 1 else name
                times.append((title, read_done(job.folder(name)), count if name in EACH else None))
        return describe_stages(times)

    def _ranks(self, run: Run) -> bool:
        """Return whether the run computes confidences."""
        return run.has_result("rank")

    def _has_review_page(self, run: Run) -> bool:
        """Return whether stage annotate writes a page to mark boxes on."""
        return "annotate" in run.config["stages"] and run.config["annotate"]["sheet"] > 0

    def _before(self, run: Run) -> list[str]:
        """Return the stages of the run whose files lie beside the page."""
        return [name for name in run.config["stages"] if name != self.name]

    def _result(self, called: str, run: Run) -> MethodResult:
        """Return the results of the stages for a method."""
        from pipeline.stages.report.words import MethodResult

        return MethodResult(
            method=called,
            saliency=run.method,
            ids=run.images().ids,
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


def _hash_page() -> list[str]:
    """Return the hash of each file that the page is made of beside its view model."""
    return [hash_file(path) for path in sorted(FOLDER.iterdir()) if path.suffix in DRAWN]
