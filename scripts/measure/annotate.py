"""Measure the loop of an annotator on imagenette: `./scripts/accuracy annotate [key=value ...]`.

All images lie in one folder for each class, without train/ and val/, as people have them. Printed:

    time    all stages against those of `best` alone (without export and annotate), in the same run
    right   of the images with annotated boxes, the share whose box has an IoU of at least 0.5
    review  the same after a simulated annotator corrected a fifth: the least sure, or a random one

No annotated box is seen by the run. `images=300` takes 300 images of train/, not all 3,000.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats import coco
from pipeline.formats.files import read_json
from pipeline.ops.hashing import hash_of
from pipeline.ops.iou import best_iou
from pipeline.ops.wilson import wilson_interval
from scripts.measure.records import Record
from scripts.measure.runs import MOBILENET, SHARED, compose

SHARE = 0.2  # of the images with boxes that the annotator corrects
DRAWS = 200  # of a random fifth
OWN_STAGES = ("export", "annotate")  # that `best` does not have


def run(*overrides: str) -> list[Record]:
    """Run annotate, and print what it costs and what review gains."""
    limits = [int(word[7:]) for word in overrides if word.startswith("images=")]
    overrides = tuple(word for word in overrides if not word.startswith("images="))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photos"
        _link_images(SHARED / "imagenette", root, *limits)
        given = ("data=folder", f"data.root={root}", "runtime.deterministic=false", *MOBILENET)
        whole = compose("annotate", *given, *overrides)
        seconds = {}
        for stage in whole.config["stages"]:
            result, _ = whole.get_or_create(stage)
            seconds[stage] = read_json(result / "DONE")["seconds"]
        ious, confidences = _compare(
            read_json(whole.folder("rank") / "predictions.json"),
            SHARED / "imagenette" / "instances_val.json",
        )
    total = sum(seconds.values())
    own = sum(seconds.get(stage, 0.0) for stage in OWN_STAGES)
    print(" ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items()))
    print(f"time: {total / (total - own):.3f} of the stages of best")
    return _describe(ious >= 0.5, confidences, total / (total - own))


def _link_images(source: Path, root: Path, limit: int | None = None) -> None:
    """Put all images of val/ and some of train/ into a folder for each class."""
    learned = sorted(source.glob("train/*/*"), key=lambda path: hash_of(path.name))[:limit]
    for path in (*learned, *sorted(source.glob("val/*/*"))):
        target = root / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(path.resolve(), target)


def _compare(predictions: Any, annotations: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the IoU of the best-scored box of each annotated image, and its confidence."""
    by_name = {Path(image["file_name"]).name: image["id"] for image in predictions["images"]}
    best: dict[int, dict[str, Any]] = {}
    for box in predictions["annotations"]:
        known = best.get(box["image_id"])
        if known is None or box["score"] > known["score"]:
            best[box["image_id"]] = box
    ious, confidences = [], []
    for image in coco.read(annotations).images:
        if not image.boxes:
            continue
        found = best.get(by_name[Path(image.file_name).name])
        x, y, width, height = found["bbox"] if found else (0, 0, 0, 0)
        box = None if found is None else np.array([x, y, x + width, y + height])
        ious.append(best_iou(box, np.array(image.boxes)))
        confidences.append(-1.0 if found is None else found["confidence"])
    return np.array(ious), np.array(confidences)


def _describe(right: np.ndarray, confidences: np.ndarray, time: float) -> list[Record]:
    """Print and return the shares that are right before and after review."""
    n, k = len(right), round(SHARE * len(right))
    low, high = wilson_interval(int(right.sum()), n)
    print(f"right: {right.mean():.3f} of {n} ({low:.3f} to {high:.3f})")
    reviewed = right.copy()
    reviewed[np.argsort(confidences, kind="stable")[:k]] = True
    generator = np.random.default_rng(0)
    after = []
    for _ in range(DRAWS):
        random = right.copy()
        random[generator.permutation(n)[:k]] = True
        after.append(random.mean())
    print(f"right after the least sure {k} of {n} were corrected: {reviewed.mean():.3f}")
    print(f"after a random {k} (mean of {DRAWS} draws): {np.mean(after):.3f}")
    wrong = ~right
    surest = wrong[np.argsort(confidences, kind="stable")[:k]].mean()
    print(f"wrong among the least sure fifth: {surest:.3f}; among all: {wrong.mean():.3f}")
    least, by_chance = float(reviewed.mean()), float(np.mean(after))
    surely, among_all = float(surest), float(wrong.mean())
    return [
        Record("time, against the stages of best", time, 1.15, None, "", "at most"),
        Record("right", float(right.mean()), None, None, "share", f"of {n}"),
        Record("right, the least sure fifth corrected", least, by_chance, None, "share",
               "a random fifth corrected"),
        Record("wrong among the least sure fifth", surely, among_all, None, "share", "among all"),
    ]  # fmt: skip
