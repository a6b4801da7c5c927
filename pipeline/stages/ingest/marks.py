"""Marks of our own page: they count for the boxes that the page showed, and for no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UserError
from pipeline.formats.corrections.marks import DIGITS
from pipeline.ops.text import to_nfc
from pipeline.types import CorrectedImage, FoundBox, ImageBoxes

if TYPE_CHECKING:
    from pipeline.stages.ingest.review import Known

TOLERANCE = 0.6 * 10**-DIGITS  # of a coordinate that was rounded, as float32
SHOWN = 3  # images of an error


def check_marks(
    images: Sequence[CorrectedImage],
    known: Known,
    where: str,
) -> None:
    """Check that the boxes which were marked are those that the run has.

    Args:
        images: of a file.
        known: what is known of the images of the run.
        where: file and run, for the error.

    Raises:
        UserError: images are not of the run, or the run has other boxes in them.
    """
    marked = [image for image in images if image.mark]
    reasons = []
    for image in marked:
        detections = known.boxes.get(image.name)
        if detections is None:
            reasons.append(f"{image.name!r} is no image of the run")
        elif not _are_same(image, detections, known):
            ours = [f"{known.classes[box.label]} {_round(box)}" for box in detections.boxes]
            shown = [
                f"{name} {_to_list(box)}"
                for name, box in zip(image.classes, image.boxes, strict=True)
            ]
            reasons.append(
                f"{image.name!r}: the page showed {', '.join(shown) or 'no box'}; the run has "
                f"{', '.join(ours) or 'no box'}"
            )
    if reasons:
        listed = "".join(f"\n    {reason}" for reason in reasons[:SHOWN])
        more = f"\n    ... and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        raise UserError(
            f"{where}: {len(reasons)} of {len(marked)} marks are not of the boxes of this run:"
            f"{listed}{more}\nGive run= the run whose page was marked, or mark the "
            "images in report/index.html or review/index.html of this run"
        )


def _are_same(image: CorrectedImage, detections: ImageBoxes, known: Known) -> bool:
    """Return whether a page showed the boxes of a run, in their order.

    The page may name a class by its folder, as before classes.txt gave it a name.
    """
    if image.size != detections.size or len(image.boxes) != len(detections.boxes):
        return False
    names = [to_nfc(known.classes[box.label]) for box in detections.boxes]
    if names != [to_nfc(known.find_class(name)) for name in image.classes]:
        return False
    ours = np.array([box.box for box in detections.boxes], np.float64).reshape(-1, 4)
    precision = TOLERANCE + 1e-6 * np.abs(ours)  # of float32
    return bool((np.abs(image.boxes - ours) <= precision).all())


def _round(box: FoundBox) -> list[float]:
    return [round(side, DIGITS) for side in box.box]


def _to_list(box: np.ndarray) -> list[float]:
    return [round(side, DIGITS) for side in box.tolist()]
