"""A small data set as `datasets.Dataset.save_to_disk` writes it, drawn by the embedded data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.types import Split
from tests.data.archive_layouts import DRAWN, noise, to_bytes

SPLITS: dict[str, Split] = {"train": "train", "validation": "val"}


def write_saved(root: Path) -> None:
    """Write train, validation and an image without label in test."""
    import datasets

    names = list(DRAWN.classes)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    parts = {}
    for name, split in SPLITS.items():
        rows: dict[str, list[Any]] = {"image": [], "label": []}
        for n, label in enumerate(DRAWN.labels(split)):
            data = to_bytes(DRAWN.example(split, n).image)
            rows["image"].append({"bytes": data, "path": f"{n}.png"})
            rows["label"].append(int(label))
        parts[name] = datasets.Dataset.from_dict(rows, features=features)
    unlabelled = {"image": [{"bytes": to_bytes(noise(1, (64, 64))), "path": None}], "label": [-1]}
    parts["test"] = datasets.Dataset.from_dict(unlabelled, features=features)
    datasets.DatasetDict(parts).save_to_disk(str(root))
