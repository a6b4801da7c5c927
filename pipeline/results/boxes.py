"""The boxes that stage localize writes: pack them into shards, and read them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UserError
from pipeline.formats.arrays import read_arrays, read_rows
from pipeline.results.computed import Computed
from pipeline.results.confidence import load_ranking
from pipeline.results.maps import load_classification
from pipeline.results.negatives import find_without_object, leave_out_negatives
from pipeline.results.shards import Arrays, Skipped, list_shards
from pipeline.types import Boxes, CocoIds, FoundBoxes, Note, Size

if TYPE_CHECKING:
    from jaxtyping import Float32, Int


def pack_boxes(positioned: Sequence[tuple[int, Boxes]], skipped: Skipped) -> tuple[Arrays, Skipped]:
    """Pack the boxes of many images into the flat arrays of a shard.

    Args:
        positioned: boxes, each with the position of its image.
        skipped: positions of images that could not be used, and why.

    Returns:
        Arrays with a row for each item of `positioned` (`row_image`, `row_class`, `row_size`, and
        `count` of its boxes) and a row for each box (`boxes`, `scores`); with `probability` and
        `features` where the boxes have them; and `skipped`.
    """
    items = [boxes for _, boxes in positioned]
    arrays = {
        "row_image": np.array([position for position, _ in positioned], np.int32),
        "row_class": np.array([boxes.label for boxes in items], np.int32),
        "row_size": np.array([boxes.size for boxes in items], np.int32).reshape(-1, 2),
        "count": np.array([len(boxes.boxes) for boxes in items], np.int32),
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(b.boxes for b in items)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(b.scores for b in items)]),
    }
    masks = [boxes.masks for boxes in items]
    if any(rles is not None for rles in masks):
        text = json.dumps(masks).encode()
        arrays["masks"] = np.frombuffer(text, np.uint8)
    if any(boxes.probability is not None for boxes in items):
        unknown = [boxes.probability for boxes in items]
        arrays["probability"] = np.array([np.nan if p is None else p for p in unknown], np.float32)
    if items and all(boxes.features is not None for boxes in items):
        arrays["features"] = np.concatenate([b.features for b in items if b.features is not None])
    reasons = [boxes.fell_back for boxes in items]
    if any(reasons):
        arrays["fell_back"] = np.frombuffer(json.dumps(reasons).encode(), np.uint8)
    return arrays, skipped


def describe_fallbacks(folder: Path, ids: Sequence[str]) -> list[Note]:
    """Return for how many maps the segmenter used a simpler method, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    count = 0
    for shard in list_shards(folder):
        arrays = read_rows(shard, ("row_image", "fell_back"))
        count += len(arrays["row_image"])
        if "fell_back" not in arrays:
            continue
        reasons = json.loads(arrays["fell_back"].tobytes())
        for position, reason in zip(arrays["row_image"].tolist(), reasons, strict=True):
            if reason is not None:
                by_reason.setdefault(reason, []).append(ids[position])
    return [
        Note(
            f"localize: {len(names)} of {count} maps were cut alone, without the image: {reason}",
            names,
        )
        for reason, names in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def iterate_boxes(
    folder: Path, ids: Sequence[str], confidences: Float32[np.ndarray, n] | None = None
) -> Iterator[tuple[int, Boxes]]:
    """Yield all boxes of a result with the positions of their images, streamed from the shards.

    Args:
        folder: the result of stage localize.
        ids: the name of each image, by position.
        confidences: of all boxes of the result, in their order; None: they are not known.
    """
    first = 0  # box of the shard
    for shard in list_shards(folder):
        arrays, _ = read_arrays(shard)
        last = first + len(arrays["scores"])
        yield from unpack_boxes(
            arrays, ids, None if confidences is None else confidences[first:last]
        )
        first = last


def unpack_boxes(
    arrays: Arrays, ids: Sequence[str], confidences: Float32[np.ndarray, n] | None = None
) -> Iterator[tuple[int, Boxes]]:
    """Yield the boxes of a shard with the positions of their images.

    Args:
        arrays: as `pack_boxes` returns them.
        ids: the name of each image, by position.
        confidences: of the boxes; None: they are not known.
    """
    count = len(arrays["row_image"])
    masks = json.loads(arrays["masks"].tobytes()) if "masks" in arrays else [None] * count
    reasons = json.loads(arrays["fell_back"].tobytes()) if "fell_back" in arrays else [None] * count
    probabilities = arrays["probability"].tolist() if "probability" in arrays else [None] * count
    boxes, scores, features = arrays["boxes"], arrays["scores"], arrays.get("features")
    columns = (arrays[name].tolist() for name in ("row_image", "row_class", "row_size", "count"))
    last = 0
    for position, label, (height, width), number, mask, reason, probability in zip(
        *columns, masks, reasons, probabilities, strict=True
    ):
        rows = slice(last, last + number)
        last = rows.stop
        yield (
            position,
            Boxes(
                ids[position],
                label,
                boxes[rows],
                scores[rows],
                (height, width),
                mask,
                reason,
                probability,
                None if features is None else features[rows],
                None if confidences is None else confidences[rows],
            ),
        )


def drop_doubtful(detections: FoundBoxes, minimum: float) -> tuple[FoundBoxes, list[str]]:
    """Leave out boxes of a low confidence; those that a person drew stay.

    Args:
        detections: all boxes.
        minimum: the least confidence that stays; 0 keeps all boxes.

    Returns:
        The boxes that stay, and a note that counts the others.

    Raises:
        UserError: the boxes have no confidence.
    """
    if minimum <= 0:
        return detections, []
    total = dropped = 0
    for _, boxes in detections.boxes():
        if boxes.is_human:
            continue
        if boxes.confidences is None:
            raise UserError(
                f"export.min_confidence={minimum}: the boxes of this run have no confidence; add "
                "stage rank to its stages"
            )
        total += len(boxes.boxes)
        dropped += int((boxes.confidences < minimum).sum())

    def kept() -> Iterator[tuple[int, Boxes]]:
        for position, boxes in detections.boxes():
            if boxes.is_human or boxes.confidences is None:
                yield position, boxes
            else:
                yield position, boxes.select(boxes.confidences >= minimum)

    note = (
        f"export: {dropped} of {total} boxes have a confidence below {minimum:g} and are left out "
        "(export.min_confidence)"
    )
    return replace(detections, boxes=kept), [note] if dropped else []


def open_boxes(
    boxes: Path,
    maps: Path,
    ids: Sequence[str],
    classes: Sequence[str],
    coco: CocoIds,
    ranking: Path | None = None,
    *,
    labels: Int[np.ndarray, n],
    negatives: Collection[int],
) -> FoundBoxes:
    """Return the boxes of a result as an exporter takes them.

    Args:
        boxes: the result of stage localize.
        maps: the result of stage explain, which has the sizes of the images.
        ids: the name of each image, by position.
        classes: the names of the classes.
        coco: the ids and file names that a COCO file uses for images and classes.
        ranking: the result of stage rank; None: it did not run.
        labels: of the images, -1 where an image has none.
        negatives: the classes without an object: their images have no box (results/negatives.py).
    """
    confidences, review = (None, None) if ranking is None else load_ranking(ranking)

    def sizes() -> Iterator[tuple[int, Size]]:
        images = load_classification(maps)
        frames = ((height, width) for height, width in images.size.tolist())
        yield from zip(images.image.tolist(), frames, strict=True)

    found = FoundBoxes(
        boxes=lambda: iterate_boxes(boxes, ids, confidences),
        sizes=sizes,
        ids=ids,
        classes=classes,
        coco=coco,
        review=review,
        supervision=Computed.read(maps).supervision or "image labels",
    )
    return leave_out_negatives(found, find_without_object(maps, labels, negatives), negatives)
