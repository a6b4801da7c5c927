"""labelme: a JSON file an image beside the image, and the list of classes.

    NAME.json     shapes of an image, in labelme's version 5
    NAME.jpg      the image: a hard link or a copy
    labels.txt    for labelme --labels labels.txt

NAME is the relative path of the image. A box is a rectangle of two points in pixels of the upright
image, as labelme shows it; its mask is a shape of its own with the same `group_id`. `description`
has confidence, score and probability for the person, and fields of these names have them for
programs; labelme keeps fields that it does not know. The flag `reviewed` says whether a person has
looked at the image.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.formats.files import write_text
from pipeline.formats.image_files import place_image, unique_paths, write_image
from pipeline.formats.outlines import Outline, OutlineCounter, trace_outline
from pipeline.formats.text_files import Folders, replace_text
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

_Pixels = tuple[list[list[float]], str]
"""The corners of a mask, and its pixels."""

VERSION = "5.4.1"  # of the format: labelme 5 and 6 read it
DECIMALS = 4


@dataclass(frozen=True)
class Labelme:
    """An exporter that writes images one by one: memory does not grow with their boxes.

    Args:
        images: `link` or `copy` to place images beside their JSON files; `none` to name them by
            their absolute paths.
        outlines: of masks: `rle`, shapes of type mask; `polygon`, polygons.
    """

    images: str = "link"
    outlines: str = "rle"

    def __call__(self, detections: FoundBoxes, folder: Path) -> list[Note]:
        """Write a JSON file for each image into a folder, and labels.txt."""
        counter = OutlineCounter()
        unplaced: list[str] = []
        writer = _ImageWriter(
            mode=self.images,
            folder=folder,
            paths=unique_paths(detections.ids),
            source=detections.source,
            classes=detections.classes,
            review=detections.review,
            model_version=detections.model_version,
        )
        encode = _encode_mask if self.outlines == "rle" else trace_outline
        work = ImageWork(writer.write, lambda mask, _: encode(mask), writes_files=True)
        for image, (is_placed, ious) in detections.map_images(work):
            counter.add(image.id, ious)
            if not is_placed:
                unplaced.append(image.id)
        lines = [" ".join(name.splitlines()) for name in detections.classes]
        write_text(folder / "labels.txt", "".join(f"{line}\n" for line in lines))
        notes = counter.notes()
        if unplaced:
            why = "are no files that are known: place them beside their JSON files"
            notes.append(count_note(unplaced, "image", why))
        return notes


@dataclass(frozen=True, kw_only=True)
class _ImageWriter:
    """Describes images as JSON.

    Attributes:
        mode: `link`, `copy` or `none`.
        folder: of the data set.
        paths: of the images in it, by position.
        source: where the images are.
        classes: names of the classes.
        review: the order in which to look at the images.
        model_version: what found the boxes.
        folders: of the images.
    """

    mode: str
    folder: Path
    paths: Sequence[str]
    source: ImageSource | None
    classes: Sequence[str]
    review: Review | None
    model_version: str
    folders: Folders = field(default_factory=Folders)

    def write(
        self, image: ImageBoxes, masks: Sequence[_Pixels | Outline | None]
    ) -> tuple[bool, list[float]]:
        """Write the files of an image.

        Returns:
            Whether it is known where the image is, and the IoU of each outline with its mask.
        """
        target = self.folder / self.paths[image.position]
        self.folders.make(target.parent)
        content = self._describe(image, masks, self._place(image, target))
        # Indented, it would be written by Python's slower encoder.
        replace_text(target.with_suffix(".json"), json.dumps(content) + "\n")
        return self.source is not None, [m.iou for m in masks if isinstance(m, Outline)]

    def _place(self, image: ImageBoxes, target: Path) -> str:
        """Place an image beside its JSON file, and return `imagePath`."""
        source = self.source
        if source is None:
            return target.name
        path = source.path(image.position)
        if path is None:
            written = target if target.suffix.lower() == ".png" else target.with_suffix(".png")
            write_image(source.read(image.position), written)
            return written.name
        if self.mode == "none":
            return str(path)
        place_image(path, target, "copy" if self.mode == "copy" else "link")
        return target.name

    def _describe(
        self, image: ImageBoxes, masks: Sequence[_Pixels | Outline | None], image_path: str
    ) -> dict[str, Any]:
        """Return the content of the JSON file of an image."""
        height, width = image.size
        shapes = [
            shape
            for number, (item, mask) in enumerate(zip(image.boxes, masks, strict=True), 1)
            for shape in self._describe_box(item, number, mask)
        ]
        extra: dict[str, Any] = {
            "image_id": image.id,
            "model_version": self.model_version,
        }
        if (review := self.review) is not None:
            extra["review_rank"] = int(review.ranks[image.position])
            extra["review_sample"] = bool(review.sampled[image.position])
        return {
            "version": VERSION,
            "flags": {"reviewed": image.is_human},
            "shapes": shapes,
            "imagePath": image_path,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
            **extra,
        }

    def _describe_box(
        self, item: FoundBox, number: int, mask: _Pixels | Outline | None
    ) -> Iterator[dict[str, Any]]:
        """Yield the shape of a box, and those of its mask in the same group."""
        label = self.classes[item.label]
        group = None if item.mask is None else number
        x0, y0, x1, y1 = (round(side, DECIMALS) for side in item.box)
        numbers = _describe_numbers(item)
        shape = _describe_shape(label, "rectangle", [[x0, y0], [x1, y1]], group)
        description = ", ".join(f"{name} {value}" for name, value in numbers.items())
        yield {**shape, "description": description, **numbers}
        if isinstance(mask, Outline):
            for polygon in mask.polygons:
                yield _describe_shape(label, "polygon", polygon.tolist(), number)
        elif mask is not None and mask[1]:
            points, content = mask
            yield {**_describe_shape(label, "mask", points, number), "mask": content}


def _describe_numbers(item: FoundBox) -> dict[str, Any]:
    """Return confidence, score and probability, where they are known; or that a person drew it."""
    if item.is_human:
        return {"source": "human"}
    values = {
        "confidence": item.confidence, "score": item.score, "probability": item.probability,
    }  # fmt: skip
    return {name: round(value, 5) for name, value in values.items() if value is not None}


def _describe_shape(
    label: str, kind: str, points: list[list[float]], group: int | None
) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }


def _encode_mask(mask: Rle) -> _Pixels:
    """Return the first and the last pixel of the box around a mask, and its pixels as a PNG.

    Returns:
        Corners that both belong to the mask's box, as labelme has them, and base64; empty for an
        empty mask.
    """
    from pycocotools import mask as coco_mask

    x, y, width, height = (int(side) for side in coco_mask.toBbox(mask))
    if not width or not height:
        return [], ""
    pixels = coco_mask.decode(mask)[y : y + height, x : x + width]
    content = io.BytesIO()
    Image.fromarray(pixels * 255).convert("1").save(content, "PNG")
    corners = [[float(x), float(y)], [float(x + width - 1), float(y + height - 1)]]
    return corners, base64.b64encode(content.getvalue()).decode("ascii")
