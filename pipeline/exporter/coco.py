"""COCO: boxes.json, a results file, predictions.json, a whole data set, and a data set a part.

Boxes are written as `[x, y, width, height]` in pixels of the upright image, masks as compressed
run-length encodings, in data sets as polygons where these are asked for. All files have the score
of each box; its confidence and the probability of its class, and the rank of its image for review,
where they are known. pycocotools ignores these.

    root (in info)       the folder that file_name is relative to
    supervision (in info)    what the network learned from: image labels, or boxes of a person
    split (image)        train, val or test: which instances_<part>.json has the image
    reviewed (image), source: human (annotation)    a person drew, corrected or accepted the boxes;
                         such a box has no score, but 1 in boxes.json, where readers want one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.exporter.image_folder import ImageFolder, ImageMode, Placed
from pipeline.formats.coco_boxes import xyxy_to_xywh
from pipeline.formats.coco_writing import DataSetWriter, open_data_set, open_list, to_json
from pipeline.formats.files import atomic_write
from pipeline.formats.outlines import Outline, OutlineCounter, trace_outline
from pipeline.types import FoundBox, FoundBoxes, ImageBoxes, ImageWork, Note, Review

RESULTS, DATA_SET, PART = "boxes.json", "predictions.json", "instances_{}.json"

RESULT_FIELDS = ("image_id", "category_id", "bbox")
DOUBT_FIELDS = ("probability", "confidence", "review_rank")


@dataclass(frozen=True)
class Coco:
    """An exporter of COCO's files, which streams records: memory does not grow with their number.

    Where it is known where the images are, as in stage export, each part gets a data set, too.

    Args:
        images: with `upright`, how other images than the turned ones get into images/.
        upright: whether all images are placed in images/, upright, which file_name then names:
            torchvision's CocoDetection does not turn images by their EXIF data.
        outlines: how masks are written in data sets.
    """

    images: ImageMode = "link"
    upright: bool = False
    outlines: Literal["rle", "polygon"] = "rle"

    def __call__(self, detections: FoundBoxes, folder: Path) -> list[Note]:
        """Write the files into a folder, each atomically. Returns notes on what was replaced."""
        has_images = self.upright and detections.source is not None
        mode: ImageMode = "link" if self.images == "none" else self.images
        images = (
            ImageFolder(detections, mode, upright=True, keeps_paths=True) if has_images else None
        )
        encode = (lambda mask, _: trace_outline(mask)) if self.outlines == "polygon" else None
        work = ImageWork(_Placer(images, folder / "images").place, encode, writes_files=has_images)
        with ExitStack() as stack:
            writer = _Writer(detections, folder, images, stack)
            for image, (placed, outlines) in detections.map_images(work):
                writer.add(image, placed, outlines)
        notes = writer.outlines.notes()
        if images is not None:
            notes += images.notes()
            if self.images == "none":
                notes.append(Note("images=none does not hold with upright=true: all are linked"))
        return notes


def _name_doubt(
    probability: float | None, confidence: float | None, review: Review | None, position: int
) -> dict[str, float | int]:
    """Return what is known of them under their names."""
    fields: dict[str, float | int] = {}
    if probability is not None:
        fields["probability"] = round(probability, 5)
    if confidence is not None:
        fields["confidence"] = round(confidence, 5)
    if review is not None:
        fields["review_rank"] = int(review.ranks[position])
    return fields


def _describe_review(review: Review | None, position: int) -> dict[str, int | bool]:
    """Return when to look at an image, and whether it belongs to the random sample."""
    if review is None:
        return {}
    rank, is_sampled = int(review.ranks[position]), bool(review.sampled[position])
    return {"review_rank": rank, **({"review_sample": True} if is_sampled else {})}


@dataclass(frozen=True)
class _Placer:
    """Places images; what is then written has the numbers of the records before.

    Attributes:
        images: places them; None: they stay where they are.
        folder: that they are placed in.
    """

    images: ImageFolder | None
    folder: Path

    def place(
        self, image: ImageBoxes, outlines: Sequence[Outline | None]
    ) -> tuple[Placed | None, Sequence[Outline | None]]:
        """Place an image; return where it is, and the outlines of its masks as they are."""
        placed = None if self.images is None else self.images.place(image, self.folder)
        return placed, outlines


class _Writer:
    """Writes images and annotations into the whole data set and into that of their part.

    Args:
        exported: the boxes.
        folder: of the files.
        images: counts the images in images/; None: they stay where they are.
        stack: completes the files when it closes.
    """

    def __init__(
        self,
        exported: FoundBoxes,
        folder: Path,
        images: ImageFolder | None,
        stack: ExitStack,
    ) -> None:
        self.outlines = OutlineCounter()
        self._found, self._folder, self._images = exported, folder, images
        self._stack = stack
        self._count = 0
        self._parts: dict[str, DataSetWriter] = {}
        self._all = self._open(DATA_SET)
        results = stack.enter_context(atomic_write(folder / RESULTS))
        self._results = stack.enter_context(open_list(results))

    def _open(self, name: str) -> DataSetWriter:
        path = self._stack.enter_context(atomic_write(self._folder / name))
        names = self._found.coco
        categories = (
            {"id": int(number), "name": name, "supercategory": ""}
            for number, name in zip(names.category_ids, self._found.classes, strict=True)
        )
        return self._stack.enter_context(open_data_set(path, self._describe_info(), categories))

    def _describe_info(self) -> dict[str, Any]:
        """Return COCO's `info`."""
        info = {
            "description": "Boxes found by label2box",
            "version": "1.0",
            "contributor": "label2box",
            "url": "",
            "supervision": self._found.supervision,
        }
        exported = self._found
        if exported.review is not None:
            info["confidence_kind"] = exported.review.confidence_kind
        if self._images is not None:
            info["root"] = str((self._folder / "images").absolute())
        elif exported.source is not None and exported.source.root is not None:
            info["root"] = str(exported.source.root)
        return info

    def add(
        self, image: ImageBoxes, placed: Placed | None, outlines: Sequence[Outline | None]
    ) -> None:
        """Add an image and its annotations."""
        source, writers = self._found.source, [self._all]
        if source is not None:
            part = source.part(image.position)
            if part not in self._parts:
                self._parts[part] = self._open(PART.format(part))
            writers.append(self._parts[part])
        record = to_json(self._describe_image(image, placed))
        for writer in writers:
            writer.images.add(record)
        for box, outline in zip(image.boxes, outlines, strict=True):
            self._count += 1
            annotation = self._describe_box(image, box, outline)
            record = to_json(annotation)
            for writer in writers:
                writer.annotations.add(record)
            self._results.add(to_json(_to_result(annotation, box)))

    def _describe_image(self, image: ImageBoxes, placed: Placed | None) -> dict[str, Any]:
        names, position = self._found.coco, image.position
        height, width = image.size
        record: dict[str, Any] = {
            "id": int(names.image_ids[position]),
            "file_name": names.file_names[position],
            "width": width,
            "height": height,
            **_describe_review(self._found.review, position),
        }
        if self._found.source is not None:
            record["split"] = self._found.source.part(position)
        if image.is_human:
            record["reviewed"] = True
        if self._images is not None and placed is not None:
            self._images.count(image, placed)
            if placed.path is not None:
                record["file_name"] = placed.path
        return record

    def _describe_box(
        self, image: ImageBoxes, box: FoundBox, outline: Outline | None
    ) -> dict[str, Any]:
        names, bbox = self._found.coco, xyxy_to_xywh(box.box)
        doubt = _name_doubt(box.probability, box.confidence, self._found.review, image.position)
        return {
            "id": self._count,
            "segmentation": self._describe_mask(image, box, outline),
            "image_id": int(names.image_ids[image.position]),
            "category_id": int(names.category_ids[box.label]),
            "bbox": bbox,
            **({"source": "human"} if box.is_human else {"score": round(box.score, 5)}),
            **doubt,
            "area": round(bbox[2] * bbox[3], 2),
            "iscrowd": 0,
        }

    def _describe_mask(self, image: ImageBoxes, box: FoundBox, outline: Outline | None) -> Any:
        """Return the mask of a box; empty where there is none, as some readers want the field."""
        if box.mask is None:
            return []
        if outline is None:
            return box.mask
        self.outlines.add(image.id, [outline.iou])
        return [polygon.ravel().tolist() for polygon in outline.polygons]


def _to_result(annotation: Mapping[str, Any], box: FoundBox) -> dict[str, Any]:
    """Return the record of a box in a results file, which has a score for a person's box, too."""
    record = {name: annotation[name] for name in RESULT_FIELDS}
    record["score"] = round(box.score, 5)
    record.update((name, annotation[name]) for name in DOUBT_FIELDS if name in annotation)
    if box.is_human:
        record["source"] = "human"
    if box.mask is not None:
        record["segmentation"] = box.mask
    return record
