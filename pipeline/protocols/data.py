"""What a data set must have, and what it may have: annotated boxes, boxes that a person drew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from jaxtyping import Bool, Int

    from pipeline.types import CocoIds, Example, GroundTruth, Size, Split


class DataSet(Protocol):
    """A choice of `data=`: images and labels, all that training, maps and boxes may see."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty where images have no labels."""

    @property
    def size(self) -> Size:
        """Height and width that images are scaled to for the network."""

    def ids(self, split: Split) -> Sequence[str]:
        """Return the name of each image of a split; an image's index here is its position.

        Args:
            split: the split; one without images has no names.
        """

    def labels(self, split: Split) -> Int[np.ndarray, n]:
        """Return the class of each image of a split, [n]; -1 where it has none.

        Args:
            split: the split.
        """

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """Read an image of a split.

        Args:
            split: the split.
            position: the image's index in `ids`.
            at: scale it to exactly this size.
            at_least: scale it to no less than this, aspect kept, as cheaply as its format allows.

        Raises:
            SkippedImage: it cannot be read.
        """

    def coco_names(self, split: Split) -> CocoIds:
        """Return the numbers and names that COCO files use for images and classes.

        Args:
            split: the split.
        """

    def fingerprint(self, split: Split) -> str:
        """Return a hash of the images and labels of a split, independent of absolute paths.

        Args:
            split: the split.
        """

    def notes(self) -> list[str]:
        """Return what is unusual about the images' files and folders, a line each."""


@runtime_checkable
class AnnotatedDataSet(DataSet, Protocol):
    """A data set with annotated boxes.

    Only the stages evaluate, calibrate and check may import this type: a test holds that.
    """

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return the annotations by image id; images without annotations are left out.

        Args:
            split: the split.

        Raises:
            UserError: the annotations cannot be read.
        """

    def truth_fingerprint(self, split: Split) -> str:
        """Return a hash of the annotations of a split.

        Args:
            split: the split.
        """

    def truth_notes(self) -> list[str]:
        """Return what was wrong in the annotations and could be corrected, a line each."""


@runtime_checkable
class ReadsDrawnBoxes(Protocol):
    """A data set that reads a file of boxes which a person drew on a few of its images."""

    def drawn_notes(self, file: Path) -> list[str]:
        """Return what was unusual about the boxes of such a file, a line each.

        Args:
            file: COCO instances.
        """

    def drawn(self, file: Path) -> Mapping[str, GroundTruth]:
        """Return the boxes of such a file by image id.

        Args:
            file: COCO instances, a file that the data set's tool writes.

        Raises:
            UserError: the file cannot be read.
        """


@runtime_checkable
class ScalesDeepImages(Protocol):
    """A data set that scales images of more than 8 bits in a channel to 0 to 255."""

    def intensity_record(self) -> dict[str, Any]:
        """Return the options with which other images are scaled as the training images are.

        Returns:
            `range` and `no_data` of the data set; empty where the training images have 8 bits.
        """


@runtime_checkable
class HasSeveralLabels(Protocol):
    """A data set whose images may have several classes each; `labels` gives the first of each."""

    @property
    def is_multi_label(self) -> bool:
        """Whether its images are labelled so: even where each has one, a class excludes none."""

    def label_sets(self, split: Split) -> Bool[np.ndarray, "n C"]:
        """Return which classes each image of a split is labelled with; none where it has none.

        Args:
            split: the split.
        """


@runtime_checkable
class HasBackgrounds(Protocol):
    """A data set of several labels an image that tells images of no class from unlabelled ones."""

    def backgrounds(self, split: Split) -> Bool[np.ndarray, n]:
        """Return which images of a split are known to show no class; others may be unlabelled.

        Args:
            split: the split.
        """


@runtime_checkable
class HasNegatives(Protocol):
    """A data set with classes whose images show no object."""

    def negative_classes(self) -> Sequence[str]:
        """Return the names of these classes."""


@runtime_checkable
class HasClassFolders(Protocol):
    """A data set whose classes are folders, whose names stay where classes are renamed."""

    def class_folders(self) -> Sequence[str]:
        """Return the name of the folder of each class, in the order of `classes`."""


@runtime_checkable
class HashesCocoNames(Protocol):
    """A data set that tells without a list of all images whether COCO files would name them so."""

    def coco_names_fingerprint(self, split: Split) -> str:
        """Return a hash of all that `coco_names` depends on.

        Args:
            split: the split.
        """


@runtime_checkable
class HasCommonFolder(Protocol):
    """A data set that tells without a list of all images below which folder they are."""

    def common_folder(self, split: Split) -> Path | None:
        """Return the absolute path of the folder that all files of a split lie below.

        Args:
            split: the split; None is returned where it has no file.
        """


@runtime_checkable
class HasFiles(Protocol):
    """A data set whose images are files."""

    def path(self, split: Split, position: int) -> Path | None:
        """Return the absolute path of an image's file; None in an archive or at an address.

        Args:
            split: the split.
            position: the image's index in `ids`.
        """

    def stamp(self, split: Split, position: int) -> tuple[int, int]:
        """Return the size of an image's file in bytes and its time of change in ns.

        Args:
            split: the split.
            position: the image's index in `ids`.
        """

    def location(self, split: Split, position: int) -> str:
        """Return where the bytes of an image are, as pipeline/formats/stored.py reads them.

        Args:
            split: the split.
            position: the image's index in `ids`.
        """

    def reading_record(self) -> Any:
        """Return what changes how files are read, as JSON-like values: ranges of deep images."""
