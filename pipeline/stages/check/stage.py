"""Stage check: what is wrong with a data set, before anybody trains on it.

    python -m pipeline +experiment=check data=folder data.root=photos

    check/index.html    one page: findings with remedies, counts, duplicates, a look at each class
    check/sheet.jpg     the contact sheet
    check.json          the same as data: counts, findings, groups of duplicates

An image that an earlier check measured in the same way is not read again (engine/reuse.py).
Findings are errors, where to train would be a mistake, warnings and notes (findings.py). With
`check.stop=true`, as in +experiment=check, an error ends the run with exit code 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import terminal
from pipeline.engine.stage import Published, Stage
from pipeline.errors import SkippedImage, UserError
from pipeline.formats.files import read_json, write_json, write_text
from pipeline.ops.hashing import hash_file
from pipeline.protocols import HasFiles
from pipeline.results.notes import unique_notes, write_notes
from pipeline.stages.check.config import CheckOptions

if TYPE_CHECKING:
    from pipeline.engine.pictures import Pictures
    from pipeline.engine.reuse import Stamps
    from pipeline.engine.run import Run
    from pipeline.stages.check.doubts import Doubt
    from pipeline.stages.check.duplicates import Duplicates
    from pipeline.stages.check.findings import Finding
    from pipeline.stages.check.images import CheckedImages, Measured
    from pipeline.stages.check.set_doubts import SetDoubt
    from pipeline.types import Example, Size

SUMMARY, PAGE, SHEET = "check.json", "check/index.html", "check/sheet.jpg"
DOUBTS = "doubts"  # the folder of shards in the result
TEMPLATE = Path(__file__).with_name("page.html")
UNHASHED = ("stop",)  # options that do not change the result


class Check(Stage):
    """What is wrong with a data set, before anybody trains on it."""

    name = "check"
    options = CheckOptions
    publishes = (Published("check", how="link"), Published(SUMMARY))

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        from pipeline.stages.check.annotations import hash_annotations
        from pipeline.stages.check.images import SPLITS

        options = run.config["check"]
        return {
            "source": run.sources(__name__, "data", drawing=True),
            "measured": self._measured_key(run),
            "page": hash_file(TEMPLATE),
            "data": [run.data.fingerprint(split) for split in SPLITS],
            "annotations": hash_annotations(run.data),
            "files": run.data.notes(),
            "classes": run.data.classes,
            "size": run.size,
            "split": run.split,
            "check": {name: value for name, value in options.items() if name not in UNHASHED},
            "doubt": self._doubt_key(run) if options["doubt"] else None,
        }

    def _measured_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change what is measured of an image, besides the image."""
        data = run.data
        return {
            "source": run.sources("pipeline.stages.check.images", "data"),
            "reading": data.reading_record() if isinstance(data, HasFiles) else None,
            "hashes": run.config["check"]["duplicates"],
        }

    def _doubt_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change which labels are doubted."""
        file = run.model().weight_file
        return {
            "source": run.sources(__name__, "model"),
            "model": run.config["model"],
            "weights": None if file is None else hash_file(Path(file)),
            "precision": run.precision,
        }

    def check(self, run: Run) -> None:
        """Raise UserError where labels are to be doubted by a network that does not know them."""
        if run.config["check"]["doubt"]:
            from pipeline.stages.check.doubts import match_rows

            match_rows(run.model(), run.data.classes)

    def run(self, run: Run, folder: Path) -> None:
        """Measure all images, find what is wrong, and write the page.

        Raises:
            UserError: There is no image, or the head of the network does not fit.
        """
        from pipeline.stages.check.doubts import load_doubts, load_set_doubts
        from pipeline.stages.check.duplicates import Duplicates, find_duplicates
        from pipeline.stages.check.images import CheckedImages, load_measured

        options, images = run.options("check"), CheckedImages(run.data)
        if not len(images):
            raise UserError("check: the data set has no image; see data.*")
        stamps = self._measure(run, images, folder)
        measured = load_measured(folder, len(images))
        if stamps is not None:
            np.copyto(stamps.content, measured.content, where=measured.content > 0)
            stamps.write(folder)
        duplicates = Duplicates()
        if options.duplicates:
            duplicates = find_duplicates(measured, options.distance)
        doubts: Sequence[Doubt | SetDoubt] = []
        if options.doubt:
            load = load_set_doubts if images.is_multi_label else load_doubts
            doubts = load(folder / DOUBTS)
        findings = self._find(run, images, measured, duplicates, doubts)
        pictures = self._pictures(run, images, None if stamps is None else stamps.content, folder)
        self._write(run, folder, images, measured, duplicates, doubts, findings, pictures)
        pictures.write()

    def _measure(self, run: Run, images: CheckedImages, folder: Path) -> Stamps | None:
        """Measure the images that no earlier result has; return what files are known again by."""
        from pipeline.engine.reuse import KEY_FILE, EarlierImages, find_earlier
        from pipeline.stages.check.doubts import measure_doubts
        from pipeline.stages.check.images import measure_images

        options, compute, key = run.options("check"), run.compute, run.cache_key(self.name)
        earlier, stamps = find_earlier(
            images, folder.parent, key, compute.workers, lambda key: key.get("measured")
        )
        if earlier is not None:
            terminal.print_line(
                f"check: {earlier.count} of {len(images)} images are as they were: what is known "
                f"of them is that of {earlier.folder}"
            )
        measure_images(images, folder, compute.shard, compute.workers, options.duplicates, earlier)
        if options.doubt:
            doubted = None
            if (
                earlier is not None
                and read_json(earlier.folder / KEY_FILE)["doubt"] == key["doubt"]
            ):
                doubted = EarlierImages(earlier.folder / DOUBTS, earlier.positions)
            doubts = folder / DOUBTS
            measure_doubts(images, doubts, compute, run.model(), run.data.classes, doubted)
        return stamps

    def _pictures(
        self, run: Run, images: CheckedImages, content: np.ndarray | None, folder: Path
    ) -> Pictures:
        """Return the reader of pictures, with those of earlier results of the stage."""
        from pipeline.engine.pictures import Pictures
        from pipeline.stages.check.page import CELL

        def read(number: int, frame: Size) -> Example | SkippedImage:
            try:
                return images.read(number, frame)
            except SkippedImage as problem:
                return problem

        return Pictures(read, content, folder, {**self._measured_key(run), "side": CELL})

    def _find(
        self, run: Run, images: CheckedImages, measured: Measured, duplicates: Duplicates,
        doubts: Sequence[Doubt | SetDoubt],
    ) -> list[Finding]:  # fmt: skip
        """Return all findings, errors first."""
        from pipeline.stages.check import findings
        from pipeline.stages.check.annotations import check_annotations
        from pipeline.stages.check.doubts import describe_doubts
        from pipeline.stages.check.losses import check_losses
        from pipeline.stages.check.scored import check_scored

        classes = run.data.classes
        return findings.sort_findings([
            *check_losses(run.data.notes()),
            *findings.check_ids(images),
            *(findings.check_labels(images, measured, classes) if classes else ()),
            *check_scored(images, classes, run.split),
            *findings.check_files(images, measured, max(run.size)),
            *findings.check_duplicates(images, duplicates, classes),
            *check_annotations(images, measured),
            *describe_doubts(images, doubts, classes),
        ])  # fmt: skip

    def _write(
        self, run: Run, folder: Path, images: CheckedImages, measured: Measured,
        duplicates: Duplicates, doubts: Sequence[Doubt | SetDoubt], findings: Sequence[Finding],
        kept: Pictures,
    ) -> None:  # fmt: skip
        """Write check.json, the contact sheet, the page and the notes."""
        from pipeline.plotting.boxes import write_jpeg
        from pipeline.stages.check import page, sheet
        from pipeline.stages.check.annotations import count_boxes
        from pipeline.stages.check.losses import is_loss

        options, classes = run.options("check"), run.data.classes
        summary = page.summarize(images, measured, classes)
        summary["boxes"] = count_boxes(run.data)
        shown = doubts[: options.doubted]
        write_json(folder / SUMMARY, {
            **summary,
            # They are notes of the run already, and counted with those of this stage.
            "file_notes": len(unique_notes(run.data.notes())),
            "findings": [finding.record() for finding in findings],
            "duplicates": page.describe_duplicates(images, duplicates, classes),
            "doubted": [page.describe_doubt(images, doubt, classes) for doubt in shown],
        }, indent=1)  # fmt: skip
        pictures = page.Pictures(images, measured, classes, kept)
        chosen = sheet.select_sheet(images.labels, measured.is_read, options.sheet)
        (folder / "check").mkdir(exist_ok=True)
        if chosen:
            write_jpeg(folder / SHEET, sheet.draw_sheet(images, pictures, chosen, classes))
        groups = page.select_groups(images, duplicates)
        text = page.render_page(
            TEMPLATE.read_text(encoding="utf-8"),
            title=page.name_data(run.config["data"]),
            summary=summary,
            is_multi_label=images.is_multi_label,
            findings=findings,
            groups=page.draw_groups(pictures, groups[: page.MAX_GROUPS]),
            more_groups=max(0, len(groups) - page.MAX_GROUPS),
            doubted=[pictures.draw(d.number, page.say_doubt(d, classes)) for d in shown],
            sheet=[pictures.draw(number) for number in chosen],
            notes=[note.partition("\n")[0] for note in run.data.notes() if not is_loss(note)],
        )
        write_text(folder / PAGE, text)
        write_notes(folder, [finding.to_note() for finding in findings])

    def announce(self, result: Path, run_folder: Path) -> Sequence[str]:
        """Return how many findings and notes on files there are, and where the page is.

        Together they are the notes that the run has of the data set.
        """
        summary = read_json(result / SUMMARY)
        counts = _count(summary)
        counts["note"] += summary["file_notes"]
        what = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items())
        return [
            f"{'':<10} {summary['images']} images of {_say_classes(summary)}: {what}",
            f"{'':<10} {run_folder / PAGE}",
        ]

    def refuse(self, run: Run, result: Path) -> str | None:
        """Return why to train would be a mistake, where check.stop=true and there is an error."""
        errors = _count(read_json(result / SUMMARY))["error"]
        if not run.config["check"]["stop"] or not errors:
            return None
        are = "errors are" if errors > 1 else "error is"
        return (
            f"check: {errors} {are} listed above with the remedy: to train on this data set would "
            "be a mistake; check.stop=false goes on all the same"
        )

    def becomes_latest(self, run: Run) -> bool:
        """Return whether the run does more than to check: else it has no network and no boxes."""
        return any(name != self.name for name in run.config["stages"])


def _say_classes(summary: dict[str, Any]) -> str:
    """Return how many classes there are."""
    return "1 class" if len(summary["classes"]) == 1 else f"{len(summary['classes'])} classes"


def _count(summary: dict[str, Any]) -> dict[str, int]:
    """Return how many findings there are of each severity, from the content of check.json."""
    counts = {"error": 0, "warning": 0, "note": 0}
    for finding in summary["findings"]:
        counts[finding["severity"]] += 1
    return counts
