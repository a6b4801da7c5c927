"""Take an ingest back: its reviews leave human_boxes.json, and those that they replaced return."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.formats import human_boxes
from pipeline.formats.files import find_below
from pipeline.formats.review_history import Review, TakenBack, identify, take_back
from pipeline.results.human import FILE
from pipeline.types import HumanBoxes

TAKEN_BACK = "taken_back.json"
SHOWN = 5  # ingests of an error


def check_undo(folder: Path, outputs: Path) -> None:
    """Check that a folder is of an ingest into a folder of outputs.

    Args:
        folder: what ingest.undo= names.
        outputs: the folder of outputs.

    Raises:
        UserError: it is none, or of another folder of outputs.
    """
    if not (folder / FILE).is_file():
        ingests = sorted(path.parent for path in find_below(outputs, f"runs/*/*/{FILE}"))
        names = ", ".join(map(str, ingests[-SHOWN:])) or f"there is none under {outputs}/runs/"
        raise UserError(
            f"ingest.undo={folder}: no folder of an ingest, which has {FILE}; the latest: {names}"
        )
    if not folder.resolve().is_relative_to(outputs.resolve()):
        raise UserError(
            f"ingest.undo={folder}: it did not write to {outputs / FILE}; give outputs=DIR, as for "
            "that ingest"
        )


def undo_ingest(ingest: Path, target: Path, run_folder: Path) -> list[str]:
    """Take the reviews of an ingest out of a file; return lines that say what was done.

    Args:
        ingest: the folder of the ingest.
        target: human_boxes.json in the folder of outputs; the caller has locked it.
        run_folder: where the reviews that are taken out are kept.
    """
    images, wrong, replaced = human_boxes.read_all(target) if target.is_file() else ([], [], [])
    new, new_wrong = human_boxes.read(ingest / FILE)
    brought: list[Review] = [*new, *new_wrong]
    undone = {identify(review) for review in brought}
    result = take_back([*images, *wrong], replaced, undone)
    if result.removed:
        removed = [each for each in result.removed if isinstance(each, HumanBoxes)]
        marks = [each for each in result.removed if not isinstance(each, HumanBoxes)]
        human_boxes.write(run_folder / TAKEN_BACK, removed, marks)
    human_boxes.write(target, result.images, result.wrong, result.replaced)
    return _describe(result, len(undone), ingest, target, run_folder)


def _describe(
    result: TakenBack, total: int, ingest: Path, target: Path, run_folder: Path
) -> list[str]:
    removed, restored, left = (
        sum(isinstance(each, HumanBoxes) for each in reviews)
        for reviews in (result.removed, result.restored, result.images)
    )
    marks, marks_again = len(result.removed) - removed, len(result.restored) - restored
    lines = [
        f"{'taken back':<10} {removed} images with boxes of a person and {marks} marked as wrong, "
        f"which {ingest} brought"
    ]
    if result.removed:
        lines.append(f"{'':<10} they are kept in {run_folder / TAKEN_BACK}")
    if other := total - len(result.removed):
        lines.append(
            f"{'':<10} {other} more of its reviews do not count any more, as a later one replaced "
            "them or they were taken back before"
        )
    if result.restored:
        lines.append(
            f"{'':<10} {restored} images have the boxes of an older review again, and "
            f"{marks_again} are marked as wrong again"
        )
    lines.append(
        f"{'kept':<10} {left} images with boxes of a person in {target}, and {len(result.wrong)} "
        "marked as wrong"
    )
    return lines
