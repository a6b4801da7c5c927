"""The embedded set as PNG files in each layout that can hold them, for data=NAME to read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.data import voc as voc_set
from pipeline.data.shapes import Shapes
from pipeline.types import Example, GroundTruth, Split
from tests.data import archive_layouts, drawn_sets

PARTS: tuple[Split, ...] = ("train", "val")
VOC_NAMES = voc_set.CLASSES[:10]
"""The classes of VOC that stand for the ten shapes, as it has no others."""


@dataclass(frozen=True)
class Item:
    """An image of the embedded set.

    Attributes:
        split: train or val.
        stem: The name of its file, without the ending.
        png: The content of its file.
        labels: Its classes.
        truth: Its boxes and masks.
    """

    split: Split
    stem: str
    png: bytes
    labels: tuple[int, ...]
    truth: GroundTruth

    @property
    def folder(self) -> str:
        """A folder for each split and first class, whose names sort as the classes do."""
        return f"{self.split}/n{self.labels[0]:08d}"

    @property
    def path(self) -> str:
        """A path below the folder of the class."""
        return f"{self.folder}/{self.stem}.png"

    @property
    def corners(self) -> list[list[int]]:
        """Its boxes as half-open corners."""
        return self.truth.boxes.astype(int).tolist()

    @property
    def box_classes(self) -> list[int]:
        """The class of each box."""
        classes = self.truth.classes
        return [self.labels[0]] * len(self.corners) if classes is None else classes.tolist()


@dataclass(frozen=True)
class Drawn:
    """A drawn data set with the files of its images."""

    data: Shapes

    @cache  # noqa: B019, of the two data sets that a test draws
    def example(self, split: Split, position: int, at: tuple[int, int] | None) -> Example:
        """Draw an image once."""
        return self.data.example(split, position, at=at)

    @cached_property
    def items(self) -> list[Item]:
        """Its images, in the order of the splits."""
        items = list[Item]()
        for split in PARTS:
            truth = self.data.truth(split)
            for position, id in enumerate(self.data.ids(split)):
                example = self.data.example(split, position)
                png = io.BytesIO()
                Image.fromarray(example.image).save(png, "PNG")
                stem = Path(id).stem
                items.append(Item(split, stem, png.getvalue(), example.labels, truth[id]))
        return items

    def coco(self, split: Split, name: Callable[[Item], str]) -> dict[str, Any]:
        """Return a split as COCO has it, with its masks.

        Args:
            split: The split.
            name: Returns the file name of an image.
        """
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        for item in self.items:
            if item.split != split:
                continue
            height, width = item.truth.size
            number = len(images) + 1
            images.append({"id": number, "file_name": name(item), "width": width, "height": height})
            masks = item.truth.masks or ()
            for (x0, y0, x1, y1), label, rle in zip(
                item.corners, item.box_classes, masks, strict=True
            ):
                counts = rle["counts"]
                text = counts.decode() if isinstance(counts, bytes) else counts
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number, "category_id": label + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0,
                    "segmentation": {"size": list(rle["size"]), "counts": text},
                })  # fmt: skip
        categories = [{"id": n, "name": name} for n, name in enumerate(self.data.classes, 1)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def files(self) -> dict[str, bytes]:
        """Return folders of classes with the file that names them."""
        names = "".join(f"n{n:08d}\t{name}\n" for n, name in enumerate(self.data.classes))
        return {"classes.txt": names.encode(), **{item.path: item.png for item in self.items}}


Options = dict[str, Any]


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_all(root: Path, files: Mapping[str, bytes | str]) -> None:
    for name, content in files.items():
        write(root / name, content)


def write_boxes(root: Path, drawn: Drawn, name: Callable[[Item], str]) -> str:
    """Write the boxes of val beside the data set."""
    write(root / "boxes.json", json.dumps(drawn.coco("val", name)))
    return f"{root}/boxes.json"


# -- folders of classes and archives of them


def folder(root: Path, drawn: Drawn) -> Options:
    write_all(root / "photos", drawn.files())
    boxes = write_boxes(root, drawn, lambda item: item.path)
    return {"data": "folder", "root": f"{root}/photos", "boxes": boxes}


def folder_in_zip(root: Path, drawn: Drawn) -> Options:
    archive_layouts.write_zip(root / "photos.zip", drawn.files())
    boxes = write_boxes(root, drawn, lambda item: item.path)
    return {"data": "folder", "root": f"{root}/photos.zip", "boxes": boxes}


def folder_in_tar(root: Path, drawn: Drawn) -> Options:
    archive_layouts.write_tar(root / "photos.tar", drawn.files())
    boxes = write_boxes(root, drawn, lambda item: item.path)
    return {"data": "folder", "root": f"{root}/photos.tar", "boxes": boxes}


def imagenet(root: Path, drawn: Drawn) -> Options:
    """ILSVRC as it is unpacked, with one XML file for each image of val."""
    for item in drawn.items:
        write(root / item.path, item.png)
        if item.split == "val":
            objects = tuple(
                (f"n{label:08d}", (x0, y0, x1 - 1, y1 - 1), False)
                for (x0, y0, x1, y1), label in zip(item.corners, item.box_classes, strict=True)
            )
            place = root / f"Annotations/CLS-LOC/val/{item.stem}.xml"
            drawn_sets.write_voc_objects(place, objects, item.truth.size)
    words = [f"n{n:08d} {name}" for n, name in enumerate(drawn.data.classes)]
    drawn_sets.write_lines(root / "LOC_synset_mapping.txt", words)
    return {"data": "imagenet", "root": str(root)}


# -- tables


def records(drawn: Drawn) -> list[dict[str, Any]]:
    """Return a row for each image; boxes are of val."""
    names = drawn.data.classes
    return [
        {
            "path": item.path, "label": [names[label] for label in item.labels],
            "split": item.split, "xyxy": item.corners if item.split == "val" else [],
        }
        for item in drawn.items
    ]  # fmt: skip


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def table_csv(root: Path, drawn: Drawn) -> Options:
    write_all(root, drawn.files())
    rows = [
        {**row, "label": " ".join(row["label"]), "xyxy": json.dumps(row["xyxy"])}
        for row in records(drawn)
    ]
    write_table(root / "labels.csv", rows)
    return {"data": "table", "table": f"{root}/labels.csv", "label_separator": " "}


def table_json_lines(root: Path, drawn: Drawn) -> Options:
    write_all(root, drawn.files())
    write(root / "labels.jsonl", "\n".join(map(json.dumps, records(drawn))))
    return {"data": "table", "table": f"{root}/labels.jsonl"}


def table_parquet(root: Path, drawn: Drawn) -> Options:
    import pyarrow
    from pyarrow import parquet

    write_all(root, drawn.files())
    parquet.write_table(pyarrow.Table.from_pylist(records(drawn)), root / "labels.parquet")
    return {"data": "table", "table": f"{root}/labels.parquet"}


def table_of_0_and_1(root: Path, drawn: Drawn) -> Options:
    """A column for each class, without boxes where an image has several: they would be of none."""
    write_all(root, drawn.files())
    rows = [
        {
            "path": row["path"], "split": row["split"], "xyxy": json.dumps(row["xyxy"]),
            **{name: int(name in row["label"]) for name in drawn.data.classes},
        }
        for row in records(drawn)
    ]  # fmt: skip
    write_table(root / "marks.csv", rows)
    columns = list(drawn.data.classes)
    return {"data": "table", "table": f"{root}/marks.csv", "label_columns": columns}


def imagefolder(root: Path, drawn: Drawn) -> Options:
    """Hugging Face's imagefolder: metadata.jsonl in a folder for each split."""
    write_all(root, drawn.files())
    for split in PARTS:
        lines = [
            json.dumps({
                "file_name": item.path.removeprefix(f"{split}/"),
                "label": [drawn.data.classes[label] for label in item.labels],
                "objects": {
                    "bbox": [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in item.corners],
                    "categories": [drawn.data.classes[label] for label in item.box_classes],
                },
            })
            for item in drawn.items if item.split == split
        ]  # fmt: skip
        write(root / split / "metadata.jsonl", "\n".join(lines))
    return {"data": "table", "table": str(root)}


# -- lists of images


def wsolevaluation(root: Path, drawn: Drawn) -> Options:
    lines: dict[str, list[str]] = {}
    for item in drawn.items:
        write(root / item.path, item.png)
        part = {"train": "train-weaksup", "val": "test"}[item.split]
        lines.setdefault(f"{part}/image_ids", []).append(item.path)
        lines.setdefault(f"{part}/class_labels", []).append(f"{item.path},{item.labels[0]}")
        if item.split == "val":
            height, width = item.truth.size
            lines.setdefault("test/image_sizes", []).append(f"{item.path},{width},{height}")
            lines.setdefault("test/localization", []).extend(
                f"{item.path},{x0},{y0},{x1 - 1},{y1 - 1}" for x0, y0, x1, y1 in item.corners
            )
    for name, each in lines.items():
        drawn_sets.write_lines(root / "metadata" / f"{name}.txt", each)
    drawn_sets.write_lines(root / "names.txt", list(drawn.data.classes))
    return {"data": "wsolevaluation", "root": f"{root}/metadata", "images": str(root),
            "names": f"{root}/names.txt"}  # fmt: skip


def yolo(root: Path, drawn: Drawn) -> Options:
    for item in drawn.items:
        write(root / f"images/{item.split}/{item.stem}.png", item.png)
        height, width = item.truth.size
        rows = [
            f"{label} {(x0 + x1) / 2 / width!r} {(y0 + y1) / 2 / height!r} "
            f"{(x1 - x0) / width!r} {(y1 - y0) / height!r}"
            for (x0, y0, x1, y1), label in zip(item.corners, item.box_classes, strict=True)
        ]
        drawn_sets.write_lines(root / f"labels/{item.split}/{item.stem}.txt", rows)
    names = "".join(f"  {n}: {name}\n" for n, name in enumerate(drawn.data.classes))
    text = f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}"
    write(root / "data.yaml", text)
    return {"data": "yolo", "root": str(root)}


def webdataset(root: Path, drawn: Drawn) -> Options:
    """A shard for each split; boxes are a COCO file beside them, by the keys of the samples."""
    names = drawn.data.classes
    for split in PARTS:
        files: dict[str, bytes] = {}
        for item in drawn.items:
            if item.split == split:
                files[f"{item.stem}.png"] = item.png
                labels = [names[label] for label in item.labels]
                files[f"{item.stem}.json"] = json.dumps({"labels": labels}).encode()
        archive_layouts.write_tar(root / f"{split}-000.tar", files)
    drawn_sets.write_lines(root / "classes.txt", list(names))
    boxes = write_boxes(root, drawn, lambda item: f"{item.split}-000/{item.stem}.png")
    return {"data": "webdataset", "shards": str(root), "boxes": boxes}


def coco(root: Path, drawn: Drawn) -> Options:
    for split in PARTS:
        content = drawn.coco(split, lambda item: f"{item.stem}.png")
        write(root / f"annotations/instances_{split}2017.json", json.dumps(content))
    for item in drawn.items:
        write(root / f"{item.split}2017/{item.stem}.png", item.png)
    return {"data": "coco", "root": str(root)}


def voc(root: Path, drawn: Drawn) -> Options:
    """VOC names its files .jpg: the content of these is PNG all the same, by which it is read."""
    for item in drawn.items:
        write(root / f"VOC2007/JPEGImages/{item.stem}.jpg", item.png)
        objects = tuple(
            (VOC_NAMES[label], (x0 + 1, y0 + 1, x1, y1), False)
            for (x0, y0, x1, y1), label in zip(item.corners, item.box_classes, strict=True)
        )
        place = root / f"VOC2007/Annotations/{item.stem}.xml"
        drawn_sets.write_voc_objects(place, objects, item.truth.size)
    for split in PARTS:
        stems = [item.stem for item in drawn.items if item.split == split]
        drawn_sets.write_lines(root / f"VOC2007/ImageSets/Main/{split}.txt", stems)
    return {"data": "voc", "root": str(root), "scored": "val"}


ONE_CLASS = (
    folder, folder_in_zip, folder_in_tar, imagenet, table_csv, table_json_lines, table_parquet,
    table_of_0_and_1, imagefolder, wsolevaluation, yolo, webdataset,
)  # fmt: skip
"""Layouts of images of one class."""

SEVERAL_CLASSES = (imagefolder, yolo, webdataset, coco, voc)
"""Layouts of images of several classes that say of which class each box is, too."""
