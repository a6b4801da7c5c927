"""data.negatives: classes without an object are learned, have no box, and measure false alarms."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline.data.folder import Folder
from pipeline.formats.arrays import read_arrays
from pipeline.results.boxes import iterate_boxes
from pipeline.results.confidence import load_ranking
from pipeline.results.maps import load_classification
from pipeline.results.shards import list_shards
from tests.conftest import Cli

SMALL = ("data.size=64", "train.epochs=20", "runtime.shard=8", "model=small")


@pytest.fixture
def root(folder_of_images: Path) -> Path:
    """The folder with a third class: grey without a square, but for two images of val."""
    rng = np.random.default_rng(1)
    for split, count in (("train", 12), ("val", 6)):
        (folder_of_images / split / "empty").mkdir()
        for n in range(count):
            image = rng.integers(90, 130, (48, 64, 3)).astype(np.uint8)
            if split == "val" and n < 2:  # the network takes these for red
                image[10:34, 20:44] = 220, 30, 30
            Image.fromarray(image).save(folder_of_images / split / "empty" / f"{n}.png")
    return folder_of_images


def run(cli: Cli, root: Path, *more: str) -> Path:
    given = ("+experiment=cam", "data=folder", f"data.root={root}", *SMALL, *more)
    assert cli(*given, "data.negatives=[empty]") == 0
    return Path("outputs/latest").resolve()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def expected_alarms(folder: Path, ids: list[str], empty: int) -> list[float]:
    """The confidence of the first box where an object is predicted, of each empty image."""
    seen = load_classification(folder / "stages/explain")
    top = dict(zip(seen.image.tolist(), seen.top[:, 0].tolist(), strict=True))
    confidences = load_ranking(folder / "stages/rank")[0]
    first = {
        position: float(boxes.confidences[0])
        for position, boxes in iterate_boxes(folder / "stages/localize", ids, confidences)
        if boxes.confidences is not None and len(boxes.confidences)
    }
    return [first[n] if top[n] != empty else 0.0 for n, id in enumerate(ids) if "/empty/" in id]


def test_no_box_no_category_and_false_alarms(cli: Cli, root: Path) -> None:
    folder = run(cli, root)
    found = read(folder / "predictions.json")
    assert [category["name"] for category in found["categories"]] == ["blue", "red"]
    assert [category["id"] for category in found["categories"]] == [1, 3]
    name = {image["id"]: image["file_name"] for image in found["images"]}
    boxes = Counter(name[box["image_id"]].split("/")[1] for box in found["annotations"])
    assert len(found["images"]) == 14
    assert boxes["empty"] == 0
    assert boxes["red"] >= 4
    assert boxes["blue"] >= 4
    assert {box["category_id"] for box in read(folder / "boxes.json")} == {1, 3}
    ids = [image["file_name"] for image in found["images"]]

    # Maps of an empty image are of an object all the same: false alarms are measured on them.
    classes = read(next(Path("outputs/train").glob("*/card.json")))
    assert classes["classes"] == ["blue", "empty", "red"]
    assert classes["negatives"] == ["empty"]
    for shard in list_shards(folder / "stages/explain"):
        assert 1 not in read_arrays(shard)[0]["row_class"]
    alarms = np.array(expected_alarms(folder, ids, empty=1))
    assert len(alarms) == 6
    assert (alarms > 0).tolist() == [True, True, False, False, False, False]
    scores = {
        record["name"]: record
        for record in read(folder / "metrics.json")
        if record["group"] is None
    }
    for key, count in (
        ("false_alarms", (alarms >= 0.5).sum()),
        ("false_alarms_any", (alarms > 0).sum()),
    ):
        assert scores[key]["n"] == 6
        assert scores[key]["value"] == pytest.approx(count / 6)
    assert scores["classification_top1"]["n"] == 14

    notes = [note["text"] for note in read(folder / "notes.json")]
    assert any(note.startswith("localize: 6 images") and "no box" in note for note in notes)
    assert any("of 6 images without an object" in note for note in notes)
    ranks = {image["file_name"]: image["review_rank"] for image in found["images"]}
    assert sorted(ranks.values()) == list(range(1, 15))
    assert min(rank for id, rank in ranks.items() if "/empty/" in id) == 9
    sampled = [image["file_name"] for image in found["images"] if image.get("review_sample")]
    assert len(sampled) == 8
    assert not any("/empty/" in id for id in sampled)


def test_a_prediction_of_such_a_class_has_no_box(cli: Cli, root: Path) -> None:
    run(cli, root, "stages=[train,explain,localize]")
    (trained,) = Path("outputs/train").iterdir()
    given = (
        "+experiment=predict",
        f"checkpoint={trained}",
        f"images={root / 'val'}",
        "segmenter=threshold",
    )
    assert cli(*given, "saliency=cam") == 0
    folder = Path("outputs/latest").resolve()
    found = read(folder / "predictions.json")
    assert [category["name"] for category in found["categories"]] == ["blue", "red"]
    seen = load_classification(folder / "stages/explain")
    empty = set(seen.image[seen.top[:, 0] == 1].tolist())
    boxed = {box["image_id"] - 1 for box in found["annotations"]}
    assert boxed == set(range(14)) - empty
    texts = [note["text"] for note in read(folder / "notes.json")]
    assert any(note.startswith(f"localize: {len(empty)} image") for note in texts) == bool(empty)

    predict = pipeline.load(trained)
    for label in ("empty", "red"):
        (result,) = predict(root / "val/red/0.png", label)
        assert result.label == label
        assert (len(result.boxes) == 0) == (label == "empty")
        assert len(result.confidences) == len(result.boxes)


def test_no_pseudo_label(cli: Cli, root: Path) -> None:
    run(cli, root, "stages=[train,refine]", "saliency=foreground", "refine.steps=2")
    (card,) = Path("outputs/refine").glob("*/card.json")
    learned = Folder(str(root)).ids("train")
    assert len(learned) == 32
    assert read(card)["refine"]["images"] == sum("/empty/" not in id for id in learned)


def test_a_method_is_fitted_to_objects_alone(cli: Cli, root: Path) -> None:
    run(cli, root, "stages=[train,explain]", "saliency=ddt", "train.epochs=1")
    (sums,) = Path("outputs/statistics").glob("*/statistics.safetensors")
    cells = 16 * 16  # of the maps of the embedded network at 64 pixels
    learned = Folder(str(root)).ids("train")
    assert read_arrays(sums)[0]["0/count"] == cells * sum("/empty/" not in id for id in learned)


def test_a_name_of_no_class(cli: Cli, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("+experiment=cam", "data=folder", f"data.root={root}", *SMALL)
    assert cli(*given, "data.negatives=[emty]") == 2
    assert "data.negatives=emty: no such class; did you mean 'empty'" in capsys.readouterr().err
    assert not Path("outputs/train").exists()
