"""COCO annotations matched with the images and classes of a data set."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.coco_images import match_images
from pipeline.data.listing import File, Listing
from pipeline.errors import SkippedImage, UserError, suggest_choices
from pipeline.formats import photo
from pipeline.formats.coco_boxes import Box, clip, describe_clipped_boxes
from pipeline.formats.coco_records import CocoFile, CocoImage, Crowd, count_categories
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.text import count_note, to_nfc
from pipeline.types import CocoIds, Crowds, GroundTruth, Note, Rle, Size

if TYPE_CHECKING:
    from jaxtyping import Int

SIZE_REMEDY = (
    "boxes are to be in pixels of the upright image: where a camera's rotation (EXIF) or another "
    "resolution is the reason, annotate the image as it is now and export again"
)

NO_BOX = (
    "{}, so nothing can be localized against it; annotate objects of the scored images with boxes"
)
DRAWN_OPTION = "calibrate.boxes"  # names a file of boxes that somebody drew

PREDICTIONS = (
    "with a score, as boxes have that a program found, of images that are not marked as reviewed: "
    "left out, as they are no truth to choose a threshold on"
)
REVIEW_REMEDY = 'look at them, and set "reviewed": true on their images'

SHOWN = 5  # categories that a note names


class MatchedAnnotations:
    """A COCO file matched with the images and classes of the data set.

    A file name matches the image with this id, or the image that has the longest end of it, if it
    is the only one of `scored`. A category matches by class name or folder name. A single used
    category that is no class stands for objects of each image's own class.

    Args:
        file: The annotations.
        scored: Ids of the images that the end of a path may match.
        images: All images of the data set.
        by_name: Positions of classes by their names and by their folders' names.
        measured: Ids of the images that the boxes are for; None: those of `scored`.
        takes_predictions: Whether boxes with a score are truth in images that nobody reviewed; not
            where somebody drew boxes on a few images (`DRAWN_OPTION`).
        has_options: Whether the data set has options for the file and for crowds, data.boxes and
            data.crowds: remedies name them.

    Raises:
        UserError: No image or no category matches.
    """

    def __init__(
        self,
        file: CocoFile,
        scored: Sequence[str],
        images: Listing,
        by_name: Mapping[str, int],
        measured: Sequence[str] | None = None,
        takes_predictions: bool = True,
        has_options: bool = True,
    ) -> None:
        self.file, self.listing = file, images
        self._has_options = has_options
        self._boxes_option = "data.boxes" if takes_predictions else DRAWN_OPTION
        self.classes = {
            number: by_name.get(to_nfc(name), -1) for number, name in file.categories.items()
        }
        matched = match_images(file.path, file.images, scored, images.ids)
        self.images = dict(matched.images)
        self.match_notes: list[str] = [*self._box_notes(), *matched.notes]
        self.match_notes += self._split_notes(scored if measured is None else measured)
        if not takes_predictions:
            self.match_notes += self._leave_out_predictions()
        used = count_categories(list(self.images.values()))
        # A single category that is no class: its boxes are of objects of any class.
        self.is_agnostic = len(used) == 1 and self.classes[next(iter(used))] == -1
        self.match_notes += self._category_notes(used, by_name)

    def _box_notes(self) -> list[str]:
        """Return a note where there is no box in the file, or none of an image that is here."""
        name, images = self.file.path.name, list(self.images.values())
        if not any(image.boxes for image in self.file.images):
            if any(image.crowds for image in self.file.images):
                return []  # the notes of the file say that all are crowds
            return [self._say_no_box("holds no box")]
        if not any(image.boxes for image in images):
            crowds = [image.name for image in images if image.crowds]
            if crowds:
                return [
                    count_note(
                        crowds, "image", "of the data set have crowds (iscrowd) alone, so nothing "
                        "can be localized against it", where=name,
                        remedy="data.crowds=objects counts them as objects" * self._has_options,
                    )
                ]  # fmt: skip
            return [self._say_no_box("no image of the data set has a box there")]
        return []

    def _say_no_box(self, what: str) -> str:
        """Return a note on a file without a box that can be used; it names options that exist."""
        other = f", or give the file that has them ({self._boxes_option}=FILE)" * self._has_options
        return f"{self.file.path.name}: {NO_BOX.format(what)}{other}"

    def _leave_out_predictions(self) -> list[Note]:
        """Leave out boxes with a score of images that nobody reviewed; return a note on them."""
        left_out: list[str] = []
        for id, image in self.images.items():
            if any(image.scored) and not image.is_reviewed:
                scored = zip(image.records, image.scored, strict=True)
                left_out += [f"annotations[{n}]" for n, has_score in scored if has_score]
                self.images[id] = image.without_scored_boxes()
        if not left_out:
            return []
        where = self.file.path.name
        return [count_note(left_out, "annotation", PREDICTIONS, where=where, remedy=REVIEW_REMEDY)]

    def _category_notes(self, used: Counter[int], by_name: Mapping[str, int]) -> list[str]:
        """Return notes on categories that are no class. Raise UserError where no box is of one."""
        name, names = self.file.path.name, self.file.categories
        if self.is_agnostic:
            (number,) = used
            note = (
                f"{name}: its one used category {names[number]!r} is no class of the data set: "
                "its boxes are taken as those of each image's own class"
            )
            unused = [names[n] for n in names if n not in used]
            return [note + (f"; {_list_unused(unused)}" if unused else "")]
        usable = sum(times for number, times in used.items() if self.classes[number] >= 0)
        strange = {
            names[number]: times for number, times in used.items() if self.classes[number] < 0
        }
        if used and not usable:
            first = next(iter(strange))
            raise UserError(
                f"{self.file.path}: none of its {len(strange)} used categories is a class of the "
                f"data set; it has {first!r}; name them alike, by class or by folder; "
                f"{suggest_choices(first, by_name)}"
            )
        return [_describe_strangers(name, strange, used.total(), by_name)] if strange else []

    def _split_notes(self, measured: Sequence[str]) -> list[Note]:
        """Return a note on images of the file that are of another split than the measured one."""
        ids = set(measured)
        others = [id for id in self.images if id not in ids]
        if not others:
            return []
        folders = {id.split("/")[0] if "/" in id else "" for id in others}
        (split,) = folders if len(folders) == 1 and "" not in folders else ("another split",)
        total = len(self.images)
        count = f"{len(others)} of {total} image{'s' * (total != 1)}"
        text = f"{self.file.path.name}: {count} {'is' if len(others) == 1 else 'are'} of {split}"
        if len(others) < total:
            return [Note(f"{text}: not scored, {total - len(others)} of {total} are", others)]
        remedy = f"; give the file with the boxes of the scored images ({self._boxes_option}=FILE)"
        return [Note(f"{text}, none is scored{remedy * self._has_options}", others)]

    def coco_names(self, ids: Sequence[str], class_count: int) -> CocoIds:
        """Return the file's numbers and names, and free numbers for what it does not have."""
        free = max((image.id for image in self.file.images), default=0)
        numbers, names = [], []
        for id in ids:
            known = self.images.get(id)
            free += known is None
            numbers.append(free if known is None else known.id)
            names.append(id if known is None else known.file_name)
        given = {n: number for number, n in self.classes.items() if n >= 0}
        free = max(self.file.categories, default=0)
        categories = []
        for n in range(class_count):
            free += n not in given
            categories.append(given.get(n, free))
        return CocoIds(numbers, names, categories)

    @property
    def truth(self) -> dict[str, GroundTruth]:
        """Ground truth by image id."""
        return self._truth[0]

    @property
    def notes(self) -> list[str]:
        """What was unusual about the annotations, a line each."""
        return [*self.file.notes, *self.match_notes, *self._truth[1]]

    @cached_property
    def _truth(self) -> tuple[dict[str, GroundTruth], list[Note]]:
        """Ground truth by image id, and notes on boxes and sizes that do not fit the images."""
        truth: dict[str, GroundTruth] = {}
        odd = OddRecords(self.file.path.name, "annotation")
        clipped, contradictions = list[str](), list[str]()
        for file, label in zip(self.listing.files, self.listing.labels, strict=True):
            image = self.images.get(file.id)
            if image is None:
                continue
            size = _read_size(file)
            if size is not None and image.size not in (None, size):
                contradictions.append(_describe_contradiction(image.file_name, image.size, size))
            elif (size := size or image.size) is not None:
                truth[file.id] = self._to_truth(image, file.id, label, size, odd, clipped)
        if contradictions and not truth:
            raise UserError(
                f"{self.file.path}: no image has the size that the file says: {contradictions[0]} "
                f"for one, of {len(contradictions)}; {SIZE_REMEDY}"
            )
        notes = odd.notes()
        if contradictions:
            why = "of another size than the file says: left out, so no number has them as annotated"
            where = self.file.path.name
            notes.append(count_note(contradictions, "image", why, where=where, remedy=SIZE_REMEDY))
        emptied = [
            id for id, known in truth.items()
            if self.images[id].boxes and not len(known.boxes)
        ]  # fmt: skip
        if emptied:
            why = "whose boxes are all left out: no number has them as annotated"
            notes.append(count_note(emptied, "image", why, where=self.file.path.name))
        if clipped:
            count = sum(len(known.boxes) for known in truth.values())
            notes.append(describe_clipped_boxes(self.file.path, clipped, count))
        return truth, notes

    def _to_truth(
        self,
        image: CocoImage,
        id: str,
        label: int,
        size: Size,
        odd: OddRecords,
        clipped: list[str],
    ) -> GroundTruth:
        """Return the ground truth of an image. Count boxes outside it, and those that stick out.

        Where the file has a size of the image, they were clipped when the file was read.
        """
        boxes: list[Box] = []
        categories: list[int] = []
        masks: list[Rle] = []
        rows = zip(image.boxes, image.categories, image.masks, image.records, strict=True)
        for box, category, mask, record in rows:
            try:
                inside, was_clipped = (box, False) if image.size is not None else clip(box, size)
            except BadRecord as error:
                odd.leave_out(f"annotations[{record}]", str(error))
                continue
            boxes.append(inside)
            categories.append(category)
            masks += [mask] if mask is not None else []
            clipped += [f"annotations[{record}]"] if was_clipped else []
        return GroundTruth(
            id,
            label,
            size,
            np.asarray(boxes, np.float32).reshape(-1, 4),
            self._to_classes(categories),
            masks if len(masks) == len(boxes) else None,
            self._to_crowds(image.crowds),
            image.is_reviewed,
            image.chosen_by_doubt,
        )

    def _to_classes(self, categories: Sequence[int]) -> Int[np.ndarray, n] | None:
        """Return the class of each category, -1 for no class; None: all are of the image's."""
        if self.is_agnostic:
            return None
        return np.asarray([self.classes[number] for number in categories], np.int64)

    def _to_crowds(self, crowds: Sequence[Crowd]) -> Crowds | None:
        if not crowds:
            return None
        return Crowds(
            np.array([crowd.box for crowd in crowds], np.float32),
            self._to_classes([crowd.category for crowd in crowds]),
            [crowd.mask for crowd in crowds],
        )


class ReadsDrawn(ABC):
    """The part of a data set that reads boxes which somebody drew on its images."""

    @abstractmethod
    def _read_drawn(self, file: Path) -> MatchedAnnotations:
        """Read a file of boxes that somebody drew, and match it with all images."""

    def drawn(self, file: Path) -> Mapping[str, GroundTruth]:
        """Return boxes that somebody drew on any of the images, by image id, for `calibrate`.

        Args:
            file: COCO JSON.

        Raises:
            UserError: The file cannot be read, or does not fit the images or classes.
        """
        return self._match_drawn(file).truth

    def drawn_notes(self, file: Path) -> list[str]:
        """Return what was odd about boxes that somebody drew, a line each.

        Args:
            file: COCO JSON.

        Raises:
            UserError: The file cannot be read, or does not fit the images or classes.
        """
        return self._match_drawn(file).notes

    @cached_property
    def _drawn_boxes(self) -> dict[Path, MatchedAnnotations]:
        """Files of boxes that somebody drew, as far as they were read."""
        return {}

    def _match_drawn(self, file: Path) -> MatchedAnnotations:
        """Return the matched boxes of a file, which is read once."""
        if file not in self._drawn_boxes:
            self._drawn_boxes[file] = self._read_drawn(file)
        return self._drawn_boxes[file]


def _describe_strangers(
    where: str, strange: Mapping[str, int], total: int, classes: Mapping[str, int]
) -> Note:
    """Return a note on categories that are no class, with the class that each may mean."""
    named = []
    for name, times in list(strange.items())[:SHOWN]:
        near = _find_near(name, classes)
        named.append(f"{name!r} ({times}{f', class {near!r}?' if near else ''})")
    count = sum(strange.values())
    text = (
        f"{where}: {count} of {total} boxes {'is' if count == 1 else 'are'} of "
        f"{'a category' if len(strange) == 1 else f'{len(strange)} categories'} that "
        f"{'is' if len(strange) == 1 else 'are'} no class of the data set: {', '.join(named)}"
        f"{', ...' if len(strange) > SHOWN else ''}: found for no class; name categories as the "
        "classes or their folders are"
    )
    return Note(text, list(strange), count)


def _find_near(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is the same but for case and spaces, else one that is similar."""
    folded = {choice.casefold().strip(): choice for choice in choices}
    near = difflib.get_close_matches(name.casefold().strip(), folded, n=1, cutoff=0.75)
    return folded[near[0]] if near else None


def _list_unused(names: Sequence[str]) -> str:
    """Say that categories that no annotation uses do not count."""
    what = f"{len(names)} categories ({', '.join(map(repr, names[:3]))}"
    if len(names) == 1:
        what = f"1 category ({names[0]!r}"
    return f"{what}{', ...' if len(names) > 3 else ''}) that no annotation uses do not count"


def _read_size(file: File) -> Size | None:
    """Return the upright size of an image file; None where it cannot be read."""
    try:
        return photo.read_size(file.path, name=file.id)
    except SkippedImage:
        return None


def _describe_contradiction(name: str, given: Size, size: Size) -> str:
    """Return the size of an image in the file, and that of the image itself."""
    (given_height, given_width), (height, width) = given, size
    return (
        f"{name}: {given_width} x {given_height} in the file, {width} x {height} on disk when "
        "upright"
    )
