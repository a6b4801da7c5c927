"""The work of exporters with single images: in this process, in threads, or in workers.

Workers do all of it where they may write files, else they encode the masks, and this process writes
the files. A line of text is written by this process alone: the way there and back takes longer
(docs/machines.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from pipeline.engine import runtime
from pipeline.engine.spread_items import map_items
from pipeline.engine.spreading import NeededPath, current_spread
from pipeline.types import ImageBoxes, ImageWork
from pipeline.types.exports import pair_with_results

Result = TypeVar("Result")

LOOKED_AT = 64  # images, whether boxes have masks: a segmenter gives all of them some, or none


def map_images(
    work: ImageWork[Result], images: Iterable[ImageBoxes], threads: int, folder: Path
) -> Iterator[Result]:
    """Do the work of an exporter with images; yield the results in order.

    Args:
        work: what is done with each image.
        images: are read in this thread.
        threads: number of threads of this process.
        folder: that files are written below.

    Raises:
        UserError: workers cannot do it, or what it raises.
    """
    spread, here = current_spread(), threads if work.writes_files else 0
    if work.writes_files and spread is not None and spread.runner.writes_in_workers:
        needed = [NeededPath.of("outputs", folder)]
        yield from map_items(work, images, threads, needed=needed, writes=True)
        return
    has_masks = False
    if spread is not None and work.encode is not None:
        has_masks, images = _look_for_masks(images)
    if not has_masks:
        yield from runtime.map_in_threads(work, images, here)
    elif not work.writes_files:
        yield from map_items(work, images, threads)
    else:
        encode = partial(map_items, work.encode_masks, threads=threads)
        pairs = pair_with_results(encode, images)
        yield from runtime.map_in_threads(lambda pair: work.write(*pair), pairs, here)


def _look_for_masks(images: Iterable[ImageBoxes]) -> tuple[bool, Iterator[ImageBoxes]]:
    """Return whether boxes of the first images have masks, and all images."""
    rest = iter(images)
    first = list(islice(rest, LOOKED_AT))
    has_masks = any(box.mask is not None for image in first for box in image.boxes)
    return has_masks, chain(first, rest)
