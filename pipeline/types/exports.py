"""Boxes of many images as exporters take them, and boxes corrected in an annotation tool."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from pipeline.types.records import Boxes, Rle, Size, Supervision, check_boxes, check_size

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float32, Int, UInt8

Result = TypeVar("Result")

Part = Literal["train", "val", "test"]
"""What a detector should use an image for. Images that were held back from training, or that a
threshold was chosen on, belong to `train`."""

Mark = Literal["", "right", "wrong", "to_correct"]
"""What a person said of the boxes of an image; empty: nothing."""


@dataclass(frozen=True)
class CocoIds:
    """The ids and file names that a COCO file uses: of images by position, of classes by number."""

    image_ids: Sequence[int]
    file_names: Sequence[str]
    category_ids: Sequence[int]


@dataclass(frozen=True)
class Review:
    """The order in which a person best looks at images.

    Attributes:
        ranks: of each image by position, from 1; 0: the image has none.
        sampled: whether the image belongs to the random sample at the head.
        confidence_kind: `calibrated` or `default`, of the confidences of the boxes.
    """

    ranks: Int[np.ndarray, n]
    sampled: Bool[np.ndarray, n]
    confidence_kind: str


@dataclass(frozen=True)
class ImageSource:
    """Where the images are that boxes were found in, by their positions.

    Attributes:
        root: absolute path of the folder that all files lie below; None where there are no files.
        path: returns the absolute path of an image's file; None where it has none, as it is drawn.
        part: returns what a detector should use the image for.
        label: returns the class that the image is labelled with; -1 where it has none.
        read: returns the upright image at full size; raises SkippedImage where it cannot be read.
    """

    root: Path | None
    path: Callable[[int], Path | None]
    part: Callable[[int], Part]
    label: Callable[[int], int]
    read: Callable[[int], UInt8[np.ndarray, "H W 3"]]


@dataclass(frozen=True)
class FoundBox:
    """A box of an image as formats write it.

    Attributes:
        label: its class.
        box: x0, y0, x1, y1, half-open, in pixels of the upright image.
        score: as the segmenter gives it; it ranks boxes. 1 where a person drew the box.
        mask: where the segmenter makes masks.
        probability: that the network gives the class, where it is known.
        confidence: the probability that its IoU is at least 0.5, where it is known.
        is_human: whether a person drew, corrected or accepted it.
    """

    label: int
    box: tuple[float, float, float, float]
    score: float
    mask: Rle | None = None
    probability: float | None = None
    confidence: float | None = None
    is_human: bool = False


@dataclass(frozen=True)
class ImageBoxes:
    """An image and all boxes in it.

    Attributes:
        position: of the image in its split.
        id: its name: a relative path, unique in the data set.
        size: height and width of the upright image.
        boxes: of all classes, by class, best score first; may be empty.
        is_human: whether a person looked at the image, so that its boxes, if any, are a person's.
    """

    position: int
    id: str
    size: Size
    boxes: Sequence[FoundBox]
    is_human: bool = False


EncodeMask = Callable[[Rle, FoundBox], Any]
"""From a mask and its box to what a format writes of it."""

WriteImage = Callable[[ImageBoxes, Sequence[Any]], Result]
"""From an image and its encoded masks, by box, None where there is none, to what an exporter needs
of it: its text, and what notes count."""


@dataclass(frozen=True)
class ImageWork(Generic[Result]):
    """What an exporter does with each image alone; it can be pickled, and holds no file open.

    Attributes:
        write: with the image.
        encode: with each mask of it, before; None: masks are not written.
        writes_files: whether `write` writes files.
    """

    write: WriteImage[Result]
    encode: EncodeMask | None = None
    writes_files: bool = False

    def encode_masks(self, image: ImageBoxes) -> list[Any]:
        """Return the encoded masks of an image, by box; None where a box has none.

        Args:
            image: the image.
        """
        encode = self.encode
        return [
            None if encode is None or box.mask is None else encode(box.mask, box)
            for box in image.boxes
        ]

    def __call__(self, image: ImageBoxes) -> Result:
        """Do the work with an image.

        Args:
            image: the image.
        """
        return self.write(image, self.encode_masks(image))


class MapImages(Protocol):
    """Does the work of an exporter with images."""

    def __call__(
        self, work: ImageWork[Result], images: Iterable[ImageBoxes], /
    ) -> Iterator[Result]:
        """Yield the results in order.

        Args:
            work: what is done with each image.
            images: the images.
        """


@dataclass(frozen=True, kw_only=True)
class FoundBoxes:
    """All boxes of the images of a split, streamed, so that their number is not bounded by memory.

    Args:
        boxes: returns a new iterator over boxes, each with the position of its image.
        sizes: returns a new iterator over the sizes of the explained images, with their positions.
        ids: the name of each image, by position.
        classes: the names of the classes.
        coco: the ids and file names that a COCO file uses for images and classes.
        review: the order in which to look at the images; None: it was not computed.
        source: where the images are; None: only their names are known.
        model_version: what found the boxes, for tools that show it.
        supervision: what the network learned from.
        mapper: does the work of an exporter with each image, here or elsewhere.
    """

    boxes: Callable[[], Iterator[tuple[int, Boxes]]]
    sizes: Callable[[], Iterator[tuple[int, Size]]]
    ids: Sequence[str]
    classes: Sequence[str]
    coco: CocoIds
    review: Review | None = None
    source: ImageSource | None = None
    model_version: str = "label2box"
    supervision: Supervision = "image labels"
    mapper: MapImages = map

    def images(self) -> Iterator[ImageBoxes]:
        """Yield each explained image with all of its boxes, also those without a box.

        Images come in the order of `sizes`, and `boxes` must have the same order.

        Raises:
            ValueError: boxes are of an image that `sizes` does not have at that place.
        """
        pending = self.boxes()
        item = next(pending, None)
        for position, size in self.sizes():
            found: list[FoundBox] = []
            is_human = False
            while item is not None and item[0] == position:
                found += _list_found(item[1])
                is_human |= item[1].is_human
                item = next(pending, None)
            yield ImageBoxes(position, self.ids[position], size, found, is_human)
        if item is not None:
            raise ValueError(f"boxes of image {item[0]} do not follow the order of the sizes")

    def map_images(self, work: ImageWork[Result]) -> Iterator[tuple[ImageBoxes, Result]]:
        """Yield each image, in order, with what the work of an exporter with it returns.

        Args:
            work: is done in any order, perhaps by other processes.
        """
        return pair_with_results(partial(self.mapper, work), self.images())


def _list_found(boxes: Boxes) -> list[FoundBox]:
    """Return the boxes of a class, each alone."""
    return [
        FoundBox(
            label=boxes.label,
            box=(x0, y0, x1, y1),
            score=score,
            mask=None if boxes.masks is None else boxes.masks[n],
            probability=boxes.probability,
            confidence=None if boxes.confidences is None else float(boxes.confidences[n]),
            is_human=boxes.is_human,
        )
        for n, ((x0, y0, x1, y1), score) in enumerate(
            zip(boxes.boxes.tolist(), boxes.scores.tolist(), strict=True)
        )
    ]


# -- corrections


@dataclass(frozen=True)
class CorrectedImage:
    """What an annotation tool's file says of an image.

    Attributes:
        name: the image as the file names it: a path, a URL, the name of a file.
        size: height and width of the upright image as the file gives it; None where it does not.
        boxes: xyxy in pixels of the upright image. Where the file has fractions of the image and
            not its size, they are fractions, and `are_fractions` is true.
        classes: the name of the class of each box.
        masks: of the boxes; None: the file has none, or none for a box.
        are_predictions: of each box, whether the file says that a program found it.
        is_reviewed: whether the tool says that a person submitted, accepted or marked the image.
        chosen_by_doubt: whether the file says that the image was chosen as its boxes were doubtful.
        date: when it was reviewed, in ISO 8601, as the file says.
        author: who reviewed it, as the file says.
        where: the place in the file, for messages.
        are_fractions: whether `boxes` are fractions of width and height.
        mark: what a person said of our own boxes on a page of ours: "right", "wrong" or
            "to_correct"; `boxes` are then those that the page showed. Empty: the file is of another
            tool.
        unread: how many boxes or shapes of it cannot be used: what a person said of the image is
            then known in part.
    """

    name: str
    size: Size | None
    boxes: Float32[np.ndarray, "N 4"]
    classes: Sequence[str]
    masks: Sequence[Rle | None] | None = None
    are_predictions: Sequence[bool] = ()
    is_reviewed: bool = False
    chosen_by_doubt: bool = False
    date: str | None = None
    author: str | None = None
    where: str = ""
    are_fractions: bool = False
    mark: Mark = ""
    unread: int = 0

    def __post_init__(self) -> None:
        check_boxes(self.boxes, self.name)
        for name, values in (
            ("classes", self.classes), ("masks", self.masks),
            ("are_predictions", self.are_predictions or None),
        ):  # fmt: skip
            if values is not None and len(values) != len(self.boxes):
                raise ValueError(f"{self.name!r}: {len(self.boxes)} boxes but {len(values)} {name}")


@dataclass(frozen=True)
class CorrectionFile:
    """A file, or a folder of files, that an annotation tool wrote.

    Attributes:
        format: the name of the format, as `label_studio`.
        images: its images, each once.
        notes: what was repaired or left out, a line each.
        extra: what else the file says, for a person.
    """

    format: str
    images: Sequence[CorrectedImage]
    notes: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HumanBoxes:
    """All boxes of an image as a person left them: they replace those that a program finds.

    Attributes:
        id: the name of the image in its data set.
        content: hash of the image's file, so that boxes are not used for another image.
        size: height and width of the upright image.
        boxes: xyxy in pixels of it; may be empty, where the person saw no object.
        classes: the name of the class of each box.
        masks: of the boxes; None: there is none, or none for a box.
        is_random: whether the image was drawn at random: only then may its boxes measure.
        date: when the person reviewed it, in ISO 8601; empty where it is not known.
        author: who reviewed it; empty where it is not known.
        source: the format and name of the file that the boxes came from.
        ingested: when they were read from it, in ISO 8601.
        file_size: of the image's file in bytes; 0 where it is not known.
        folders: the class folder of each box, which keeps its name where the class is renamed; an
            empty name where it is not known. Empty: it is known of no box.
    """

    id: str
    content: str
    size: Size
    boxes: Float32[np.ndarray, "N 4"]
    classes: Sequence[str]
    masks: Sequence[Rle | None] | None = None
    is_random: bool = False
    date: str = ""
    author: str = ""
    source: str = ""
    ingested: str = ""
    file_size: int = 0
    folders: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_size(self.size, self.id)
        check_boxes(self.boxes, self.id)
        if len(self.classes) != len(self.boxes):
            raise ValueError(f"{self.id!r}: {len(self.boxes)} boxes, {len(self.classes)} classes")
        if len(self.folders) not in (0, len(self.boxes)):
            raise ValueError(f"{self.id!r}: {len(self.boxes)} boxes, {len(self.folders)} folders")


@dataclass(frozen=True, kw_only=True)
class WrongMark:
    """A person's word that our boxes of an image are wrong; nobody has corrected them yet.

    Attributes:
        id: the name of the image in its data set.
        content: hash of the image's file.
        is_random: whether the image was drawn at random.
        date: when the person said so, in ISO 8601.
        source: the format and name of the file that says it.
        ingested: when it was read from it, in ISO 8601.
    """

    id: str
    content: str
    is_random: bool
    date: str
    source: str
    ingested: str


def pair_with_results(
    mapper: Callable[[Iterable[ImageBoxes]], Iterable[Result]], images: Iterable[ImageBoxes]
) -> Iterator[tuple[ImageBoxes, Result]]:
    """Yield each image, in order, with its result; those whose results are not there yet are kept.

    Args:
        mapper: takes images, perhaps ahead, and yields a result of each, in order.
        images: are read once.
    """
    waiting: deque[ImageBoxes] = deque()

    def keep() -> Iterator[ImageBoxes]:
        for image in images:
            waiting.append(image)
            yield image

    for result in mapper(keep()):
        yield waiting.popleft(), result
