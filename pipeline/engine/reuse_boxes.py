"""Boxes of single images that an earlier run segmented in the same way, found by their content.

made_for.json   hash of all that can change the boxes of an image, and the result of its maps
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import store
from pipeline.engine.reuse import (
    KEY_FILE,
    OPEN_SHARDS,
    STAMPS_FILE,
    Stamps,
    list_rows,
    without_images,
)
from pipeline.formats.arrays import read_arrays
from pipeline.formats.files import read_json, write_json
from pipeline.ops.hashing import hash_of, to_plain
from pipeline.results.boxes import unpack_boxes
from pipeline.results.shards import shard_path

if TYPE_CHECKING:
    from jaxtyping import Int64

    from pipeline.types import Boxes, SaliencyMap

MADE_FOR = "made_for.json"


@dataclass(frozen=True)
class EarlierBoxes:
    """An earlier result of stage localize, and which of its images are here again.

    Attributes:
        folder: of the result.
        positions: of each image here the position there; -1 where it is not there.
        shard: images in a shard there.
    """

    folder: Path
    positions: Int64[np.ndarray, n]
    shard: int

    @property
    def count(self) -> int:
        """How many images are there."""
        return int((self.positions >= 0).sum())

    def take(self, saliency: SaliencyMap, position: int) -> Boxes | None:
        """Return the boxes of a map; None where they are not there.

        Args:
            saliency: the map.
            position: of its image.
        """
        there = int(self.positions[position])
        if there < 0:
            return None
        number = there // self.shard
        boxes = _open_boxes(str(shard_path(self.folder, number))).get((there, saliency.explained))
        return None if boxes is None else replace(boxes, id=saliency.id)


@lru_cache(maxsize=OPEN_SHARDS)
def _open_boxes(path: str) -> dict[tuple[int, int], Boxes]:
    arrays, _ = read_arrays(Path(path))
    return {(n, boxes.label): boxes for n, boxes in unpack_boxes(arrays, _NoNames())}


class _NoNames(Sequence[str]):
    """Names that are not known."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, position: Any) -> Any:
        return "?"


def find_earlier_boxes(
    folder: Path, maps: Path, made_for: Mapping[str, Any], by_name: bool
) -> EarlierBoxes | None:
    """Find the newest boxes that were segmented in the same way; record how these are.

    Args:
        folder: of the result of stage localize that is wanted.
        maps: the result of stage explain.
        made_for: all that can change the boxes of an image besides the image and its name.
        by_name: whether the name of an image can change its boxes.
    """
    if not (maps / STAMPS_FILE).is_file():
        return None
    made_for = to_plain({**made_for, "maps": without_images(read_json(maps / KEY_FILE))})
    record = {"made_for": hash_of(made_for), "maps": maps.name}
    write_json(folder / MADE_FOR, record)
    with store.Store(folder.parents[1]).lock():  # none is removed meanwhile, nor what is used now
        return _newest(folder, maps, record["made_for"], by_name)


def _newest(folder: Path, maps: Path, made_for: str, by_name: bool) -> EarlierBoxes | None:
    """Return the newest boxes that were segmented in the same way; they are used now.

    Args:
        folder: of the result of stage localize that is wanted.
        maps: the result of stage explain.
        made_for: hash of all that can change the boxes of an image besides the image.
        by_name: whether the name of an image can change its boxes.
    """
    here = Stamps.read(maps)
    having = [path.parent for path in folder.parent.glob(f"*/{MADE_FOR}")]
    for other in sorted(having, key=lambda path: -path.stat().st_mtime_ns):
        known = read_json(other / MADE_FOR)
        theirs = maps.parent / known["maps"]
        if other == folder or known["made_for"] != made_for:
            continue
        if not store.use(other) or not store.use(theirs):
            continue
        then = Stamps.read(theirs)
        names = [(then.name,), (here.name,)] if by_name else [(), ()]
        place = {k: n for n, k in enumerate(list_rows(then.content, then.label, *names[0]))}
        now = list_rows(here.content, here.label, *names[1])
        positions = np.array([place.get(row, -1) for row in now], np.int64)
        if (positions >= 0).any():
            return EarlierBoxes(other, positions, int(read_json(theirs / "plan.json")["shard"]))
    return None
