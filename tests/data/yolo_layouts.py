"""Small data sets in the layouts of YOLO, drawn by the embedded data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.shapes import Shapes
from pipeline.types import Split

SPLITS: tuple[Split, ...] = ("train", "held_back", "val")
DRAWN = Shapes(images=24, val_images=6, held_back=0)


def write_shapes(root: Path, data: Shapes = DRAWN, ending: str = ".png") -> None:
    """Write images/train, images/val, their labels and data.yaml; one image has no object."""
    for split in SPLITS:
        truth, part = data.truth(split), "val" if split == "val" else "train"
        for n, (id, label) in enumerate(zip(data.ids(split), data.labels(split), strict=True)):
            example = data.example(split, n)
            name = f"{Path(id).stem}_{split}"
            save(root / f"images/{part}/{name}{ending}", example.image)
            rows = [to_row(int(label), box, example.size) for box in truth[id].boxes]
            write(root / f"labels/{part}/{name}.txt", rows)
    save(root / f"images/train/nothing{ending}", np.zeros((64, 64, 3), np.uint8), noise=True)
    write(root / "labels/train/nothing.txt", [])
    names = "".join(f"  {n}: {name}\n" for n, name in enumerate(data.classes))
    (root / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}", encoding="utf-8"
    )


def save(path: Path, pixels: np.ndarray, noise: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 255, pixels.shape, np.uint8)
    Image.fromarray(pixels).save(path)


def write(path: Path, rows: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def to_row(label: int, box: Sequence[float], size: tuple[int, int]) -> str:
    """Return a line of a label file: repr keeps every bit of the fractions."""
    (height, width), (x0, y0, x1, y1) = size, map(float, box)
    values = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
    return " ".join([str(label), *map(repr, values)])
