"""CVAT for images 1.1: annotations.xml, and labels.json to create a task or project with.

    annotations.xml    boxes, polygons and masks of all images
    labels.json        the labels with their attributes, for "Raw" in the label constructor
    images/            the images under the names of the XML, to upload; datumaro wants them there

Coordinates are pixels of the upright image. `source` is `auto` for boxes that a program found and
`manual` for those of a person. A box and its mask have the same `group_id`. Confidence, score,
probability and review rank are attributes of a box. The tag `reviewed` of an image says that a
person has looked at it: XML of CVAT does not hold the state of a job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.formats.files import atomic_write, write_json
from pipeline.formats.image_files import place_image, unique_paths, write_image
from pipeline.formats.outlines import Outline, OutlineCounter, trace_outline
from pipeline.formats.xml_text import is_plain, to_attribute, to_number, to_text
from pipeline.ops.text import count_note
from pipeline.types import (
    FoundBox,
    FoundBoxes,
    ImageBoxes,
    ImageSource,
    ImageWork,
    Note,
    Review,
    Rle,
)

ATTRIBUTES = ("confidence", "score", "probability", "review_rank")
REVIEWED = "reviewed"


@dataclass(frozen=True)
class Cvat:
    """An exporter that streams images: memory does not grow with their number.

    Args:
        images: `link` or `copy` to place images in images/; `none` for no such folder.
        outlines: of masks: `rle`, CVAT's masks; `polygon`, polygons.
    """

    images: str = "link"
    outlines: str = "rle"

    def __call__(self, detections: FoundBoxes, folder: Path) -> list[Note]:
        """Write annotations.xml and labels.json into a folder, each atomically."""
        encode = _describe_mask if self.outlines == "rle" else trace_outline
        counter = _Counter(detections)
        writer = _ImageWriter(
            self.images, folder / "images", detections.source, detections.classes, detections.review
        )
        places = self.images != "none" and detections.source is not None
        with (
            atomic_write(folder / "annotations.xml") as path,
            path.open("w", encoding="utf-8") as file,
        ):
            _write_start(file, detections)
            work = ImageWork(writer.write, lambda mask, _: encode(mask), writes_files=places)
            for image, (text, ious) in detections.map_images(work):
                file.write(text)
                counter.add(image, ious)
            file.write("</annotations>\n")
        write_json(folder / "labels.json", list_labels(detections.classes), indent=1, ascii=False)
        return counter.notes()


def _place(image: ImageBoxes, source: ImageSource | None, folder: Path, mode: str) -> str:
    """Place an image in a folder, and return its name."""
    path = None if source is None else source.path(image.position)
    name = image.id
    if source is not None and path is None and not PurePosixPath(name).suffix:
        name += ".png"  # CVAT goes by the ending
    if mode == "none" or source is None:
        return name
    target = folder / unique_paths([name])[0]
    if path is None:
        write_image(source.read(image.position), target)
    else:
        place_image(path, target, "copy" if mode == "copy" else "link")
    return name


def list_labels(classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the labels as CVAT's label constructor takes them, with the tag `reviewed`.

    Args:
        classes: names of the classes.
    """
    attributes = [
        {"name": name, "input_type": "text", "mutable": False, "values": [""], "default_value": ""}
        for name in ATTRIBUTES
    ]
    labels = [{"name": name, "type": "any", "attributes": attributes} for name in classes]
    if REVIEWED not in classes:
        labels.append({"name": REVIEWED, "type": "tag", "attributes": []})
    return labels


def _write_start(file: IO[str], detections: FoundBoxes) -> None:
    """Write the head of the file, with the labels and their attributes."""
    count = sum(1 for _ in detections.sizes())
    file.write(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta>\n'
        f"<task>\n<name>{to_text(detections.model_version)}</name>\n<size>{count}</size>\n"
        "<mode>annotation</mode>\n<overlap>0</overlap>\n<start_frame>0</start_frame>\n"
        f"<stop_frame>{max(count - 1, 0)}</stop_frame>\n<labels>\n"
    )
    for label in list_labels(detections.classes):
        file.write(f"<label><name>{to_text(label['name'])}</name><type>{label['type']}</type>")
        file.write("<attributes>")
        for attribute in label["attributes"]:
            file.write(
                f"<attribute><name>{attribute['name']}</name><mutable>False</mutable>"
                "<input_type>text</input_type><default_value></default_value><values></values>"
                "</attribute>"
            )
        file.write("</attributes></label>\n")
    file.write("</labels>\n</task>\n</meta>\n")


@dataclass(frozen=True)
class _ImageWriter:
    """Places images, and describes them as XML.

    Attributes:
        mode: `link`, `copy` or `none`.
        folder: that images are placed in.
        source: where they are.
        classes: names of the classes.
        review: the order in which to look at the images.
    """

    mode: str
    folder: Path
    source: ImageSource | None
    classes: Sequence[str]
    review: Review | None

    def write(
        self, image: ImageBoxes, masks: Sequence[str | Outline | None]
    ) -> tuple[str, list[float]]:
        """Place an image; return its lines, and the IoU of each outline with its mask."""
        name = _place(image, self.source, self.folder, self.mode)
        ious = [mask.iou for mask in masks if isinstance(mask, Outline)]
        return "".join(self._describe(image, masks, name)), ious

    def _describe(
        self, image: ImageBoxes, masks: Sequence[str | Outline | None], name: str
    ) -> Iterator[str]:
        """Yield the lines of an image."""
        height, width = image.size
        yield (
            f'<image id="{image.position}" name={to_attribute(name)} '
            f'width="{width}" height="{height}">\n'
        )
        if image.is_human:
            yield f'<tag label="{REVIEWED}" source="manual"></tag>\n'
        for number, (item, mask) in enumerate(zip(image.boxes, masks, strict=True), 1):
            yield from self._describe_box(item, number, image, mask)
        yield "</image>\n"

    def _describe_box(
        self, item: FoundBox, number: int, image: ImageBoxes, mask: str | Outline | None
    ) -> Iterator[str]:
        source = "manual" if item.is_human else "auto"
        group = "" if item.mask is None else f' group_id="{number}"'
        common = (
            f'label={to_attribute(self.classes[item.label])} source="{source}" '
            f'occluded="0"{group} z_order="0"'
        )
        x0, y0, x1, y1 = map(to_number, item.box)
        yield f'<box {common} xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}">\n'
        yield from self._describe_attributes(item, image)
        yield "</box>\n"
        if isinstance(mask, str):
            yield f"<mask {common} {mask}></mask>\n"
        elif mask is not None:
            for polygon in mask.polygons:
                points = ";".join(f"{x},{y}" for x, y in polygon.tolist())
                yield f'<polygon {common} points="{points}"></polygon>\n'

    def _describe_attributes(self, item: FoundBox, image: ImageBoxes) -> Iterator[str]:
        """Yield confidence, score, probability and review rank, where they are known."""
        review = self.review
        rank = None if review is None else int(review.ranks[image.position])
        values = (
            item.confidence,
            None if item.is_human else item.score,
            item.probability,
            rank,
        )
        for name, value in zip(ATTRIBUTES, values, strict=True):
            if value is not None:
                text = str(value) if isinstance(value, int) else f"{round(value, 5):g}"
                yield f'<attribute name="{name}">{text}</attribute>\n'


@dataclass
class _Counter:
    """Counts what is not written as it is.

    Attributes:
        detections: all boxes.
        outline_counter: counts polygons that are not exactly the mask.
        odd_names: ids of images with characters that XML cannot hold.
        without_rank: ids of images without boxes, whose review rank has no place.
    """

    detections: FoundBoxes
    outline_counter: OutlineCounter = field(default_factory=OutlineCounter)
    odd_names: list[str] = field(default_factory=list)
    without_rank: list[str] = field(default_factory=list)

    def add(self, image: ImageBoxes, ious: Sequence[float]) -> None:
        """Count an image."""
        self.outline_counter.add(image.id, ious)
        if not is_plain(image.id):
            self.odd_names.append(image.id)
        if not image.boxes and self.detections.review is not None:
            self.without_rank.append(image.id)

    def notes(self) -> list[Note]:
        """Return what was not written as it is."""
        notes = self.outline_counter.notes()
        odd_classes = [name for name in self.detections.classes if not is_plain(name)]
        why = "have characters that XML cannot hold: escaped"
        if odd_classes:
            notes.append(count_note(odd_classes, "class", why))
        if self.odd_names:
            notes.append(count_note(self.odd_names, "image", why))
        if self.without_rank:
            why = "have no box, to which CVAT could attach the review_rank: it is not written"
            notes.append(count_note(self.without_rank, "image", why))
        return notes


def _describe_mask(mask: Rle) -> str:
    """Return the attributes of a mask: run lengths, row by row, inside the box around it."""
    import numpy as np
    from pycocotools import mask as coco_mask

    x, y, width, height = (int(side) for side in coco_mask.toBbox(mask))
    flat = coco_mask.decode(mask)[y : y + height, x : x + width].ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0))  # the first run is outside, maybe empty
    runs = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return (
        f'rle="{", ".join(map(str, runs))}" left="{x}" top="{y}" width="{width}" height="{height}"'
    )
