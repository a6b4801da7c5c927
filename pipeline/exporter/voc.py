"""Pascal VOC: an XML file an image, lists of the images of each part, and the images.

    Annotations/NAME.xml             boxes of an image
    JPEGImages/NAME.jpg              the image: a hard link or a copy
    ImageSets/Main/train.txt ...     names of the images of train, val and test

VOC counts pixels from 1 and the last pixel belongs to the box: `xmin = x0 + 1`, `xmax = x1`. They
are written with fractions, as boxes have them. NAME is the path of the image with `_` for all but
letters and digits. The fields `confidence`, `score`, `probability` and `source` of an object are
not of VOC; readers ignore them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pipeline.formats.files import atomic_write, unique_file_names
from pipeline.formats.image_files import JPEG_ENDINGS, is_turned, place_image, write_image
from pipeline.formats.text_files import replace_text
from pipeline.formats.xml_text import is_plain, to_number, to_text
from pipeline.ops.text import count_note
from pipeline.types import (
    FoundBox,
    FoundBoxes,
    ImageBoxes,
    ImageSource,
    ImageWork,
    Note,
    Part,
    Review,
)


@dataclass(frozen=True)
class Voc:
    """An exporter that writes images one by one: memory does not grow with their boxes.

    Args:
        images: `link`, `copy`, or `none` for no JPEGImages.
        upright: whether to write images that EXIF turns as upright copies.
    """

    images: str = "link"
    upright: bool = False

    def __call__(self, detections: FoundBoxes, folder: Path) -> list[Note]:
        """Write the three folders into a folder."""
        names = unique_file_names([posixpath.splitext(id)[0] for id in detections.ids])
        files = _ImageFiles(
            mode=self.images,
            upright=self.upright,
            source=detections.source,
            folder=folder,
            names=names,
            classes=detections.classes,
            review=detections.review,
            model_version=detections.model_version,
        )
        counter = _Counter(self.upright)
        (folder / "Annotations").mkdir(exist_ok=True)
        without_mask: list[str] = []
        with ExitStack() as stack:
            lists = {
                part: stack.enter_context(
                    stack.enter_context(
                        atomic_write(folder / f"ImageSets/Main/{part}.txt")
                    ).open("w", encoding="utf-8")
                )
                for part in get_args(Part)
            }  # fmt: skip
            work = ImageWork(files.write, writes_files=True)
            for image, (part, how) in detections.map_images(work):
                lists[part].write(f"{names[image.position]}\n")
                counter.add(image, how)
                without_mask += [image.id for item in image.boxes if item.mask is not None]
        notes = counter.notes()
        if without_mask:
            why = "are not written: an object of VOC has a box alone"
            notes.append(count_note(without_mask, "mask", why))
        if odd := [name for name in detections.classes if not is_plain(name)]:
            notes.append(count_note(odd, "class", "have characters that XML cannot hold: escaped"))
        return notes


def _describe_image(
    image: ImageBoxes,
    file_name: str,
    classes: Sequence[str],
    review: Review | None,
    model_version: str,
) -> Iterator[str]:
    """Yield the lines of the XML file of an image."""
    height, width = image.size
    database = "a person" if image.is_human else to_text(model_version)
    yield (
        "<annotation>\n<folder>JPEGImages</folder>\n"
        f"<filename>{to_text(file_name)}</filename>\n<path>{to_text(image.id)}</path>\n"
        f"<source><database>label2box</database><annotation>{database}</annotation></source>\n"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        "<segmented>0</segmented>\n"
    )
    if review is not None:
        yield f"<review_rank>{int(review.ranks[image.position])}</review_rank>\n"
    for item in image.boxes:
        yield from _describe_object(item, classes[item.label])
    yield "</annotation>\n"


def _describe_object(item: FoundBox, label: str) -> Iterator[str]:
    x0, y0, x1, y1 = item.box
    corners = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}
    box = "".join(f"<{name}>{to_number(value)}</{name}>" for name, value in corners.items())
    yield (
        f"<object>\n<name>{to_text(label)}</name>\n<pose>Unspecified</pose>\n"
        "<truncated>0</truncated>\n<difficult>0</difficult>\n"
    )
    if item.is_human:
        yield "<source>human</source>\n"
    else:
        numbers = (
            ("confidence", item.confidence),
            ("score", item.score),
            ("probability", item.probability),
        )
        yield "<source>prediction</source>\n"
        yield "".join(
            f"<{name}>{round(value, 5):g}</{name}>\n"
            for name, value in numbers
            if value is not None
        )
    yield f"<bndbox>{box}</bndbox>\n</object>\n"


How = Literal["turned", "other_format", "unplaced"]
"""What readers may show otherwise; an image may be both turned and of another format."""


@dataclass(frozen=True, kw_only=True)
class _ImageFiles:
    """Writes the XML files of images, and places the images in JPEGImages.

    Attributes:
        mode: `link`, `copy` or `none`.
        upright: whether turned images are written upright.
        source: where the images are.
        folder: of the data set.
        names: of the files, by position.
        classes: names of the classes.
        review: the order in which to look at the images.
        model_version: what found the boxes.
    """

    mode: str
    upright: bool
    source: ImageSource | None
    folder: Path
    names: Sequence[str]
    classes: Sequence[str]
    review: Review | None
    model_version: str

    def write(self, image: ImageBoxes, _: Sequence[None]) -> tuple[Part, set[How]]:
        """Write the files of an image; return its part, and how readers may show it."""
        name = self.names[image.position]
        lines = _describe_image(image, f"{name}.jpg", self.classes, self.review, self.model_version)
        replace_text(self.folder / f"Annotations/{name}.xml", "".join(lines))
        how = self._place(image, self.folder / f"JPEGImages/{name}.jpg")
        # What a detector should use an image for; without a source, training.
        return "train" if self.source is None else self.source.part(image.position), how

    def _place(self, image: ImageBoxes, target: Path) -> set[How]:
        """Place the file of an image, or write its pixels where it has none."""
        if self.mode == "none":
            return set()
        if self.source is None:
            return {"unplaced"}
        how: set[How] = set()
        path = self.source.path(image.position)
        if path is not None and is_turned(path, image.size):
            how.add("turned")
            path = None if self.upright else path
        if path is None:
            write_image(self.source.read(image.position), target)
            return how
        if path.suffix.lower() not in JPEG_ENDINGS:
            how.add("other_format")
        place_image(path, target, "copy" if self.mode == "copy" else "link")
        return how


@dataclass
class _Counter:
    """Counts images that readers may show otherwise.

    Attributes:
        upright: whether turned images are written upright.
        turned: ids of images that EXIF turns.
        other_format: ids of images that are no JPEGs.
        unplaced: ids of images that are not known to be anywhere.
    """

    upright: bool
    turned: list[str] = field(default_factory=list)
    other_format: list[str] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)

    def add(self, image: ImageBoxes, how: set[How]) -> None:
        """Count an image."""
        if "turned" in how:
            self.turned.append(image.id)
        if "other_format" in how:
            self.other_format.append(image.id)
        if "unplaced" in how:
            self.unplaced.append(image.id)

    def notes(self) -> list[Note]:
        """Return which images readers may show otherwise."""
        notes = []
        if self.turned and not self.upright:
            why = (
                "are turned by EXIF, which torchvision ignores; the boxes are of the upright image"
            )
            remedy = "export.upright=true writes upright copies"
            notes.append(count_note(self.turned, "image", why, remedy=remedy))
        elif self.turned:
            notes.append(count_note(self.turned, "image", "are written as upright JPEG copies"))
        if self.other_format:
            why = "are no JPEGs and named .jpg, the only name that VOC readers look for"
            notes.append(count_note(self.other_format, "image", why))
        if self.unplaced:
            why = "are no files that are known: not in JPEGImages"
            notes.append(count_note(self.unplaced, "image", why))
        return notes
