"""The embedded set as PNG files in each layout gives the numbers of data=shapes, scaled alike."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.data.shapes import Shapes
from pipeline.types import Split
from tests.conftest import Cli

SHAPES: dict[str, Any] = {"images": 40, "val_images": 20, "held_back": 0, "scaling": "file"}
RUN = ("+experiment=cam", "model=small", "data.size=64", "train.epochs=1", "train.batch=8",
       "stages=[train,explain,localize,evaluate]", "runtime.workers=0")  # fmt: skip
PARTS: tuple[Split, ...] = ("train", "val")


def name_files(data: Shapes) -> Iterator[tuple[Split, int, str]]:
    """Yield each image with the path of its file, below the folder of its class."""
    for part in PARTS:
        for position, id in enumerate(data.ids(part)):
            label = int(data.labels(part)[position])
            yield part, position, f"{part}/{label:02d}/{Path(id).name}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images as PNG files in folders of classes, with their annotations in three forms."""
    root, data = tmp_path_factory.mktemp("shapes"), Shapes(**SHAPES)
    truth = data.truth("val")
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    rows = [("path", "label", "split", "bbox")]
    lists: dict[str, list[str]] = {}
    for part, position, path in name_files(data):
        example = data.example(part, position)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / path), example.image[..., ::-1])
        height, width = example.size
        known = truth.get(example.id)
        corners = [] if known is None else known.boxes.astype(int).tolist()
        text = json.dumps([[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in corners])
        rows.append((path, f"{example.label:02d}", part, text if corners else ""))
        folder = {"train": "train-weaksup", "val": "test"}[part]
        lists.setdefault(f"{folder}/image_ids", []).append(path)
        lists.setdefault(f"{folder}/class_labels", []).append(f"{path},{example.label}")
        if known is None:
            continue
        images.append({"id": len(images) + 1, "file_name": path, "width": width, "height": height})
        lists.setdefault("test/image_sizes", []).append(f"{path},{width},{height}")
        for (x0, y0, x1, y1), rle in zip(corners, known.masks, strict=True):
            lists.setdefault("test/localization", []).append(f"{path},{x0},{y0},{x1 - 1},{y1 - 1}")
            counts = rle["counts"]
            boxes.append({
                "id": len(boxes) + 1, "image_id": len(images), "category_id": example.label + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(coco_mask.area(rle)), "iscrowd": 0,
                "segmentation": {
                    "size": list(rle["size"]),
                    "counts": counts.decode() if isinstance(counts, bytes) else counts,
                },
            })  # fmt: skip
    categories = [{"id": n, "name": name} for n, name in enumerate(data.classes, 1)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (root / "instances_val.json").write_text(json.dumps(content))
    names = "".join(f"{n:02d}\t{name}\n" for n, name in enumerate(data.classes))
    (root / "classes.txt").write_text(names)
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for name, lines in lists.items():
        (root / "metadata" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "metadata" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "names.txt").write_text("\n".join(data.classes) + "\n")
    return root


def read_numbers(run: Path) -> dict[str, tuple[float, int]]:
    """The numbers of a run, of all classes together; `n` images stand behind each."""
    records = json.loads((run / "metrics.json").read_text())
    known = ("name", "iou", "threshold", "unit", "area")
    return {
        json.dumps([record.get(name) for name in known], sort_keys=True): (
            record["value"], record["n"],
        )
        for record in records
        if record["class"] is None
    }  # fmt: skip


def test_each_layout_gives_the_numbers_of_shapes(cli: Cli, root: Path, tmp_path: Path) -> None:
    shapes = [f"data.{name}={value}" for name, value in SHAPES.items()]
    assert cli(*RUN, *shapes) == 0
    drawn = (tmp_path / "outputs/latest").resolve()
    expected = read_numbers(drawn)
    assert sum(value is not None for value, _ in expected.values()) > 20
    files = f"data.root={root}"
    layouts = {
        # Folders list images by class, in another order: the network is that of data=shapes.
        "folder": ("data=folder", files, f"checkpoint={drawn}"),
        "table": ("data=table", f"data.table={root}/labels.csv", "data.box_format=xywh"),
        "wsolevaluation": ("data=wsolevaluation", f"data.root={root}/metadata",
                           f"data.images={root}", f"data.names={root}/names.txt"),
    }  # fmt: skip
    for name, options in layouts.items():
        trains = ("data.held_back=0",)
        assert cli(*RUN, *options, *trains) == 0, name
        found = read_numbers((tmp_path / "outputs/latest").resolve())
        missing = {key for key in expected if key not in found}
        # A table and lists of boxes have no masks, which two metrics measure.
        assert name != "folder" or not missing
        assert len(found) > 20
        for key, (value, count) in found.items():
            ours, n = expected[key]
            assert count == n, (name, key)
            assert value == pytest.approx(ours, abs=1e-9, nan_ok=True), (name, key)
    assert np.isfinite([value for value, _ in expected.values() if value is not None]).any()
