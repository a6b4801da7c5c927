"""Stage ingest: boxes that a person corrected in an annotation tool, kept for all later runs.

    python -m pipeline +experiment=ingest run=outputs/latest corrections=project-1.json

    human_boxes.json   boxes of the images that a person reviewed, a COCO data set
    ingest.json        how many were right, and what was corrected
    to_correct.txt     the names of images that were marked as wrong or to be corrected, a line each

`corrections=` is a file or folder of Label Studio, CVAT, COCO, YOLO or labelme, or the marks of our
pages (formats/corrections/marks.py): a box that was marked as right is a person's, and one that was
marked as wrong or to be corrected waits for its correction in a tool. The boxes are added
to human_boxes.json in the folder of outputs. From then on they are what predictions.json and each
export hold for these images (`source: human`); a new review of an image replaces the older one.
`ingest.undo=FOLDER` takes an ingest back (undo.py).
Images of the random sample at the head of `review_rank` measure, and later calibrate; others only
correct their own boxes. No box teaches a network, unless `annotate.learn_from_human=true`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.engine.found_boxes import open_found_boxes
from pipeline.engine.human import list_class_folders
from pipeline.engine.images import image_source
from pipeline.engine.latest import find_outputs
from pipeline.engine.stage import Published, Stage
from pipeline.errors import UserError
from pipeline.formats import human_boxes
from pipeline.formats.corrections import read_corrections
from pipeline.formats.files import read_json, read_lines, write_json, write_text
from pipeline.formats.review_history import list_replaced
from pipeline.ops.hashing import hash_file, hash_of
from pipeline.results.computed import load_taught
from pipeline.results.human import FILE, file_size, image_content
from pipeline.results.notes import write_notes
from pipeline.stages.ingest.config import IngestOptions
from pipeline.stages.ingest.kept_marks import keep_marks
from pipeline.stages.ingest.undo import check_undo, undo_ingest

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.stages.ingest.review import Known, Sorted
    from pipeline.types import CorrectedImage, WrongMark

SUMMARY = "ingest.json"
TO_CORRECT = "to_correct.txt"
ALL = "all"


class Ingest(Stage):
    """Boxes that a person corrected."""

    name = "ingest"
    after = ("localize", "rank", "export")
    needs = ("explain", "localize")
    options = IngestOptions
    reads = ("run", "corrections")
    publishes = (
        Published(FILE, is_optional=True),
        Published(SUMMARY),
        Published(TO_CORRECT, is_optional=True),
    )

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        if (undo := run.config["ingest"]["undo"]) is not None:
            return {"source": run.sources(__name__), "undo": hash_file(Path(undo) / FILE)}
        reviewed = run.config["ingest"]["reviewed"]
        return {
            "source": run.sources(__name__),
            "corrections": hash_path(Path(run.config["corrections"])),
            "reviewed": reviewed if reviewed in (None, ALL) else hash_file(Path(reviewed)),
            "localize": run.key("localize"),
            "rank": run.key("rank") if run.has_result("rank") else None,
        }

    def check(self, run: Run) -> None:
        """Check that the file exists, and that the images are those of the run.

        Raises:
            UserError: a file is missing, or images were added or changed since the run; or the
                folder that is to be taken back is of no ingest.
        """
        if (undo := run.config["ingest"]["undo"]) is not None:
            if run.config["corrections"] is not None:
                raise UserError(
                    f"ingest.undo={undo}: it takes an ingest back and reads no corrections=; give "
                    "one of both"
                )
            check_undo(Path(undo), run.outputs)
            return
        given, reviewed = run.config["corrections"], run.config["ingest"]["reviewed"]
        if run.config["run"] is None or given is None:
            raise UserError(
                "ingest: give run=RUN, whose boxes were corrected, and corrections=FILE, what the "
                "tool wrote, as in run=outputs/latest corrections=project-1.json"
            )
        if not Path(given).exists():
            raise UserError(f"corrections={given}: no such file or folder")
        if reviewed not in (None, ALL) and not Path(reviewed).is_file():
            raise UserError(
                f"ingest.reviewed={reviewed}: no such file; give a text of image names, a line "
                "each, or all"
            )
        run.check_recorded_images()

    def run(self, run: Run, folder: Path) -> None:
        """Write the boxes of the reviewed images, and how ours compare with them.

        Raises:
            UserError: the file is of no known format, has no image of the run, or has marks of
                other boxes than those of the run.
        """
        from pipeline.stages.ingest import marks, review

        if (undo := run.config["ingest"]["undo"]) is not None:
            write_json(folder / SUMMARY, {"undo": Path(undo).name}, indent=1)
            return
        path = Path(run.config["corrections"])
        content = read_corrections(path)
        known = self._know(run)
        where = f"corrections={path}, run={run.config['run']}"
        marks.check_marks(content.images, known, where)
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        result = review.sort_images(
            content.images, known, self._review_rule(run, known), f"{content.format}: {path.name}",
            now,
        )  # fmt: skip
        notes = [*content.notes, *result.notes(path.name)]
        if not result.human and not result.wrong and not result.not_reviewed:
            raise _nothing_usable(path, content.images, known, result, notes)
        taught = load_taught(run.folder("explain"))  # such images do not measure their network
        changes = [
            review.compare(
                replace(image, is_random=image.is_random and image.content not in taught),
                known.boxes[id],
                run.classes,
            )
            for id, image in result.human.items()
        ]
        wrong = list(result.wrong.values())
        human_boxes.write(folder / FILE, list(result.human.values()), wrong)
        has_marks = any(image.mark for image in content.images)
        summary = review.summarise(changes, wrong if has_marks else None, len(result.to_correct))
        if wrong:
            write_text(folder / TO_CORRECT, "".join(f"{mark.id}\n" for mark in wrong))
        write_json(
            folder / SUMMARY,
            {**summary, "not_reviewed": len(result.not_reviewed), "format": content.format},
            indent=1,
        )
        write_notes(folder, notes)

    def announce(self, result: Path, run_folder: Path) -> list[str]:
        """Return how many images were reviewed, and how many boxes were right."""
        from pipeline.stages.ingest.review import describe

        summary = read_json(result / SUMMARY)
        return [] if "undo" in summary else [f"{'':<10} {line}" for line in describe(summary)]

    def becomes_latest(self, run: Run) -> bool:
        """Return whether `outputs/latest` is to link to the run: not where an ingest is undone."""
        return run.config["ingest"]["undo"] is None

    def finish(self, run: Run, run_folder: Path) -> list[str]:
        """Add the boxes to those of the folder of outputs; say what to do next."""
        target = run.outputs / FILE
        with FileLock(run.outputs / f".{FILE}.lock"):
            if (undo := run.config["ingest"]["undo"]) is not None:
                return undo_ingest(Path(undo), target, run_folder)
            known, known_wrong, before = (
                human_boxes.read_all(target) if target.is_file() else ([], [], [])
            )
            new, new_wrong = human_boxes.read(run_folder / FILE)
            merged, replaced, older = human_boxes.merge(known, new)
            merged, wrong = human_boxes.merge_wrong(known_wrong, new_wrong, merged)
            everything = [*before, *known, *known_wrong, *new, *new_wrong]
            history = list_replaced(everything, [*merged, *wrong])
            human_boxes.write(target, merged, wrong, history)
        lines = [f"{'kept':<10} {len(merged)} images with boxes of a person in {target}"]
        if replaced:
            lines.append(f"{'':<10} the boxes of {len(replaced)} replace those of an older review")
        if older:
            lines.append(f"{'':<10} {len(older)} are left out: {target} has a later review of them")
        lines += [f"{'':<10} {line}" for line in describe_wrong(new_wrong, wrong)]
        kept = keep_marks(Path(run.config["run"]).resolve(), Path(run.config["corrections"]))
        lines += [f"{'':<10} {line}" for line in kept]
        if not new and not new_wrong:
            return [*lines, f"{'next':<10} this file brought no review: see above and the notes"]
        given = run.config["run"]
        other = find_outputs(Path(given))
        apart = other is not None and other.resolve() != run.outputs.resolve()
        lines.append(
            f"{'next':<10} give the command of run={given} again"
            f"{f', and human_boxes={target}' * apart}: its predictions and exports then hold these "
            "boxes, and random ones calibrate"
        )
        elsewhere = f" outputs={run.outputs}" if str(run.outputs) != "outputs" else ""
        lines.append(
            f"{'':<10} was it the wrong file? python -m pipeline +experiment=ingest "
            f"ingest.undo={run_folder}{elsewhere}"
        )
        return lines

    def _know(self, run: Run) -> Known:
        """Return what is known of the images of the run."""
        from pipeline.stages.ingest.review import Known

        ids = run.images().ids
        detections = open_found_boxes(run, run.ranking)
        source, position = image_source(run.data, run.split), {id: n for n, id in enumerate(ids)}
        sampled = None if detections.review is None else detections.review.sampled
        return Known(
            boxes={image.id: image for image in detections.images()},
            classes=detections.classes,
            sampled=lambda id: sampled is not None and bool(sampled[position[id]]),
            content=lambda id: image_content(source, position[id]),
            file_size=lambda id: file_size(source, position[id]),
            folders=list_class_folders(run.data) if run.data.classes == run.classes else (),
        )

    def _review_rule(self, run: Run, known: Known) -> Callable[[CorrectedImage, str], bool]:
        """Return the function that tells whether an image of the file was reviewed.

        Raises:
            UserError: a line of ingest.reviewed names no image of the run.
        """
        chosen = run.config["ingest"]["reviewed"]
        if chosen is None:
            return lambda image, id: image.is_reviewed
        if chosen == ALL:
            return lambda image, id: True
        names = _read_reviewed(Path(chosen), list(known.boxes))
        return lambda image, id: image.is_reviewed or id in names


def describe_wrong(new: Sequence[WrongMark], waiting: Sequence[WrongMark]) -> list[str]:
    """Return lines on images that were marked as wrong.

    Args:
        new: of the file that was read.
        waiting: of all files, those that nobody has corrected yet.
    """
    lines = []
    contents = {mark.content for mark in waiting}
    if corrected := sum(mark.content not in contents for mark in new):
        lines.append(
            f"{corrected} marked as wrong or to be corrected have a person's boxes already: these "
            "stay"
        )
    if waiting:
        lines.append(
            f"{len(waiting)} marked as wrong or to be corrected wait for a correction in a tool: "
            "no truth"
        )
    if any(mark.is_random for mark in waiting):
        lines.append(
            "until those of the random sample are corrected, it chooses no threshold and "
            "calibrates nothing"
        )
    return lines


def hash_path(path: Path) -> str:
    """Return a hash of a file, or of all files of a folder and their names.

    Args:
        path: the file or folder.
    """
    if path.is_file():
        return hash_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hash_of([[file.relative_to(path).as_posix(), hash_file(file)] for file in files])


def _nothing_usable(
    path: Path,
    images: Sequence[CorrectedImage],
    known: Known,
    result: Sorted,
    notes: Sequence[str],
) -> UserError:
    """Return the error for a file of which no image can be used, with the reasons."""
    if result.unread or result.other_size:
        reasons = "".join(f"\n  {note}" for note in notes)
        return UserError(
            f"corrections={path}: none of its {len(images)} images can be used:{reasons}"
        )
    return UserError(
        f"corrections={path}: {len(images)} images, of which the run has none; the file has "
        f"{_first(images)}, the run {next(iter(known.boxes), 'none')}"
    )


def _first(images: Sequence[CorrectedImage]) -> str:
    return repr(images[0].name) if images else "none"


def _read_reviewed(path: Path, ids: Sequence[str]) -> frozenset[str]:
    """Return the images that a list names. Raise UserError for a line that names none."""
    from pipeline.formats.coco_names import NameIndex

    index, names = NameIndex(ids), set[str]()
    for number, line in read_lines(path):
        detections = index.find(line).ids
        if len(detections) != 1:
            what = "several images" if detections else "no image"
            raise UserError(f"{path}, line {number}: {line!r} is the name of {what} of the run")
        names.add(detections[0])
    return frozenset(names)
