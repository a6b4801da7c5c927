"""The embedded set as PNG files in each layout gives the numbers of data=shapes, scaled alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate

from pipeline.data.mosaics import Mosaics
from pipeline.data.shapes import Shapes
from pipeline.protocols import AnnotatedDataSet
from tests.conftest import ROOT, Cli
from tests.data import lossless_layouts
from tests.data.lossless_layouts import PARTS, VOC_NAMES, Drawn

Write = Callable[[Path, Drawn], dict[str, Any]]
SHAPES: dict[str, Any] = {
    "images": 20, "val_images": 12, "held_back": 0, "seed": 3, "size": 64, "scaling": "file"
}  # fmt: skip
MOSAICS: dict[str, Any] = {**SHAPES, "val_images": 8, "size": 88}
RUN = ("+experiment=cam", "model=small", "train.epochs=1", "train.batch=8", "runtime.workers=0",
       "data.held_back=0", "runtime.device=cpu")  # fmt: skip
TRAINED_ANEW = (
    "table_csv",
    "wsolevaluation",
)  # in their order of classes and images: that of shapes
SIZES = (None, (64, 64), (88, 88), (200, 210))  # that images are compared at
# Numbers follow from images, labels and boxes, which are compared of all layouts: a run for each
# reader is enough. VOC has none: its twenty classes are fixed, so no classifier of ten shapes fits.
MEASURED = ("folder", "folder_in_zip", "imagenet", "table_csv", "table_of_0_and_1",
            "wsolevaluation", "yolo", "webdataset")  # fmt: skip
MEASURED_SEVERAL = ("coco",)


@dataclass(frozen=True)
class Reference:
    """The drawn data set, and a run on it.

    Attributes:
        drawn: The data set.
        folder: Where it was run.
        run: The folder of the run.
        numbers: What evaluate says.
    """

    drawn: Drawn
    folder: Path
    run: Path
    numbers: dict[str, tuple[float, int]]


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


def run_reference(folder: Path, data: Shapes, *options: str) -> Reference:
    """Train on drawn images, and measure."""
    from pipeline.__main__ import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stages = "stages=[train,explain,localize,evaluate]"
        patch.setattr(sys, "argv", ["pipeline", *RUN, stages, *options])
        main()
    run = (folder / "outputs/latest").resolve()
    return Reference(Drawn(data), folder, run, read_numbers(run))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    options = [f"data.{name}={value}" for name, value in SHAPES.items()]
    return run_reference(tmp_path_factory.mktemp("shapes"), Shapes(**SHAPES), *options)


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    given = {**MOSAICS, "several_classes": True}
    options = ["data=mosaics", *(f"data.{name}={value}" for name, value in given.items())]
    return run_reference(tmp_path_factory.mktemp("mosaics"), Mosaics(**given), *options)


def read_back(options: dict[str, Any], size: int) -> AnnotatedDataSet:
    """Return the data set that data=NAME with these options is."""
    given = {name: value for name, value in options.items() if name != "data"}
    text = (ROOT / f"conf/data/{options['data']}.yaml").read_text()
    (target,) = (line.split(": ")[1] for line in text.splitlines() if line.startswith("_target_"))
    data: AnnotatedDataSet = instantiate(
        {"_target_": target, **given, "size": size, "held_back": 0}
    )
    return data


def assert_same_data(data: AnnotatedDataSet, drawn: Drawn, names: tuple[str, ...]) -> None:
    """Compare images, scaled and not, labels, splits and boxes."""
    for split in PARTS:
        ours = {Path(id).stem: position for position, id in enumerate(data.ids(split))}
        items = [item for item in drawn.items if item.split == split]
        assert sorted(ours) == sorted(item.stem for item in items), split
        truth = {Path(id).stem: known for id, known in data.truth(split).items()}
        for expected, item in zip(range(len(items)), items, strict=True):
            position = ours[item.stem]
            for at in SIZES:
                image = data.example(split, position, at=at)
                theirs = drawn.example(split, expected, at)
                assert np.array_equal(image.image, theirs.image), (item.stem, at)
                assert image.size == theirs.size
                named = {data.classes[label] for label in image.labels}
                assert named == {names[label] for label in item.labels}
            if split == "val":
                known = truth[item.stem]
                assert known.size == item.truth.size
                assert sort_boxes(known, data.classes) == sort_boxes(item.truth, names)


def sort_boxes(truth: Any, names: tuple[str, ...]) -> list[tuple[list[float], str]]:
    classes = [truth.label] * len(truth.boxes) if truth.classes is None else truth.classes
    return sorted((box.tolist(), names[n]) for box, n in zip(truth.boxes, classes, strict=True))


def assert_same_numbers(found: dict[str, tuple[float, int]], reference: Reference) -> int:
    """Compare all numbers of a run; return how many, as there may be no masks to measure."""
    for key, (value, count) in found.items():
        ours, n = reference.numbers[key]
        assert count == n, key
        assert value == pytest.approx(ours, abs=1e-9, nan_ok=True), key
    return len(found)


@pytest.mark.parametrize("write", lossless_layouts.ONE_CLASS, ids=lambda write: write.__name__)
def test_each_layout_gives_the_images_and_numbers_of_shapes(
    cli: Cli, shapes: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    if write is lossless_layouts.table_parquet:
        pytest.importorskip("pyarrow")
    options = write(tmp_path / "set", shapes.drawn)
    assert_same_data(read_back(options, 64), shapes.drawn, shapes.drawn.data.classes)
    if write.__name__ in MEASURED:
        has_masks = "boxes" in options
        compare_runs(cli, shapes, monkeypatch, write.__name__, {**options, "size": 64}, has_masks)


@pytest.mark.parametrize(
    "write", lossless_layouts.SEVERAL_CLASSES, ids=lambda write: write.__name__
)
def test_each_layout_gives_the_images_and_numbers_of_mosaics(
    cli: Cli, mosaics: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    options = write(tmp_path / "set", mosaics.drawn)
    if options["data"] not in ("coco", "voc"):
        options["several"] = "keep"
    names = VOC_NAMES if write is lossless_layouts.voc else mosaics.drawn.data.classes
    assert_same_data(read_back(options, 88), mosaics.drawn, names)
    if write.__name__ in MEASURED_SEVERAL:
        compare_runs(cli, mosaics, monkeypatch, write.__name__, {**options, "size": 88}, True)


def compare_runs(
    cli: Cli,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
    has_masks: bool,
) -> None:
    """Measure on files what was measured on drawn images, and compare all numbers."""
    monkeypatch.chdir(reference.folder)
    listed = [
        f"{key if key == 'data' else f'data.{key}'}={to_option(value)}"
        for key, value in options.items()
    ]
    given = ["stages=[train,explain,localize,evaluate]"] if name in TRAINED_ANEW else [
        "stages=[explain,localize,evaluate]", f"checkpoint={reference.run}"
    ]  # fmt: skip
    assert cli(*RUN, *given, *listed) == 0
    found = read_numbers((reference.folder / "outputs/latest").resolve())
    count = assert_same_numbers(found, reference)
    assert count == len(reference.numbers) if has_masks else count > 20
    measured = [value for value, _ in found.values() if value is not None]
    assert np.isfinite(measured).any()


def to_option(value: Any) -> str:
    """Return a value as the command line has it."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return f'"{value}"' if value == " " else str(value)
