"""The images of a split, by position or as files; and the segmentation of a map with its image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import SkippedImage, UserError
from pipeline.ops.label_sets import pack_label_sets
from pipeline.ops.maps import frame_size
from pipeline.protocols import (
    DataSet,
    HasBackgrounds,
    HasCommonFolder,
    HasFiles,
    HasSeveralLabels,
    Segmenter,
)
from pipeline.types import Boxes, Example, ImageSource, Part, SaliencyMap, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, UInt8


PARTS: dict[Split, Part] = {
    "train": "train",
    "held_back": "train",
    "calibration": "train",
    "val": "val",
    "test": "test",
}


@dataclass(frozen=True)
class SplitImages:
    """The images and labels of a split, without boxes, as supervision is weak.

    Results refer to an image by its position in the split.

    Attributes:
        data: the data set.
        split: the split.
    """

    data: DataSet
    split: Split

    def __len__(self) -> int:
        return len(self.data.ids(self.split))

    @property
    def ids(self) -> Sequence[str]:
        """The name of each image."""
        return self.data.ids(self.split)

    @property
    def labels(self) -> Int[np.ndarray, n]:
        """The class of each image, the first of several; -1 where it has none."""
        return self.data.labels(self.split)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes."""
        return is_multi_label(self.data)

    @property
    def label_sets(self) -> Bool[np.ndarray, "n C"]:
        """Which classes each image is labelled with."""
        if isinstance(self.data, HasSeveralLabels):
            return self.data.label_sets(self.split)
        labels = self.labels.tolist()
        return pack_label_sets(labels, [()] * len(labels), len(self.data.classes))

    @property
    def backgrounds(self) -> Bool[np.ndarray, n]:
        """Which images are known to show no class, where an image may have several."""
        if self.is_multi_label and isinstance(self.data, HasBackgrounds):
            return self.data.backgrounds(self.split)
        return np.zeros(len(self.labels), bool)

    def list_backgrounds(self) -> frozenset[int]:
        """Return the positions of the images that are known to show no class."""
        if not self.is_multi_label:
            return frozenset()
        return frozenset(self.backgrounds.nonzero()[0].tolist())

    def classes_of(self, position: int) -> tuple[int, ...]:
        """Return the classes of an image, ascending; none where it has none.

        Args:
            position: of the image in the split.
        """
        if self.is_multi_label:
            return tuple(self._sets[position].nonzero()[0].tolist())
        label = int(self._labels[position])
        return () if label < 0 else (label,)

    @cached_property
    def _labels(self) -> Int[np.ndarray, n]:
        return self.labels

    @cached_property
    def _sets(self) -> Bool[np.ndarray, "n C"]:
        return self.label_sets

    @property
    def size(self) -> Size:
        """Height and width that images are scaled to for the network."""
        return self.data.size

    @property
    def are_labelled(self) -> bool:
        """Whether the data set has classes."""
        return bool(self.data.classes)

    @cached_property
    def _files(self) -> HasFiles | None:
        """The data set where its images are files; asking for a protocol takes some time."""
        return self.data if isinstance(self.data, HasFiles) else None

    @property
    def has_files(self) -> bool:
        """Whether the images are files."""
        return self._files is not None

    def location(self, position: int) -> str:
        """Return where the bytes of an image are, as pipeline/formats/stored.py reads them.

        Args:
            position: of the image in the split.
        """
        assert self._files is not None, "only files have a location"
        return self._files.location(self.split, position)

    def stamp(self, position: int) -> tuple[int, int]:
        """Return the size of an image's file in bytes and its time of change in ns.

        Args:
            position: of the image in the split.
        """
        assert self._files is not None, "only files have stamps"
        return self._files.stamp(self.split, position)

    def fingerprint(self) -> str:
        """Return a hash of the images and labels of the split."""
        return self.data.fingerprint(self.split)

    def read(self, position: int, at: Size | None = None) -> Example | SkippedImage:
        """Return an image, or the reason why it cannot be used.

        Args:
            position: of the image in the split.
            at: scale it to exactly this size; None: leave it as it is.
        """
        try:
            return self.data.example(self.split, position, at=at)
        except SkippedImage as problem:
            return problem


def refuse_empty(images: SplitImages, stage: str) -> None:
    """Raise UserError if a split has no image, with the sizes of the others and what files say.

    Args:
        images: of the split.
        stage: the one that needs an image.

    Raises:
        UserError: there is none.
    """
    if len(images):
        return
    data, split = images.data, images.split
    counts = [f"{count} {name}" for name in PARTS if (count := len(data.ids(name)))]
    others = ", ".join(counts) or "none in the others either"
    reasons = "".join(f"\n  {note}" for note in data.notes()[:10])
    raise UserError(
        f"{stage}: explain.split={split}: no image of the data set is in it ({others}); "
        f"explain.split=all takes all images, and data.* say which images are in {split}{reasons}"
    )


def is_multi_label(data: DataSet) -> bool:
    """Return whether an image of a data set may have several classes.

    Args:
        data: the data set.
    """
    return isinstance(data, HasSeveralLabels) and data.is_multi_label


def find_common_folder(data: DataSet, split: Split) -> Path | None:
    """Return the folder that all images of a split lie below; None where they are no files.

    Args:
        data: the data set.
        split: the split.
    """
    if isinstance(data, HasCommonFolder):
        return data.common_folder(split)
    count = len(data.ids(split))
    if not isinstance(data, HasFiles) or not count:
        return None
    paths = [data.path(split, position) for position in range(count)]
    folders = {str(path.parent) for path in paths if path is not None}
    return Path(os.path.commonpath(folders)) if None not in paths else None


def image_source(data: DataSet, split: Split) -> ImageSource:
    """Return where the images of a split are, for exporters.

    Args:
        data: the data set.
        split: the split.
    """
    labels, parts = data.labels(split), _list_parts(data, split)
    files = data if isinstance(data, HasFiles) else None

    def read(position: int) -> UInt8[np.ndarray, "H W 3"]:
        return data.example(split, position).image

    return ImageSource(
        root=find_common_folder(data, split),
        path=lambda position: None if files is None else files.path(split, position),
        part=lambda position: parts[position],
        label=lambda position: int(labels[position]),
        read=read,
    )


def _list_parts(data: DataSet, split: Split) -> Sequence[Part]:
    """Return what a detector should use each image of a split for.

    Images without labels are of split val, as nothing is trained on them here; their boxes are
    there to train a detector on.
    """
    if not data.classes:
        return ["train"] * len(data.ids(split))
    if split != "all":
        return [PARTS[split]] * len(data.ids(split))
    part_of = {id: PARTS[name] for name in PARTS for id in data.ids(name)}
    return [part_of[id] for id in data.ids("all")]


def read_for_segmenter(
    images: SplitImages, needs_image: int, position: int, saliency: SaliencyMap
) -> Example | SkippedImage:
    """Read the image of a map for a segmenter, `needs_image` pixels on its longer side.

    Returns:
        The image, or the reason why it cannot be used.
    """
    return images.read(position, frame_size(saliency.size, needs_image))


def segment_map(
    images: SplitImages, segmenter: Segmenter, position: int, saliency: SaliencyMap
) -> Boxes | SkippedImage:
    """Segment a map; read its image if the segmenter needs it.

    Returns:
        Boxes in pixels of the original image, or the reason why the image cannot be used.
    """
    if not segmenter.needs_image:
        return segmenter(saliency, None)
    example = read_for_segmenter(images, segmenter.needs_image, position, saliency)
    return example if isinstance(example, SkippedImage) else segmenter(saliency, example)
