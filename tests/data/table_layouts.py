"""Small sets in the layouts of data=table, drawn by the embedded data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.shapes import Shapes
from pipeline.types import Split
from tests import docs_workshop

SPLITS: tuple[Split, ...] = ("train", "held_back", "val")


def write_photos(root: Path) -> None:
    """labels.csv beside photos/: two classes, three splits, an image without label, boxes."""
    rows: list[Sequence[Any]] = [("path", "label", "split", "bbox")]
    for split, count in (("train", 8), ("val", 4), ("test", 1)):
        for label, name in enumerate(docs_workshop.CLASSES):
            for n in range(count):
                number = (label * count + n) % 12
                path = f"{split}/{name}_{n}.jpg"
                docs_workshop.save(root / "photos" / path, number)
                boxes = json.dumps(docs_workshop.boxes_of(number)) if split == "val" else ""
                rows.append((path, name, split, boxes))
    docs_workshop.save(root / "photos/nameless.jpg", 11)
    rows.append(("nameless.jpg", "", "test", ""))
    write_rows(root / "labels.csv", rows)


def write_rows(path: Path, rows: Sequence[Sequence[Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def shape_records(data: Shapes, root: Path) -> list[dict[str, Any]]:
    """Write the images of the embedded set losslessly, and return what a table says of them."""
    names, records = data.classes, []
    for split in SPLITS:
        truth = data.truth(split)
        for n, (id, label) in enumerate(zip(data.ids(split), data.labels(split), strict=True)):
            path = root / id
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.example(split, n).image).save(path)
            boxes = np.asarray(truth[id].boxes, float).tolist()
            part = "val" if split == "val" else "train"
            records.append({"path": id, "label": names[label], "split": part, "xyxy": boxes})
    return records


def coco_labels(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The records as COCO whose annotations have a category and no box."""
    names = sorted({record["label"] for record in records}, reverse=True)
    return {
        "images": [
            {"id": n, "file_name": record["path"], "split": record["split"]}
            for n, record in enumerate(records)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 10 + names.index(record["label"])}
            for n, record in enumerate(records)
        ],
        "categories": [{"id": 10 + n, "name": name} for n, name in enumerate(names)],
    }
