"""Images that are there twice: files of the same bytes, and images that look the same.

Near duplicates are those of pipeline/ops/near_duplicates.py. Images of hardly any contrast, and
those with a side below MIN_SIDE, all look the same, and are compared by bytes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.ops.near_duplicates import Signatures, find_near_groups, group_equal
from pipeline.stages.check.images import Measured


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are there several times.

    Attributes:
        exact: the images of each group of equal files.
        near: the images of each group that look the same and are not all equal files.
        plain: images of hardly any contrast or few pixels, which are compared by bytes only.
    """

    exact: Sequence[Sequence[int]] = ()
    near: Sequence[Sequence[int]] = ()
    plain: Sequence[int] = ()


def find_duplicates(measured: Measured, distance: int) -> Duplicates:
    """Find the groups of images that are there several times.

    Args:
        measured: of all images, with hashes.
        distance: bits in which the hashes of near duplicates differ at most.
    """
    readable = np.flatnonzero(measured.is_read)
    exact = group_equal(readable, measured.content[readable])
    # One image of each group of equal files stands for all of them.
    others = {number for group in exact for number in group[1:]}
    signatures = Signatures(
        measured.perceptual,
        measured.grey,
        measured.chroma,
        measured.contrast,
        np.minimum(measured.height, measured.width),
    )
    compared = np.array([n for n in readable.tolist() if n not in others], np.int64)
    by_first = {group[0]: group for group in exact}
    near = [
        sorted(number for first in group for number in by_first.get(first, [first]))
        for group in find_near_groups(signatures, compared, distance)
    ]
    return Duplicates(exact, sorted(near), readable[signatures.is_plain[readable]].tolist())
