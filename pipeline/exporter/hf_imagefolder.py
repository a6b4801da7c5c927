"""Hugging Face's imagefolder: a folder a part with images and metadata.jsonl, and README.md.

    train/metadata.jsonl    a line an image:
      file_name             of the image, in the same folder
      image_id              its name in the data set
      width, height         of the upright image
      objects               bbox (x, y, width, height in pixels of the upright image), categories
                            (numbers), scores, confidences, sources: lists with an entry a box
      review_rank, review_sample, reviewed

`datasets` finds the type of a list in its values, so none is empty: a box whose source is `human`
has score and confidence 1. Without stage rank there are no confidences.

`datasets.load_dataset(FOLDER)` and `load_dataset("imagefolder", data_dir=FOLDER)` read it. Files
lie side by side in the folder of their part: a folder named `test` would make another part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from pipeline.exporter.image_folder import ImageFolder, ImageMode, Placed
from pipeline.formats.coco_boxes import xyxy_to_xywh
from pipeline.formats.coco_writing import to_json
from pipeline.formats.files import atomic_write, write_json, write_text
from pipeline.ops.text import count_notes
from pipeline.types import FoundBoxes, ImageBoxes, ImageWork, Note, Part, Review

SPLITS: dict[Part, str] = {"train": "train", "val": "validation", "test": "test"}
"""What `datasets` calls a part; its folder has the same name."""


@dataclass(frozen=True)
class HfImageFolder:
    """An exporter of a data set that `datasets` loads from files; masks are left out.

    Args:
        images: how image files get into the folders; with `none` they are to be put there.
        upright: whether images that their EXIF data turn are written upright.
    """

    images: ImageMode = "link"
    upright: bool = False

    def __call__(self, detections: FoundBoxes, folder: Path) -> list[Note]:
        """Write the data set into a folder. Returns notes on what was replaced."""
        images = ImageFolder(detections, self.images, upright=self.upright)
        with ExitStack() as stack:
            writer = _Writer(folder, images, stack)
            lines = _Lines(folder, images, detections.review)
            work = ImageWork(lines.write, writes_files=images.may_write)
            for image, written in detections.map_images(work):
                writer.add(image, *written)
        write_json(folder / "classes.json", list(detections.classes), indent=1)
        write_text(folder / "README.md", _describe(detections, writer.counts))
        return [*writer.notes(), *images.notes()]


@dataclass(frozen=True)
class _Lines:
    """Places images, and describes them in a line.

    Attributes:
        folder: of the data set.
        images: places the images.
        review: the order in which to look at them.
    """

    folder: Path
    images: ImageFolder
    review: Review | None

    def write(self, image: ImageBoxes, _: Sequence[None]) -> tuple[str, Placed]:
        """Place an image; return its line, and where it is."""
        folder = self.folder / SPLITS[self.images.part(image.position)]
        placed = self.images.place(image, folder)
        if placed.path is not None and placed.is_in_folder:
            name = placed.path
        else:
            suffix = Path(placed.path or "").suffix
            name = f"{self.images.stems[image.position]}{suffix}"
        return to_json(self._describe_image(image, name)) + "\n", placed

    def _describe_image(self, image: ImageBoxes, file_name: str) -> dict[str, Any]:
        height, width = image.size
        review = self.review
        record: dict[str, Any] = {
            "file_name": file_name,
            "image_id": image.id,
            "width": width,
            "height": height,
            "objects": self._describe_boxes(image),
            "reviewed": image.is_human,
        }
        if review is not None:
            record["review_rank"] = int(review.ranks[image.position])
            record["review_sample"] = bool(review.sampled[image.position])
        return record

    def _describe_boxes(self, image: ImageBoxes) -> dict[str, list[Any]]:
        """Return lists with an entry a box."""
        boxes = image.boxes
        objects: dict[str, list[Any]] = {
            "bbox": [xyxy_to_xywh(box.box) for box in boxes],
            "categories": [box.label for box in boxes],
            "scores": [1.0 if box.is_human else round(box.score, 5) for box in boxes],
        }
        if self.review is not None:
            confidences = [1.0 if box.is_human else box.confidence for box in boxes]
            objects["confidences"] = [None if p is None else round(p, 5) for p in confidences]
        objects["sources"] = ["human" if box.is_human else "label2box" for box in boxes]
        return objects


class _Writer:
    """Writes the lines of images into the files of their parts, and counts.

    Args:
        folder: of the data set.
        images: counts what was done to them.
        stack: completes the files when it closes.
    """

    def __init__(self, folder: Path, images: ImageFolder, stack: ExitStack) -> None:
        self.counts: dict[Part, int] = {}
        self._folder, self._images, self._stack = folder, images, stack
        self._files: dict[Part, IO[str]] = {}
        self._without_file: list[str] = []
        self._with_boxes: set[Part] = set()
        self._masks: list[str] = []

    def add(self, image: ImageBoxes, line: str, placed: Placed) -> None:
        """Write the line of an image, and count."""
        part = self._images.part(image.position)
        folder = self._folder / SPLITS[part]
        if part not in self._files:
            lines = self._stack.enter_context(atomic_write(folder / "metadata.jsonl"))
            self._files[part] = self._stack.enter_context(lines.open("w", encoding="utf-8"))
        self._images.count(image, placed)
        if not placed.is_in_folder:
            self._without_file.append(image.id)
        self.counts[part] = self.counts.get(part, 0) + 1
        if image.boxes:
            self._with_boxes.add(part)
        if any(box.mask is not None for box in image.boxes):
            self._masks.append(image.id)
        self._files[part].write(line)

    def notes(self) -> list[Note]:
        """Return what was counted."""
        reasons = (
            (self._without_file, "have no file beside metadata.jsonl, without which it "
             "cannot be read", "export.images=link places those that are files"),
            (self._masks, "have masks, which are left out: bounding boxes have no place for them",
             "formats coco and parquet have them"),
        )  # fmt: skip
        notes = count_notes(reasons, "image")
        if self._with_boxes and (empty := sorted(set(self.counts) - self._with_boxes)):
            folders = ", ".join(f"{SPLITS[part]}/" for part in empty)
            notes.append(
                Note(
                    f"{folders} has no box at all, so that `datasets` cannot tell the types of its "
                    "lists and refuses to load it with the other parts; remove it"
                )
            )
        return notes


def _describe(found: FoundBoxes, counts: dict[Part, int]) -> str:
    """Return README.md: a card with the parts for `datasets`, and the classes for people."""
    files = [
        {"split": name, "path": f"{name}/**"} for part, name in SPLITS.items() if counts.get(part)
    ]
    card: dict[str, Any] = {"task_categories": ["object-detection"]}
    if files:
        card["configs"] = [{"config_name": "default", "data_files": files}]
    head = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
    names = "".join(
        f"- {number}: {json.dumps(name, ensure_ascii=False)}\n"
        for number, name in enumerate(found.classes)
    )
    return (
        f"---\n{head}---\n\n# Boxes found by label2box\n\n"
        f"Model: `{found.model_version}`. A program found these boxes, except those whose source "
        "is `human`.\n`bbox` is x, y, width, height in pixels of the upright image.\n\n"
        f"## Classes\n\nAlso in classes.json, in the order of `objects.categories`:\n\n{names}"
    )
