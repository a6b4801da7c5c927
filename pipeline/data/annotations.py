"""COCO annotations matched with the images and classes of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.listing import File, Listing
from pipeline.errors import SkippedImage, UserError, suggest_choices
from pipeline.formats import coco, photo
from pipeline.ops.text import list_some, printable, spell_out, to_nfc
from pipeline.types import CocoIds, Crowds, GroundTruth, Size

if TYPE_CHECKING:
    from jaxtyping import Int


class MatchedAnnotations:
    """A COCO file matched with the images and classes of the data set.

    A file name matches the image with this id, or the image whose id ends so, if it is the only
    one of `scored`. A category matches by class name or folder name.

    Args:
        file: The annotations.
        scored: Ids of the images that the end of a path may match.
        images: All images of the data set.
        by_name: Positions of classes by their names and by their folders' names.

    Raises:
        UserError: No image or no category matches, or two file names match the same image.
    """

    def __init__(
        self,
        file: coco.CocoFile,
        scored: Sequence[str],
        images: Listing,
        by_name: Mapping[str, int],
    ) -> None:
        self.file, self.listing = file, images
        self.classes = {
            number: by_name.get(to_nfc(name), -1) for number, name in file.categories.items()
        }
        # A single category that is no class: its boxes are of objects of any class.
        self.is_agnostic = len(self.classes) == 1 and set(self.classes.values()) == {-1}
        self.images, self.match_notes = self._match_images(scored)
        self._check_categories(by_name)

    def _match_images(self, scored: Sequence[str]) -> tuple[dict[str, coco.CocoImage], list[str]]:
        """Return the file's images by our ids, and notes on those that match none or several."""
        exact, path = set(self.listing.ids), self.file.path
        ends = _group_by_end(scored)
        matched: dict[str, coco.CocoImage] = {}
        missing: list[str] = []
        unclear: list[str] = []
        for image in self.file.images:
            name = image.file_name.removeprefix("./")
            # Two files may have the same name in NFC. A file that this project wrote has printable
            # ids, others the names as they are.
            names = (spell_out(name), to_nfc(name), printable(name))
            known = next((name for name in names if name in exact or name in ends), "")
            ids = [known] if known in exact else ends.get(known, [])
            if len(ids) != 1:
                (unclear if ids else missing).append(image.file_name)
            elif ids[0] in matched:
                raise UserError(
                    f"{path}, images[{image.record}]: {image.file_name!r} is there twice, or names "
                    f"the same image as {matched[ids[0]].file_name!r}; drop one"
                )
            else:
                matched[ids[0]] = image
        if self.file.images and not matched:
            raise UserError(
                f"{path}: none of its {len(self.file.images)} images is in the data set; it names "
                f"{self.file.images[0].file_name!r}, the data set has {self.listing.ids[0]!r}; "
                "file_name is to be the path below data.root, or the end of it where that is unique"
            )
        return matched, self._image_notes(missing, unclear)

    def _image_notes(self, missing: Sequence[str], unclear: Sequence[str]) -> list[str]:
        """Return notes on file names that match no image or several, and on a lack of boxes."""
        name = self.file.path.name
        notes = []
        if not any(image.boxes for image in self.file.images):
            notes.append(f"{name}: holds no box, so nothing can be localized against it")
        if missing:
            notes.append(f"{name}: {list_some(missing, 'image')} not in the data set")
        if unclear:
            notes.append(
                f"{name}: {list_some(unclear, 'image')} with a name that several images "
                "of the data set end in, left out"
            )
        return notes

    def _check_categories(self, by_name: Mapping[str, int]) -> None:
        """Add notes on categories that are no class. Raise UserError where no box is of a class."""
        if self.is_agnostic:
            (name,) = self.file.categories.values()
            self.match_notes.append(
                f"{self.file.path.name}: its one category {name!r} is no class of the data set: "
                "its boxes are taken as those of each image's own class"
            )
            return
        used = Counter(number for image in self.images.values() for number in image.categories)
        usable = sum(times for number, times in used.items() if self.classes[number] >= 0)
        names = [self.file.categories[number] for number in used if self.classes[number] < 0]
        if used and not usable:
            raise UserError(
                f"{self.file.path}: none of its categories is a class of the data set; it has "
                f"{names[0]!r}; name them alike, by class or by folder; "
                f"{suggest_choices(names[0], by_name)}"
            )
        if names:
            self.match_notes.append(
                f"{self.file.path.name}: {used.total() - usable} boxes are of categories that are "
                f"no class of the data set ({names[0]!r} for one)"
            )

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
    def _truth(self) -> tuple[dict[str, GroundTruth], list[str]]:
        """Ground truth by image id, and a note on clipped boxes."""
        truth, clipped = {}, 0
        for file, label in zip(self.listing.files, self.listing.labels, strict=True):
            image = self.images.get(file.id)
            size = None if image is None else self._read_size(image, file)
            if image is None or size is None:
                continue
            boxes, clipped_here = self._clip_boxes(image, size)
            clipped += clipped_here
            masks = [mask for mask in image.masks if mask is not None]
            truth[file.id] = GroundTruth(
                file.id,
                label,
                size,
                np.asarray(boxes, np.float32).reshape(-1, 4),
                self._to_classes(image.categories),
                masks if len(masks) == len(boxes) else None,
                self._to_crowds(image.crowds),
            )
        return truth, [coco.describe_clipped_boxes(self.file.path, clipped)] if clipped else []

    def _clip_boxes(self, image: coco.CocoImage, size: Size) -> tuple[list[coco.Box], int]:
        """Return the boxes inside the image, and how many are clipped here.

        Where the file has a size of the image, they were clipped when the file was read.
        """
        if image.size is not None:
            return image.boxes, 0
        results = [
            coco.clip(box, size, f"{self.file.path}, annotations[{record}]")
            for box, record in zip(image.boxes, image.records, strict=True)
        ]
        return [box for box, _ in results], sum(was_clipped for _, was_clipped in results)

    def _to_classes(self, categories: Sequence[int]) -> Int[np.ndarray, n] | None:
        """Return the class of each category, -1 for no class; None: all are of the image's."""
        if self.is_agnostic:
            return None
        return np.asarray([self.classes[number] for number in categories], np.int64)

    def _to_crowds(self, crowds: Sequence[coco.Crowd]) -> Crowds | None:
        if not crowds:
            return None
        return Crowds(
            np.array([crowd.box for crowd in crowds], np.float32),
            self._to_classes([crowd.category for crowd in crowds]),
            [crowd.mask for crowd in crowds],
        )

    def _read_size(self, image: coco.CocoImage, file: File) -> Size | None:
        """Return the upright size of the image file; the annotations' where it cannot be read.

        Raise UserError where they differ.
        """
        try:
            size = photo.read_size(file.path, name=file.id)
        except SkippedImage:
            return image.size
        if image.size not in (None, size):
            raise UserError(
                f"{self.file.path}, images[{image.record}]: says {_describe_size(image.size)} for "
                f"{image.file_name!r}, which is {_describe_size(size)} when upright; boxes are to "
                "be in pixels of the upright image: annotate it as it is now, or drop the record"
            )
        return size


def _group_by_end(ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids that end in each path, such as `a/b.jpg` and `b.jpg` for `val/a/b.jpg`."""
    ends: dict[str, list[str]] = {}
    for id in ids:
        parts = id.split("/")
        for n in range(1, len(parts)):
            ends.setdefault("/".join(parts[n:]), []).append(id)
    return ends


def _describe_size(size: Size | None) -> str:
    return "no size" if size is None else f"{size[1]} x {size[0]} (width x height)"
