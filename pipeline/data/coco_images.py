"""The images of a COCO file matched with the images of a data set, by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.formats.coco_names import Match, NameIndex
from pipeline.formats.coco_records import CocoImage
from pipeline.ops.text import count_note, count_notes, note_missing
from pipeline.types import Note

SHOWN = 4  # candidates that a note names
MAX_COMPARED = 5000  # names that the nearest one is looked for in
MISSING_REMEDY = (
    "file_name is best the path below data.root; unpack the images again where they are to be there"
)


@dataclass(frozen=True)
class MatchedImages:
    """The images of a file that are images of a data set.

    Attributes:
        images: The file's images by the data set's ids.
        notes: Which match none, several, or only by the end of a path.
    """

    images: dict[str, CocoImage] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


def match_images(
    path: Path, images: Sequence[CocoImage], scored: Sequence[str], known: Sequence[str]
) -> MatchedImages:
    """Match the images of a file with those of a data set.

    Args:
        path: The file.
        images: Its images.
        scored: Ids of the images that the end of a path may match.
        known: Ids of all images.

    Raises:
        UserError: None matches.
    """
    index = NameIndex(scored, known)
    claims: dict[str, list[tuple[Match, CocoImage]]] = {}
    missing, unclear, nameless = list[str](), list[str](), list[str]()
    for image in images:
        match = index.find(image.file_name) if image.file_name else Match()
        if not image.file_name:
            nameless.append(image.name)
        elif not match.ids:
            missing.append(image.file_name)
        elif len(match.ids) > 1:
            unclear.append(f"{image.file_name}: {_list_candidates(match.ids)}")
        else:
            claims.setdefault(match.ids[0], []).append((match, image))
    matched = MatchedImages()
    by_end, by_stem = list[str](), list[str]()
    joined, doubtful, repeated = list[str](), list[str](), list[str]()
    for id, claim in claims.items():
        best, others = _rank_claims(claim)
        doubtful += [f"{image.file_name}: {id}" for _, image in others]
        if not best:
            continue
        matched.images[id], twice = _join([image for _, image in best])
        repeated += twice
        stems = [image.file_name for match, image in best if match.has_other_ending]
        by_stem += [f"{name}: {id}" for name in stems]
        ends = [image.file_name for match, image in best if not match.is_literal]
        by_end += [name for name in ends if name not in stems]
        joined += [id] if len(best) > 1 else []
    remedy = "file_name is best the path below data.root"
    if missing:
        why = "not in the data set"
        note = note_missing(
            missing, "image", why, len(images), where=path.name, remedy=MISSING_REMEDY
        )
        matched.notes.append(note)
    kinds = [
        (nameless, "without a file_name, left out", remedy),
        (unclear, "with a name that several images of the data set end in, left out", remedy),
        (doubtful, "with a name that fits the same image as another name, left out", remedy),
        (joined, "that several records name: their annotations are joined", ""),
        (by_end, "matched by the end of the path", ""),
        (by_stem, "matched by the name without its ending, as the ending is another", ""),
    ]
    matched.notes.extend(count_notes(kinds, "image", where=path.name))
    if repeated:
        why = "of these with the box and category of another: left out"
        matched.notes.append(count_note(repeated, "annotation", why, where=path.name))
    if images and not matched.images:
        raise _no_match(path, images, known, [*unclear, *doubtful])
    return matched


def _rank_claims(
    claims: Sequence[tuple[Match, CocoImage]],
) -> tuple[Sequence[tuple[Match, CocoImage]], Sequence[tuple[Match, CocoImage]]]:
    """Return the records that are of an image, and those that only look as if they were.

    Names that stand there as they are, are of the image, and go before longer paths that end alike.
    Of such paths several that differ are all in doubt.
    """
    literal = [claim for claim in claims if claim[0].is_literal]
    sizes = {image.size for _, image in literal or claims} - {None}
    names = {image.file_name for _, image in claims}
    if (literal or len(names) == 1) and len(sizes) <= 1:
        best = literal or claims
        return best, [claim for claim in claims if claim not in best]
    ranks = sorted((match.rank for match, _ in claims), reverse=True)
    if literal and ranks[0] > ranks[1]:
        best = [claim for claim in claims if claim[0].rank == ranks[0]]
        return best, [claim for claim in claims if claim not in best]
    return [], claims


def _join(images: Sequence[CocoImage]) -> tuple[CocoImage, list[str]]:
    """Join the records of an image to a single one.

    Returns:
        The record, without boxes that are there twice; and the names of the annotations that are
        left out for that.
    """
    if len(images) == 1:
        return images[0], []
    joined = replace(
        images[0],
        size=next((image.size for image in images if image.size), None),
        boxes=[], categories=[], masks=[], records=[],
        crowds=[crowd for image in images for crowd in image.crowds],
    )  # fmt: skip
    seen, repeated = set(), list[str]()
    for image in images:
        rows = zip(image.boxes, image.categories, image.masks, image.records, strict=True)
        for box, category, mask, record in rows:
            if (box, category) in seen:
                repeated.append(f"annotations[{record}]")
                continue
            seen.add((box, category))
            joined.boxes.append(box)
            joined.categories.append(category)
            joined.masks.append(mask)
            joined.records.append(record)
    return joined, repeated


def _list_candidates(ids: Sequence[str]) -> str:
    """Return the first ids that a name can mean."""
    return " or ".join(ids[:SHOWN]) + (" or ..." if len(ids) > SHOWN else "")


def _no_match(
    path: Path, images: Sequence[CocoImage], known: Sequence[str], doubtful: Sequence[str]
) -> UserError:
    """Return the error for a file of which no image is in the data set."""
    name = images[0].name
    near = difflib.get_close_matches(name, known[:MAX_COMPARED], n=1, cutoff=0.0)
    named = f"it names {name!r}, the data set has {near[0]!r}"
    if doubtful:
        named = f"it names {doubtful[0]}, which is not certain"
    return UserError(
        f"{path}: none of its {len(images)} images is in the data set; {named}; file_name is to "
        "be the path below data.root, or the end of it where that is unique"
    )
