"""Small archives and shards, drawn by the embedded data set."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.shapes import Shapes
from pipeline.types import Split

DRAWN = Shapes(images=16, val_images=6, held_back=0)
SPLITS: tuple[Split, ...] = ("train", "held_back", "val")
SHARDS: tuple[tuple[Split, int], ...] = (("train", 2), ("val", 1))


def to_bytes(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def noise(number: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8)


def write_tar(
    path: Path, files: Mapping[str, bytes] | Iterable[tuple[str, bytes]], form: int = 1
) -> None:
    """Write a tar in one of tarfile's forms: 0 ustar, 1 GNU, 2 pax."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = files.items() if isinstance(files, Mapping) else files
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in pairs:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a zip, every second file stored as it is, the others compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for n, (name, data) in enumerate(files.items()):
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if n % 2 else zipfile.ZIP_STORED)


def shape_files(data: Shapes = DRAWN) -> dict[str, dict[str, bytes]]:
    """Return train and val of the embedded set as files in class folders."""
    parts: dict[str, dict[str, bytes]] = {"train": {}, "val": {}}
    for split in SPLITS:
        files = parts["val" if split == "val" else "train"]
        for n, label in enumerate(data.labels(split)):
            name = f"{data.classes[label]}/{split}_{n:03d}.png"
            files[name] = to_bytes(data.example(split, n).image)
    return parts


def write_shards(root: Path, data: Shapes = DRAWN) -> None:
    """Write two shards of train, one of val, classes.txt; one sample has no label."""
    number = 0
    for split, shards in SHARDS:
        count = len(data.labels(split))
        for shard in range(shards):
            files: dict[str, bytes] = {}
            for n in range(shard * count // shards, (shard + 1) * count // shards):
                files[f"{number:06d}.png"] = to_bytes(data.example(split, n).image)
                label = int(data.labels(split)[n])
                if n % 2:
                    files[f"{number:06d}.cls"] = str(label).encode()
                else:
                    files[f"{number:06d}.json"] = json.dumps({"label": label}).encode()
                number += 1
            if split == "train" and shard == 1:
                files["nameless.png"] = to_bytes(noise(1, (64, 64)))
            write_tar(root / f"{split}-{shard:03d}.tar", files)
    (root / "classes.txt").write_text("\n".join(data.classes) + "\n", encoding="utf-8")
