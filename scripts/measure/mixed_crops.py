"""MixedCrops: the images of another data set, cropped so that their objects have all sizes.

A share of area is drawn for each crop, between the photograph's own and 90 %, and a window in the
photograph in which the annotated object has it: off-centre, never padded, and some cutting a part
of the object off, so that it touches an edge. Where the window does not lie in the photograph, all
is drawn anew. Large shares fit more often: the median lies at 0.6 to 0.7 of the way from the
photograph's own share to 90 %, and a quarter of the crops cut something off. The crops are for
scoring alone, as the annotated box chooses them: training and held-back images stay as they are.

    data._target_=scripts.measure.mixed_crops.MixedCrops
    '+data.base={_target_: pipeline.data.cub.Cub, root: DIR}' +data.crops=2
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from pipeline.data.hashed_splits import hash_to_fraction
from pipeline.data.shape_outlines import compute_box
from pipeline.ops.rle import encode_rle
from pipeline.ops.windows import try_window
from pipeline.protocols.data import AnnotatedDataSet
from pipeline.types import CocoIds, Example, GroundTruth, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Float, Int

MAX_SHARE = 0.9  # of the crop's area, that the object has
MIN_SIDE = 64  # of a crop in pixels: what is smaller is too blurred to judge a cut by
MIN_VISIBLE = 0.3  # of another object's box, below which it no longer counts as annotated
TRIES = 100

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the photograph, half-open."""


def is_held_out(name: str) -> bool:
    """Return whether the images of a photograph are looked at once, at the end: half of them.

    Args:
        name: the id of the photograph, or of a crop of it.
    """
    return hash_to_fraction(source_of(name), "held out for thresholds") < 0.5


def source_of(name: str) -> str:
    """Return the id of the photograph that a crop is of; that of a photograph itself."""
    return name.partition("#")[0]


class MixedCrops:
    """A data set (`pipeline.protocols.AnnotatedDataSet`) whose scored images are crops of another.

    Args:
        base: the other data set.
        crops: the crops of each scored image.
        seed: another seed draws other windows.
    """

    def __init__(self, base: AnnotatedDataSet, crops: int = 1, seed: int = 0) -> None:
        self.base, self.crops, self.seed = base, crops, seed

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the other data set."""
        return self.base.classes

    @property
    def size(self) -> Size:
        """The input size of the other data set."""
        return self.base.size

    def ids(self, split: Split) -> Sequence[str]:
        """Return `<photograph>#<number>` for each crop of the scored split."""
        return self.base.ids(split) if split != "val" else self._ids

    def labels(self, split: Split) -> Int[np.ndarray, n]:
        """Return the class of each image."""
        return self.base.labels(split) if split != "val" else self._labels

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """Read a photograph and crop it.

        Args:
            split: the split.
            position: the index in `ids`.
            at: the size that the crop is scaled to.
            at_least: not used: a crop has the photograph's resolution.
        """
        if split != "val":
            return self.base.example(split, position, at=at, at_least=at_least)
        source, _, (x0, y0, x1, y1) = self._windows[position]
        crop = self.base.example(split, source).image[y0:y1, x0:x1]
        if at is not None and at != crop.shape[:2]:
            smaller = at[0] * at[1] < crop.shape[0] * crop.shape[1]
            method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            crop = cv2.resize(crop, (at[1], at[0]), interpolation=method)
        label, size = int(self._labels[position]), (y1 - y0, x1 - x0)
        return Example(self._ids[position], np.ascontiguousarray(crop), label, size)

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return the annotations that are seen in each crop."""
        truth = self.base.truth(split)
        if split != "val":
            return truth
        sources = self.base.ids(split)
        return {
            name: _crop_truth(truth[sources[source]], name, window)
            for name, (source, _, window) in zip(self.ids(split), self._windows, strict=True)
        }

    def coco_names(self, split: Split) -> CocoIds:
        """Return numbers from 1 on, and ids as file names."""
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, self.base.coco_names(split).category_ids)

    def fingerprint(self, split: Split) -> str:
        """Hash the other data set and the windows."""
        own = self.base.fingerprint(split)
        if split != "val":
            return own
        parts = (own, self.base.truth_fingerprint(split), self._windows)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def truth_fingerprint(self, split: Split) -> str:
        """Hash the annotations and the windows."""
        of_images, of_truth = self.fingerprint(split), self.base.truth_fingerprint(split)
        return hashlib.sha256(f"{of_images} {of_truth}".encode()).hexdigest()[:16]

    def notes(self) -> list[str]:
        """Return those of the other data set."""
        return self.base.notes()

    def truth_notes(self) -> list[str]:
        """Return those of the other data set."""
        return self.base.truth_notes()

    @cached_property
    def _ids(self) -> list[str]:
        ids = self.base.ids("val")
        return [f"{ids[position]}#{number}" for position, number, _ in self._windows]

    @cached_property
    def _labels(self) -> Int[np.ndarray, n]:
        return self.base.labels("val")[[position for position, _, _ in self._windows]]

    @cached_property
    def _windows(self) -> list[tuple[int, int, Window]]:
        """Position of the photograph, number of the crop and window, for all crops."""
        truth, windows = self.base.truth("val"), []
        for position, name in enumerate(self.base.ids("val")):
            if name not in truth or not len(truth[name].of_label()):
                continue
            boxes = truth[name].of_label().astype(np.float64)
            areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            largest = boxes[int(areas.argmax())]
            for number in range(self.crops):
                digest = hashlib.sha256(f"{self.seed} {number} {name}".encode()).digest()
                rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
                windows.append((position, number, draw_window(rng, largest, truth[name].size)))
        return windows


def draw_window(rng: np.random.Generator, box: Float[np.ndarray, 4], size: Size) -> Window:
    """Draw a window in which a box has a random share of the area.

    Args:
        rng: the generator.
        box: xyxy in pixels of the photograph.
        size: height and width of the photograph.

    Returns:
        The window; the whole photograph where no window fits.
    """
    height, width = size
    own = float((box[2] - box[0]) * (box[3] - box[1])) / (height * width)
    for _ in range(TRIES):
        share = rng.uniform(min(own, MAX_SHARE), MAX_SHARE)
        drawn = try_window(rng, box, share, (width, height))
        if drawn is None:
            continue
        x0, y0, x1, y1 = (round(float(end)) for end in drawn)
        if min(x1 - x0, y1 - y0) >= MIN_SIDE:
            return x0, y0, x1, y1
    return 0, 0, width, height


def _crop_truth(truth: GroundTruth, name: str, window: Window) -> GroundTruth:
    """Crop annotations; of masks, boxes are the tightest around what is seen of them."""
    x0, y0, x1, y1 = window
    size, boxes, masks, kept = (y1 - y0, x1 - x0), [], [], []
    for number, box in enumerate(truth.boxes):
        seen = np.clip(box - [x0, y0, x0, y0], 0, [size[1], size[0]] * 2).astype(np.float32)
        area = float((box[2] - box[0]) * (box[3] - box[1]))
        if (seen[2] - seen[0]) * (seen[3] - seen[1]) < MIN_VISIBLE * area:
            continue
        if truth.masks is not None:
            mask = coco_mask.decode(truth.masks[number])[y0:y1, x0:x1] > 0
            if not mask.any():  # of another object, whose mask leaves that part of its box empty
                continue
            seen = compute_box(mask.astype(np.uint8))
            masks.append(encode_rle(np.ascontiguousarray(mask), size))
        boxes.append(seen)
        kept.append(number)
    classes = None if truth.classes is None else truth.classes[kept]
    return GroundTruth(
        name,
        truth.label,
        size,
        np.stack(boxes),
        classes=classes,
        masks=masks if truth.masks is not None else None,
    )
