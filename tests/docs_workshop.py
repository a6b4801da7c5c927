"""All that the documentation's commands read, small: folders, annotations, maps, digits, weights.

Photographs are drawn by the embedded data set. Weights are random, and lie where torchvision would
put those that it downloads.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image

from pipeline.data.shapes import Shapes
from tests.conftest import ROOT
from tests.data import drawn_sets

DRAWN = Shapes(images=48, val_images=24, held_back=0)
NETWORKS = ("mobilenet_v2", "squeezenet1_0", "resnet18")
CLASSES = ("robin", "wren")


# A fence of a page that follows `path`: is a file that the page's commands read.
FILE_ON_PAGE = re.compile(r"`(?P<path>[\w./]+)`:\n\n```\w+\n(?P<content>.*?)^```", re.M | re.S)


def furnish(folder: Path) -> None:
    for page in ("outside", "networks"):
        write_files_of_page(ROOT / f"docs/{page}.md", folder)
    (folder / "docs").symlink_to(ROOT / "docs")
    photos(folder / "photos")
    labels(folder / "labels.csv")
    (folder / "imagenette").symlink_to("photos")
    save(folder / "photo.jpg", 0)
    for number in (1, 2):
        save(folder / f"unlabelled/{number}.jpg", number)
    theirs(folder)
    corrected(folder)
    score_maps(folder)
    birds(folder / "CUB_200_2011")
    (folder / "CUB15").symlink_to("CUB_200_2011")
    openimages(folder)
    for root in (folder / "FOLDER", folder / ".cache/label2box"):
        digits(root / "MNIST/raw")
    weights(folder)
    own_network(folder)


def write_files_of_page(page: Path, folder: Path) -> None:
    """Write the files whose content stands on a page."""
    for match in FILE_ON_PAGE.finditer(page.read_text(encoding="utf-8")):
        path = folder / match["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(match["content"], encoding="utf-8")


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DRAWN.example("val", number).image).save(path, quality=95)


def boxes_of(number: int) -> list[list[float]]:
    """xywh."""
    truth = DRAWN.truth("val")[DRAWN.ids("val")[number]]
    x0, y0, x1, y1 = truth.boxes.T
    return np.stack([x0, y0, x1 - x0, y1 - y0], 1).tolist()


def coco(names: Sequence[str], numbers: Sequence[int], classes: Sequence[int]) -> dict[str, Any]:
    sizes = [DRAWN.example("val", number).size for number in numbers]
    images = [{"id": n, "file_name": name, "height": size[0], "width": size[1]}
              for n, (name, size) in enumerate(zip(names, sizes, strict=True))]  # fmt: skip
    annotations = [
        {
            "image_id": n,
            "category_id": label + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for n, (number, label) in enumerate(zip(numbers, classes, strict=True))
        for box in boxes_of(number)
    ]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(CLASSES)]
    numbered = [{"id": n + 1, **one} for n, one in enumerate(annotations)]
    return {"images": images, "annotations": numbered, "categories": categories}


def photos(root: Path) -> None:
    """train/ and val/ of two classes, boxes of val, and some boxes of train."""
    for split, count, first in (("train", 8, 0), ("val", 4, 16)):  # no image twice
        names, numbers = [], []
        for label, name in enumerate(CLASSES):
            for n in range(count):
                number = first + label * count + n
                save(root / split / name / f"{split}_{n}.jpg", number)
                names.append(f"{name}/{split}_{n}.jpg")
                numbers.append(number)
        labels = [n // count for n in range(len(names))]
        boxes = coco(names, numbers, labels)
        if split == "val":
            (root / "instances_val.json").write_text(json.dumps(boxes))
        else:
            (root.parent / "my50.json").write_text(json.dumps(boxes))


def openimages(folder: Path) -> None:
    """OpenImages30k in the folders of wsolevaluation, masks beside their images."""
    drawn_sets.openimages(folder / "drawn")
    for name, place in (("metadata", "metadata/OpenImages"), ("dataset", "dataset/OpenImages")):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / "drawn" / name).rename(folder / place)
    shutil.copytree(folder / "drawn/masks", folder / "dataset/OpenImages", dirs_exist_ok=True)
    shutil.rmtree(folder / "drawn")


def labels(table: Path) -> None:
    """A table of the photographs beside it, with the splits of their folders."""
    paths = sorted((table.parent / "photos").glob("*/*/*.jpg"))
    rows = [
        f"{path.relative_to(table.parent)},{path.parent.name},{path.parts[-3]}" for path in paths
    ]
    table.write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")


def theirs(folder: Path) -> None:
    whole = json.loads((folder / "photos/instances_val.json").read_text())
    (folder / "instances.json").write_text(json.dumps(whole))
    for name, shift in (("theirs", 4), ("mine", 9)):
        found = [
            {"image_id": one["image_id"], "category_id": one["category_id"], "score": 0.9,
             "bbox": [one["bbox"][0] + shift, *one["bbox"][1:]]}
            for one in whole["annotations"]
        ]  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(found))


def corrected(folder: Path) -> None:
    """What Label Studio exports: submitted annotations of two photographs and two drawn images."""
    photographs = [(f"photos/val/{CLASSES[0]}/val_{n}.jpg", 16 + n, CLASSES[0]) for n in range(2)]
    drawn = [(DRAWN.ids("val")[n], n, DRAWN.classes[DRAWN.labels("val")[n]]) for n in range(2)]
    tasks = []
    for name, number, label in (*photographs, *drawn):
        height, width = DRAWN.example("val", number).size
        value = {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0}
        region = {
            "type": "rectanglelabels",
            "original_width": width,
            "original_height": height,
            "value": {**value, "rectanglelabels": [label]},
        }
        done = {"id": 1, "was_cancelled": False, "updated_at": "2026-01-02T03:04:05Z"}
        image = f"/data/local-files/?d={name}"
        tasks.append({"data": {"image": image}, "annotations": [{**done, "result": [region]}]})
    (folder / "project-1.json").write_text(json.dumps(tasks))


def score_maps(folder: Path) -> None:
    """Maps and metadata as wsolevaluation has them."""
    tables: dict[str, list[str]] = {"image_ids": [], "class_labels": [], "image_sizes": [],
                                    "localization": []}  # fmt: skip
    (folder / "metadata").mkdir()
    for number in range(6):
        name, (height, width) = f"val/{number}.jpg", DRAWN.example("val", number).size
        field = np.zeros((height, width), np.float32)
        for x, y, w, h in boxes_of(number):
            field[int(y) : int(y + h), int(x) : int(x + w)] = 1
            tables["localization"].append(f"{name},{int(x)},{int(y)},{int(x + w)},{int(y + h)}")
        tables["image_ids"].append(name)
        tables["class_labels"].append(f"{name},{number % 2}")
        tables["image_sizes"].append(f"{name},{width},{height}")
        path = folder / "scoremaps" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, cv2.resize(cv2.blur(field, (25, 25)), (28, 28)))
    for name, lines in tables.items():
        (folder / "metadata" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def birds(root: Path) -> None:
    """CUB's own layout: two classes, every third image scored."""
    tables: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": [],
                                    "bounding_boxes": []}  # fmt: skip
    for n in range(12):
        label, name = n // 6 + 1, f"{n // 6 + 1:03d}.{CLASSES[n // 6]}/{n}.jpg"
        save(root / "images" / name, n)
        box = " ".join(map(str, boxes_of(n)[0]))
        for table, told in zip(tables, (name, label, int(n % 3 > 0), box), strict=True):
            tables[table].append(f"{n + 1} {told}")
    tables["classes"] = [f"{n + 1} {n + 1:03d}.{name}" for n, name in enumerate(CLASSES)]
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")


def digits(raw: Path) -> None:
    rng = np.random.default_rng(0)
    raw.mkdir(parents=True)
    for pool, count in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (raw / f"{pool}-{name}-ubyte").write_bytes(header + values.tobytes())


def weights(folder: Path) -> None:
    checkpoints = folder / "torch/hub/checkpoints"
    checkpoints.mkdir(parents=True)
    torch.manual_seed(0)
    for name in NETWORKS:
        known = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        network = torchvision.models.get_model(name, weights=None)
        torch.save(network.state_dict(), checkpoints / Path(known.url).name)
        if name == "mobilenet_v2":
            (folder / "mobilenet_v2_imagenet.pth").symlink_to(checkpoints / Path(known.url).name)


def own_network(folder: Path) -> None:
    """The weights of the network that docs/networks.md defines."""
    names: dict[str, Any] = {}
    exec((folder / "mynet.py").read_text(), names)
    torch.manual_seed(0)
    torch.save(names["Net"]().state_dict(), folder / "mine.pth")
