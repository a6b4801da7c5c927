"""The boxes that a run found, as stages and exporters take them.

Stages import this module, which the hashes of their sources follow, and not a method of the run,
whose module they leave out: what reads boxes can change a result (pipeline/engine/sources.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.results.boxes import open_boxes
from pipeline.types import FoundBoxes

if TYPE_CHECKING:
    from pipeline.engine.run import Run


def open_found_boxes(
    run: Run, ranking: Path | None = None, localized: Path | None = None
) -> FoundBoxes:
    """Return the boxes that a run found in its images.

    Args:
        run: the run, for the method of the job.
        ranking: the result of stage rank; None: boxes have no confidence.
        localized: the result of stage localize; None: that of the run.

    Raises:
        UserError: the run has no result of stage explain or localize.
    """
    images = run.images()
    return open_boxes(
        localized or run.folder("localize"),
        run.folder("explain"),
        images.ids,
        run.classes,
        run.coco_names(),
        ranking,
        labels=images.labels,
        negatives=run.negatives,
    )
