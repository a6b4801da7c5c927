"""Splits by hash: an image's name alone decides, so that it stays where it is when others come."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.listing import Listing

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64

MIN_OF_ASKED = 0.5  # of the images that were asked for: with fewer a note says so


def hash_to_fraction(name: str, salt: str) -> float:
    """Return a number in [0, 1) that depends on the name and the salt alone."""
    digest = hashlib.sha256(f"{salt}\0{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def set_apart(listing: Listing, share: float, salt: str) -> tuple[Listing, Listing]:
    """Split a listing by hash of its ids, which does not change when images are added.

    A class keeps at least one image. At least one image is set apart, if a class has more than
    one: sets of a dozen images work too.

    Args:
        listing: What to split.
        share: The fraction to set apart, from 0 to below 1.
        salt: Another salt gives another split.

    Returns:
        The images that are kept, and those that are set apart.
    """
    fractions = np.fromiter((hash_to_fraction(id, salt) for id in listing.ids), np.float64)
    if listing.others is not None:
        sets = listing.label_sets()
        return listing.split(_keep_each_class(sets, fractions, fractions < share, share))
    return listing.split(find_apart(fractions, np.asarray(listing.labels, np.int64), share))


def describe_few(scored: int, total: int, share: float, remedy: str) -> list[str]:
    """Return a note where a split by hash has less than half of the images that were asked for.

    Args:
        scored: How many images are scored.
        total: Of how many.
        share: Option `data.val`.
        remedy: What the user can do.
    """
    asked = share * total
    if scored >= MIN_OF_ASKED * asked:
        return []
    return [
        f"data.val={share:g}: {scored} of {total} images are scored, where {asked:.1f} were asked "
        "for: the hash of each name draws them, which gives small sets far from their share, and "
        f"numbers over so few images say little; {remedy}"
    ]


def find_apart(
    fractions: Float64[np.ndarray, n], labels: Int64[np.ndarray, n], share: float
) -> Bool[np.ndarray, n]:
    """Return which images `set_apart` sets apart.

    Args:
        fractions: Of each image, in [0, 1).
        labels: Class of each image.
        share: The fraction to set apart.
    """
    apart = fractions < share
    for label in np.setdiff1d(labels[apart], labels[~apart]):
        of_class = np.flatnonzero(labels == label)
        apart[of_class[fractions[of_class].argmax()]] = False
    if share > 0 and len(labels) and not apart.any():
        spare = np.bincount(labels)[labels] > 1
        if spare.any():
            apart[np.where(spare, fractions, 1).argmin()] = True
    return apart


def _keep_each_class(
    sets: Bool[np.ndarray, "n C"],
    fractions: Float[np.ndarray, n],
    apart: Bool[np.ndarray, n],
    share: float,
) -> Bool[np.ndarray, n]:
    """Return which images of several classes are set apart, so that each class keeps an image."""
    apart = apart.copy()
    for label in np.flatnonzero(sets[apart].any(0) & ~sets[~apart].any(0)):
        if not sets[~apart, label].any():  # not kept with a class before
            of_class = np.flatnonzero(sets[:, label])
            apart[of_class[fractions[of_class].argmax()]] = False
    if share > 0 and len(sets) and not apart.any():
        alone = sets & (sets.sum(0) < 2)  # the only image of a class
        spare = ~alone.any(1) & sets.any(1)
        if spare.any():
            apart[np.where(spare, fractions, 1).argmin()] = True
    return apart
