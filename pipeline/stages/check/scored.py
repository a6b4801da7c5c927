"""What is wrong with the scored split: no image, or classes that none of its images shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.stages.check.findings import Finding
from pipeline.stages.check.images import LEARNED, SPLITS, CheckedImages
from pipeline.types import Split

REMEDY = (
    "name a split that is scored: val/ of a folder, val in a column or file of splits (lines that "
    "are removed from data.split_file are drawn anew), data.val=0.2, or the file of the scored "
    "images; see data.*"
)


def check_scored(images: CheckedImages, classes: Sequence[str], wanted: Split) -> list[Finding]:
    """Return what is wrong with the images that are scored.

    Args:
        images: of all splits.
        classes: the names of the classes.
        wanted: the split that the run gives boxes to; where it is val, a run without images in it
            ends before it trains.
    """
    is_scored = images.is_in("val")
    if not is_scored.any():
        counts = {split: int(images.is_in(split).sum()) for split in SPLITS}
        there = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
        return [Finding(
            "no_scored_image", "error" if wanted == "val" else "warning",
            f"no image is in val, the split that is scored ({there}): nothing is measured", REMEDY,
        )]  # fmt: skip
    is_learned = images.is_in(*LEARNED)
    learned, scored = (images.count_classes(which, len(classes)) for which in
                       (is_learned, is_scored))  # fmt: skip
    absent = [
        f"{classes[n]} ({learned[n]} trained on)"
        for n in np.flatnonzero((learned > 0) & (scored == 0)).tolist()
    ]
    if not absent:
        return []
    return [Finding.of(
        "class_without_scored_image", "warning", absent, "class",
        f"of {len(classes)} have images to train on, and none that is scored: no number says how "
        "well they are found",
        "move some images of each to val, or draw more: a larger data.val")]  # fmt: skip
