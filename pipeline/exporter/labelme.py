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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.formats.files import write_text
from pipeline.formats.image_files import place_image, unique_paths, write_image
from pipeline.formats.outlines import OutlineCounter, trace_outline
from pipeline.formats.text_files import replace_text
from pipeline.ops.text import count_note
from pipeline.types import FoundBox, FoundBoxes, ImageBoxes, Note, Rle

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
        paths = [Path(path) for path in unique_paths(detections.ids)]
        writer = _ImageWriter(self.images, self.outlines, detections)
        folders: set[Path] = set()
        for image in detections.images():
            target = folder / paths[image.position]
            if target.parent not in folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                folders.add(target.parent)
            content = writer.describe(image, writer.place(image, target))
            # Indented, it would be written by Python's slower encoder.
            replace_text(target.with_suffix(".json"), json.dumps(content) + "\n")
        lines = [" ".join(name.splitlines()) for name in detections.classes]
        write_text(folder / "labels.txt", "".join(f"{line}\n" for line in lines))
        return writer.notes()


@dataclass
class _ImageWriter:
    """Describes images as JSON, and counts what is not written as it is.

    Attributes:
        mode: `link`, `copy` or `none`.
        outlines: `rle` or `polygon`.
        detections: all boxes.
        outline_counter: counts polygons that are not exactly the mask.
        unplaced: ids of images that are not known to be anywhere.
    """

    mode: str
    outlines: str
    detections: FoundBoxes
    outline_counter: OutlineCounter = field(default_factory=OutlineCounter)
    unplaced: list[str] = field(default_factory=list)

    def place(self, image: ImageBoxes, target: Path) -> str:
        """Place an image beside its JSON file, and return `imagePath`."""
        source = self.detections.source
        if source is None:
            self.unplaced.append(image.id)
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

    def describe(self, image: ImageBoxes, image_path: str) -> dict[str, Any]:
        """Return the content of the JSON file of an image."""
        height, width = image.size
        shapes = [
            shape
            for number, item in enumerate(image.boxes, 1)
            for shape in self._describe_box(item, number, image)
        ]
        extra: dict[str, Any] = {
            "image_id": image.id,
            "model_version": self.detections.model_version,
        }
        if (review := self.detections.review) is not None:
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
        self, item: FoundBox, number: int, image: ImageBoxes
    ) -> Iterator[dict[str, Any]]:
        """Yield the shape of a box, and those of its mask in the same group."""
        label = self.detections.classes[item.label]
        group = None if item.mask is None else number
        x0, y0, x1, y1 = (round(side, DECIMALS) for side in item.box)
        numbers = _describe_numbers(item)
        shape = _describe_shape(label, "rectangle", [[x0, y0], [x1, y1]], group)
        description = ", ".join(f"{name} {value}" for name, value in numbers.items())
        yield {**shape, "description": description, **numbers}
        if item.mask is not None:
            yield from self._describe_mask(item.mask, label, number, image)

    def _describe_mask(
        self, mask: Rle, label: str, number: int, image: ImageBoxes
    ) -> Iterator[dict[str, Any]]:
        if self.outlines == "rle":
            points, content = _encode_mask(mask)
            if content:
                yield {**_describe_shape(label, "mask", points, number), "mask": content}
            return
        outline = trace_outline(mask)
        self.outline_counter.add(image.id, outline)
        for polygon in outline.polygons:
            yield _describe_shape(label, "polygon", polygon.tolist(), number)

    def notes(self) -> list[Note]:
        """Return what was not written as it is."""
        notes = self.outline_counter.notes()
        if self.unplaced:
            why = "are no files that are known: place them beside their JSON files"
            notes.append(count_note(self.unplaced, "image", why))
        return notes


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


def _encode_mask(mask: Rle) -> tuple[list[list[float]], str]:
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
