"""data=huggingface reads what `datasets` has on disk; skipped where that is not installed."""

from __future__ import annotations

import multiprocessing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.arrow_files import choose_columns
from pipeline.data.huggingface import HuggingFace
from pipeline.errors import UserError
from pipeline.formats import photo
from pipeline.types import Split
from tests.data.archive_layouts import DRAWN, noise, to_bytes
from tests.data.hf_layouts import write_saved

USED: tuple[Split, ...] = ("train", "val")
needs_datasets = pytest.mark.skipif(
    find_spec("datasets") is None, reason="datasets is not installed: label2box[huggingface]"
)


def save(root: Path, features: dict[str, Any], rows: dict[str, list[Any]]) -> str:
    import datasets

    table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    table.save_to_disk(str(root))
    return str(root)


def images(count: int) -> list[dict[str, Any]]:
    return [{"bytes": to_bytes(noise(n)), "path": None} for n in range(count)]


@needs_datasets
def test_the_drawn_set_is_read_from_disk(tmp_path: Path) -> None:
    write_saved(tmp_path)
    data = HuggingFace(str(tmp_path), held_back=0)
    assert data.classes == DRAWN.classes
    for split in USED:
        assert data.labels(split).tolist() == DRAWN.labels(split).tolist()
        for n in range(len(data.ids(split))):
            pixels = DRAWN.example(split, n).image
            np.testing.assert_array_equal(data.example(split, n).image, pixels)
    assert data.ids("train")[0] == "train-0/image/00000000.png"
    assert data.labels("test").tolist() == [-1]
    assert data.path("val", 0) is None
    again = HuggingFace(str(tmp_path), held_back=0)
    assert again.fingerprint("train") == data.fingerprint("train") != data.fingerprint("val")


@needs_datasets
def test_several_labels_of_a_list_of_classes(tmp_path: Path) -> None:
    import datasets

    labels = datasets.Sequence(datasets.ClassLabel(names=["cat", "dog", "owl"]))
    path = save(tmp_path / "a", {"photo": datasets.Image(), "tags": labels},
                {"photo": images(4), "tags": [[0], [1, 0], [], [2]]})  # fmt: skip
    with pytest.raises(UserError, match=r"data\.several=keep"):
        _ = HuggingFace(path).splits
    data = HuggingFace(path, several="keep", val=0, held_back=0)
    assert data.classes == ("cat", "dog", "owl")
    assert data.label_sets("train").astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert len(data.ids("test")) == 1
    left = HuggingFace(path, several="leave_out", val=0, held_back=0)
    assert left.classes == ("cat", "owl")
    assert left.labels("train").tolist() == [0, 1]


@needs_datasets
def test_columns_are_found_by_feature_or_named(tmp_path: Path) -> None:
    import datasets

    features = {
        "image": datasets.Image(), "mask": datasets.Image(), "text": datasets.Value("string"),
        "coarse": datasets.ClassLabel(names=["x"]), "fine": datasets.ClassLabel(names=["a", "b"]),
    }  # fmt: skip
    rows: dict[str, list[Any]] = {
        "image": images(2), "mask": images(2), "text": ["p", "q"], "coarse": [0, 0], "fine": [1, 0],
    }  # fmt: skip
    path = save(tmp_path / "a", features, rows)
    with pytest.raises(UserError, match=r"several columns .* name one by data\.image_column"):
        _ = HuggingFace(path).splits
    with pytest.raises(UserError, match=r"several columns .* name one by data\.label_column"):
        _ = HuggingFace(path, image_column="image").splits
    with pytest.raises(UserError, match=r"data\.label_column=gone: .* has no such column"):
        _ = HuggingFace(path, image_column="image", label_column="gone").splits
    data = HuggingFace(path, image_column="mask", label_column="fine", val=0, held_back=0)
    assert data.classes == ("a", "b")
    assert data.labels("train").tolist() == [1, 0]
    text = HuggingFace(path, image_column="mask", label_column="text", val=0, held_back=0)
    assert text.classes == ("p", "q")


@needs_datasets
def test_rows_without_an_image_and_files_beside(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "b.png").write_bytes(to_bytes(noise(5)))
    pairs = [{"bytes": None, "path": str(tmp_path / "b.png")}, None, images(1)[0]]
    path = save(tmp_path / "a", {"image": datasets.Image(), "label": datasets.Value("int64")},
                {"image": pairs, "label": [3, 4, 4]})  # fmt: skip
    data = HuggingFace(path, val=0, held_back=0)
    assert data.classes == ("3", "4")
    np.testing.assert_array_equal(data.example("train", 0).image, noise(5))
    assert "train-0: 1 row ('00000001') without an image: left out" in data.notes()


def sum_image(location: str) -> int:
    return int(photo.read(location).pixels.sum())


@needs_datasets
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_read_rows_without_the_library(tmp_path: Path, start: str) -> None:
    write_saved(tmp_path)
    data = HuggingFace(str(tmp_path), held_back=0)
    locations = [file.path for file in data.splits.train.files]
    expected = [sum_image(location) for location in locations]
    with multiprocessing.get_context(start).Pool(2) as pool:
        assert pool.map(sum_image, locations) == expected
        pool.close()  # they end by themselves: a signal would wait for coverage's locks
        pool.join()


@needs_datasets
def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.name=.*cannot load it"):
        _ = HuggingFace(str(tmp_path / "gone")).splits


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.huggingface.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'label2box\[huggingface\]'"):
        HuggingFace("owner/name")


def test_no_column_of_an_image() -> None:
    with pytest.raises(UserError, match=r"a: no column of the feature Image"):
        choose_columns({"label": 3}, None, None, "a")
