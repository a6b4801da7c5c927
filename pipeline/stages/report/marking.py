"""What the page needs to mark images: the record of each that stage ingest checks, or why not.

A mark says of all boxes of an image whether they are right. So an image can be marked where the
page shows the very boxes of the run, all of them, and no person's are kept already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.formats.corrections.marks import (
    KEY,
    VERSION,
    describe_image,
    name_in_browser,
    round_box,
)
from pipeline.types import ImageBoxes

DOWNLOAD = "reviewed.json"
COMMAND = "python -m pipeline +experiment=ingest run={run} corrections={file}"
HUMAN = "A person's boxes of this image are kept already."


def add_marks(
    images: Sequence[dict[str, Any]],
    boxes: Mapping[int, ImageBoxes] | None,
    classes: Sequence[str],
    shows_all: bool,
) -> dict[str, Any] | None:
    """Add to each image of a view model its record for a mark, or why it cannot be marked.

    Args:
        images: of the view model, which are changed: each gets `record` and `stored_as`, the name
            of its mark in the browser, or None; and `no_mark`, why it cannot be marked.
        boxes: all boxes of these images, by position; None: the page is of several runs, and none
            of them is marked.
        classes: the names of the classes of boxes.
        shows_all: whether the page shows boxes of all classes at once.

    Returns:
        What the page says of marks; None where nothing is marked.
    """
    for image in images:
        record, why = None, None
        if boxes is not None:
            whole = boxes[image["position"]]
            why = explain_no_mark(whole, image["results"][0], shows_all)
            record = describe_image(whole, classes) if why is None else None
        image["record"] = record
        image["stored_as"] = None if record is None else name_in_browser(record)
        image["no_mark"] = why
    if boxes is None:
        return None
    return {"key": KEY, "version": VERSION, "file": DOWNLOAD, "command": COMMAND}


def explain_no_mark(
    image: ImageBoxes, results: Sequence[Mapping[str, Any]], shows_all: bool
) -> str | None:
    """Explain why an image cannot be marked on the page; None where it can be.

    Args:
        image: with all of its boxes.
        results: what the page shows of it, a result for each class.
        shows_all: whether boxes of all classes are shown at once.
    """
    if image.is_human:
        return HUMAN
    shown = sorted([result["label"], *box[:4]] for result in results for box in result["boxes"])
    whole = sorted([box.label, *round_box(box)] for box in image.boxes)
    if len(shown) != len(whole):
        return (
            f"The page shows {len(shown)} boxes of this image, and the run's files have "
            f"{len(whole)}: mark it on the review page, or correct it in a tool."
        )
    classes = {label for label, *_ in whole}
    if not shows_all and len(classes) > 1:
        return (
            f"Its boxes are of {len(classes)} classes, and this page shows those of one at a time: "
            "mark it on the review page, or correct it in a tool."
        )
    return None
