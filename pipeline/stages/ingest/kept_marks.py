"""Marks that were ingested, kept beside the report that they are of, which then shows them."""

from __future__ import annotations

from pathlib import Path

from pipeline.formats.corrections import marks
from pipeline.formats.files import read_json
from pipeline.results.marked_page import REPORT, write_marks_into_page
from pipeline.results.marks import FILE, Change, MarksFile

FIELDS = ("file_name", "width", "height", "boxes")  # of an image, beside its mark


def keep_marks(run: Path, corrections: Path) -> list[str]:
    """Add the marks of a file to those of the run; return lines on it.

    So the report of the run shows marks that were downloaded from another browser, when it is
    served and when it is opened from disk.

    Args:
        run: the folder of the run, whose boxes the marks are of.
        corrections: what was ingested; of another format it is left alone.
    """
    if not (run / REPORT).is_file() or not marks.matches(corrections):
        return []
    images = read_json(corrections)["images"]
    records = {image["file_name"]: {key: image[key] for key in FIELDS} for image in images}
    changes = {image["file_name"]: Change(image["mark"], image["date"]) for image in images}
    try:
        MarksFile(run / FILE, records).merge(changes)
        write_marks_into_page(run)
    except OSError as error:
        return [f"the report of {run} does not show these marks: {error.strerror}"]
    return [f"{len(images)} marks are shown by the report of {run}, which they are of"]
