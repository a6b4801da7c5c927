"""Find the boxes of a person that are of images of a data set."""

from __future__ import annotations

from pathlib import Path

from pipeline.engine.images import image_source
from pipeline.errors import UserError
from pipeline.protocols import DataSet
from pipeline.results.human import FILE, load, match_images
from pipeline.types import HumanBoxes, Note, Split

NONE, AUTO = "none", "auto"


def find_human_boxes(
    chosen: str, outputs: Path, data: DataSet, split: Split
) -> tuple[dict[str, HumanBoxes], list[Note]]:
    """Return the boxes of a person in images of a split, and notes on those that are not used.

    Args:
        chosen: `none`, `auto` for human_boxes.json in the folder of outputs, or a file.
        outputs: the folder of outputs.
        data: the data set.
        split: the split.

    Raises:
        UserError: the file is missing or damaged.
    """
    if chosen == NONE:
        return {}, []
    path = outputs / FILE if chosen == AUTO else Path(chosen)
    if chosen != AUTO and not path.is_file():
        raise UserError(f"human_boxes={chosen}: no such file; +experiment=ingest writes it")
    images, wrong = load(path)
    if not images:
        return {}, []
    return match_images(images, wrong, data.ids(split), image_source(data, split))
