"""Images of test/: boxes with explain.split=all and explain.split=test, and no score."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats.arrays import read_arrays
from pipeline.results.shards import list_shards
from tests.conftest import Cli

SMALL = ("data.size=64", "train.epochs=1", "runtime.shard=8", "model=small")


@pytest.fixture
def root(folder_of_images: Path) -> Path:
    """The folder with test/: an image of a class, and two without."""
    for source, target in (("red/0", "red/0"), ("blue/1", "1"), ("red/2", "green/2")):
        path = folder_of_images / f"test/{target}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder_of_images / f"val/{source}.png", path)
    boxes = {
        "images": [
            {"id": n, "file_name": f"{name}/{n % 4}.png", "width": 64, "height": 48}
            for n, name in enumerate(["blue"] * 4 + ["red"] * 4)
        ],
        "annotations": [
            {"id": n + 1, "image_id": n, "category_id": n // 4, "bbox": [5, 5, 24, 24]}
            for n in range(8)
        ],
        "categories": [{"id": 0, "name": "blue"}, {"id": 1, "name": "red"}],
    }
    (folder_of_images / "instances_val.json").write_text(json.dumps(boxes))
    return folder_of_images


def run(cli: Cli, root: Path, *more: str) -> Path:
    given = ("+experiment=cam", "data=folder", f"data.root={root}", *SMALL, *more)
    assert cli(*given) == 0
    return Path("outputs/latest").resolve()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_they_get_boxes_with_all_and_no_score(cli: Cli, root: Path) -> None:
    folder = run(cli, root, "explain.split=all")
    ids = [image["file_name"] for image in read(folder / "predictions.json")["images"]]
    assert Counter(id.split("/")[0] for id in ids)["test"] == 3
    scored = {record["n"] for record in read(folder / "metrics.json") if record["group"] is None}
    assert max(scored) == 8
    rows = [
        (position, label, predicted)
        for shard in list_shards(folder / "stages/explain")
        for arrays in [read_arrays(shard)[0]]
        for position, label, predicted in zip(
            arrays["row_image"], arrays["row_class"], arrays["row_predicted"], strict=True
        )
    ]
    of_test = {ids[position]: (label, predicted) for position, label, predicted in rows
               if ids[position].startswith("test/")}  # fmt: skip
    assert len(of_test) == 3
    assert of_test["test/red/0.png"][0] == 1
    for id in ("test/1.png", "test/green/2.png"):
        label, predicted = of_test[id]
        assert label == predicted
    notes = [note["text"] for note in read(folder / "notes.json") if note["stage"] == "explain"]
    assert notes == [
        "explain: 2 images ('test/1.png', 'test/green/2.png') of 35 without label: maps and boxes "
        "are of the predicted class, as explain.target=true has no other"
    ]


def test_they_get_boxes_alone(cli: Cli, root: Path) -> None:
    folder = run(cli, root, "explain.split=test")
    images = read(folder / "predictions.json")["images"]
    assert sorted(image["file_name"] for image in images) == [
        "test/1.png", "test/green/2.png", "test/red/0.png",
    ]  # fmt: skip
    measured = [record for record in read(folder / "metrics.json") if record["n"]]
    assert measured == []


def test_without_them_it_is_refused_before_training(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", *SMALL)
    assert cli(*given, "explain.split=test") == 2
    assert "explain.split=test: no image of the data set is in it" in capsys.readouterr().err
    assert not Path("outputs/train").exists()
