"""FiftyOne: metadata.json, samples.json and data/, read as fiftyone.types.FiftyOneDataset.

    sample      filepath, tags (its part; review_sample; reviewed), image, review_rank
    predictions Detections: label, bounding_box (x, y, width, height as fractions of the upright
                image), confidence, score, probability, mask (within the box)
    human       Detections that a person drew, corrected or accepted, without confidence

This is the JSON form that FiftyOne writes as LegacyFiftyOneDataset. Its newer form is an excerpt of
the database of a release.
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.exporter.image_folder import ImageFolder, ImageMode, Placed
from pipeline.formats.coco_writing import to_json
from pipeline.formats.files import atomic_write, write_json
from pipeline.ops.text import count_notes
from pipeline.types import (
    FoundBox,
    FoundBoxes,
    ImageBoxes,
    ImageWork,
    Note,
    Review,
    Rle,
    Size,
)

DIGITS = 8
"""Of fractions: less than a thousandth of a pixel in an image of 10,000."""


@dataclass(frozen=True)
class FiftyOne:
    """An exporter of a data set that the FiftyOne app shows.

    Args:
        images: how image files get into data/; `none` names the files where they are.
        upright: whether images that their EXIF data turn are written upright.
    """

    images: ImageMode = "link"
    upright: bool = False

    def __call__(self, detections: FoundBoxes, folder: Path) -> list[Note]:
        """Write the data set into a folder. Returns notes on what was replaced."""
        images = ImageFolder(detections, self.images, upright=self.upright)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        samples, counter = _Samples.of(detections, folder, images), _Counter(images)
        work = ImageWork(samples.write, _encode_mask, writes_files=images.may_write)
        with (
            atomic_write(folder / "samples.json") as path,
            path.open("w", encoding="utf-8") as file,
        ):
            file.write('{"samples": [')
            separator = "\n"
            for image, (text, placed) in detections.map_images(work):
                file.write(separator + text)
                separator = ",\n"
                counter.add(image, placed)
            file.write("\n]}\n")
        write_json(folder / "metadata.json", _describe_set(detections), indent=1)
        return [*counter.notes(), *images.notes()]


def _describe_set(exported: FoundBoxes) -> dict[str, Any]:
    """Return metadata.json. Without a list of fields, FiftyOne finds them in the samples."""
    info: dict[str, Any] = {
        "classes": list(exported.classes),
        "model_version": exported.model_version,
        "supervision": exported.supervision,
    }
    if exported.review is not None:
        info["confidence_kind"] = exported.review.confidence_kind
    return {"media_type": "image", "info": info}


@dataclass(frozen=True)
class _Samples:
    """Places images, and describes them as samples.

    Attributes:
        folder: of the images.
        images: places them.
        classes: names of the classes.
        review: the order in which to look at them.
        has_parts: whether it is known what each is to be used for.
    """

    folder: Path
    images: ImageFolder
    classes: Sequence[str]
    review: Review | None
    has_parts: bool

    @classmethod
    def of(cls, found: FoundBoxes, folder: Path, images: ImageFolder) -> _Samples:
        """Return what describes the images of an export."""
        has_parts = found.source is not None
        return cls(folder / "data", images, found.classes, found.review, has_parts)

    def write(self, image: ImageBoxes, masks: Sequence[Any]) -> tuple[str, Placed]:
        """Place an image; return its sample as JSON, and where it is."""
        placed = self.images.place(image, self.folder)
        return to_json(self._describe(image, masks, placed)), placed

    def _describe(self, image: ImageBoxes, masks: Sequence[Any], placed: Placed) -> dict[str, Any]:
        position, path = image.position, placed.path or image.id
        height, width = image.size
        sample: dict[str, Any] = {
            "filepath": f"data/{path}" if placed.is_in_folder else path,
            "tags": [self.images.part(position)] if self.has_parts else [],
            "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
            "image": image.id,
        }
        if image.is_human:
            sample["tags"].append("reviewed")
        if self.review is not None:
            sample["review_rank"] = int(self.review.ranks[position])
            if self.review.sampled[position]:
                sample["tags"].append("review_sample")
        described = [
            (box, self._describe_box(image, box, mask))
            for box, mask in zip(image.boxes, masks, strict=True)
        ]
        predicted = [detection for box, detection in described if not box.is_human]
        drawn = [detection for box, detection in described if box.is_human]
        sample["predictions"] = {"_cls": "Detections", "detections": predicted}
        if image.is_human:
            sample["human"] = {"_cls": "Detections", "detections": drawn}
        return sample

    def _describe_box(self, image: ImageBoxes, box: FoundBox, mask: Any) -> dict[str, Any]:
        """Return the Detection of a box."""
        detection: dict[str, Any] = {
            "_cls": "Detection",
            "attributes": {},
            "tags": [],
            "label": self.classes[box.label],
            "bounding_box": _to_fractions(box.box, image.size),
        }
        if mask is not None:
            detection["mask"] = mask
        if box.is_human:
            return detection
        confidence = box.score if box.confidence is None else box.confidence
        detection |= {"confidence": round(confidence, 5), "score": round(box.score, 5)}
        if box.probability is not None:
            detection["probability"] = round(box.probability, 5)
        return detection


class _Counter:
    """Counts what was replaced."""

    def __init__(self, images: ImageFolder) -> None:
        self._images = images
        self._without_file: list[str] = []
        self._without_confidence: list[str] = []

    def add(self, image: ImageBoxes, placed: Placed) -> None:
        """Count an image."""
        self._images.count(image, placed)
        if placed.path is None:
            self._without_file.append(image.id)
        if any(box.confidence is None and not box.is_human for box in image.boxes):
            self._without_confidence.append(image.id)

    def notes(self) -> list[Note]:
        """Return what was counted."""
        reasons = (
            (self._without_file, "have no file in data/: FiftyOne cannot show them",
             "export.images=link places those that are files"),
            (self._without_confidence, "have boxes without a confidence: the field holds the score",
             "add stage rank to the run"),
        )  # fmt: skip
        return count_notes(reasons, "image")


def _to_fractions(box: tuple[float, float, float, float], size: Size) -> list[float]:
    """Return left, top, width and height of a box as fractions of its image."""
    height, width = size
    x0, y0, x1, y1 = box
    sides = (x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height)
    return [round(side, DIGITS) for side in sides]


def _encode_mask(mask: Rle, box: FoundBox) -> dict[str, Any]:
    """Return the part of a mask within its box: NumPy's format, compressed, in base 64."""
    from pycocotools import mask as coco_mask

    x0, y0, x1, y1 = box.box
    pixels = coco_mask.decode(mask)
    within = pixels[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)]
    buffer = io.BytesIO()
    np.save(buffer, within.astype(bool), allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(buffer.getvalue())).decode(),
                        "subType": "00"}}  # fmt: skip
