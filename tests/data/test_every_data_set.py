"""What holds of every data set: ids, labels and images belong together, annotations stay apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml

from pipeline.engine.choices import instantiate, list_choices, read_choice
from pipeline.errors import UserError
from pipeline.protocols import AnnotatedDataSet, DataSet
from pipeline.protocols.data import HasBackgrounds, HasSeveralLabels
from pipeline.types import Example, Split
from tests import docs_workshop
from tests.data import archive_layouts, drawn_sets, hf_layouts, table_layouts, yolo_layouts

NEEDS_PACKAGE = {"huggingface": "datasets"}
DATA_SETS = [
    name
    for name in list_choices("data")
    if name not in NEEDS_PACKAGE or find_spec(NEEDS_PACKAGE[name]) is not None
]
SPLITS = get_args(Split)


def photos_with_test(root: Path) -> None:
    """Write photographs with a folder test/: one image of a class, one without."""
    docs_workshop.photos(root)
    label = sorted((root / "val").iterdir())[0].name
    for number, place in enumerate((f"test/{label}", "test")):
        docs_workshop.save(root / place / "later.jpg", number)


WSOL = {"root": "metadata", "images": "dataset", "size": "32"}

# The arguments that a data set needs, and what writes the files that it reads.
BUILDERS: dict[str, tuple[Callable[[Path], None] | None, dict[str, str]]] = {
    "shapes": (None, {"images": "40", "val_images": "6", "size": "32", "held_back": "0.3"}),
    "mosaics": (None, {"images": "40", "val_images": "6", "size": "32", "held_back": "0.3"}),
    "mnist": (lambda root: docs_workshop.digits(root / "MNIST/raw"), {"root": "."}),
    "cub": (docs_workshop.birds, {"root": ".", "size": "32"}),
    "folder": (photos_with_test, {"root": ".", "size": "[32,48]", "held_back": "0.3"}),
    "images": (docs_workshop.photos, {"paths": "train", "size": "32"}),
    "wsolevaluation": (drawn_sets.wsolevaluation, {**WSOL, "held_back": "0.3"}),
    "cubv2": (drawn_sets.wsolevaluation, WSOL),
    "ilsvrc": (drawn_sets.wsolevaluation, WSOL),
    "openimages30k": (drawn_sets.openimages, {**WSOL, "masks": "masks"}),
    "imagenet": (drawn_sets.imagenet, {"root": ".", "size": "32", "held_back": "0.3"}),
    "tiny_imagenet": (drawn_sets.tiny_imagenet, {"root": ".", "size": "32"}),
    "pets": (drawn_sets.pets, {"root": ".", "size": "32"}),
    "stanford_dogs": (drawn_sets.stanford_dogs, {"root": ".", "size": "32"}),
    "cars": (drawn_sets.cars, {"root": ".", "size": "32"}),
    "aircraft": (drawn_sets.aircraft, {"root": ".", "size": "32"}),
    "caltech101": (drawn_sets.caltech101, {"root": ".", "size": "32"}),
    "voc": (drawn_sets.voc, {"root": ".", "size": "32", "held_back": "0.3"}),
    "coco": (drawn_sets.coco, {"root": ".", "size": "32", "held_back": "0.3"}),
    "table": (
        table_layouts.write_photos,
        {"table": "labels.csv", "root": "photos", "size": "[32,48]", "held_back": "0.3"},
    ),
    "huggingface": (hf_layouts.write_saved, {"name": ".", "size": "32", "held_back": "0.3"}),
    "webdataset": (archive_layouts.write_shards, {"shards": ".", "size": "32", "held_back": "0.3"}),
    "yolo": (yolo_layouts.write_shapes, {"root": ".", "size": "32", "held_back": "0.3"}),
}


def test_every_choice_has_a_builder() -> None:
    assert {*BUILDERS} == {*list_choices("data")}


@pytest.mark.parametrize(("name", "package"), NEEDS_PACKAGE.items())
def test_a_choice_that_needs_a_package_is_tested_where_it_is(name: str, package: str) -> None:
    if name not in DATA_SETS:
        pytest.skip(f"{package} is not installed: data={name} is not tested here")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep indexes of folders in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of each data set, twice: what is the same in two places is no path."""
    folder = tmp_path_factory.mktemp("data")
    for name in DATA_SETS:
        write, _ = BUILDERS[name]
        (folder / name).mkdir()
        if write is not None:
            write(folder / name)
    return {name: folder / name for name in BUILDERS}


def build(name: str, root: Path, **options: str) -> DataSet:
    """The data set; arguments are as they stand on a command line."""
    texts = {**BUILDERS[name][1], **options}
    given: dict[str, Any] = {key: yaml.safe_load(text) for key, text in texts.items()}
    for key in ("root", "paths", "images", "masks", "table", "shards", "name"):
        if isinstance(given.get(key), str):
            given[key] = str(root / given[key])
    data: DataSet = instantiate("data", {**read_choice("data", name), **given})
    return data


@pytest.fixture(params=DATA_SETS)
def data(request: pytest.FixtureRequest, roots: dict[str, Path]) -> DataSet:
    return build(request.param, roots[request.param])


def test_ids_are_unique_and_have_a_label_each(data: DataSet) -> None:
    assert len(data.ids("all"))
    for split in SPLITS:
        ids, labels = data.ids(split), data.labels(split)
        assert len(set(ids)) == len(ids) == len(labels)
        assert np.issubdtype(labels.dtype, np.integer)
        low = 0 if data.classes and split not in ("test", "all") else -1
        is_background = data.backgrounds(split) if isinstance(data, HasBackgrounds) else labels < -1
        assert (labels[is_background] == -1).all(), split
        known = labels[~is_background]
        assert ((known >= low) & (known < max(len(data.classes), 0))).all(), split
    assert len(set(data.classes)) == len(data.classes)


@pytest.mark.parametrize("name", ["voc", "coco", "mosaics"])
def test_label_sets_have_the_first_label_of_each_image(name: str, roots: dict[str, Path]) -> None:
    options = {"several_classes": "true"} if name == "mosaics" else {}
    data = build(name, roots[name], **options)
    assert isinstance(data, HasSeveralLabels)
    assert data.is_multi_label
    assert data.label_sets("train").sum(1).max() > 1
    for split in SPLITS:
        sets = data.label_sets(split)
        assert sets.dtype == bool
        assert sets.shape == (len(data.ids(split)), len(data.classes))
        first = np.where(sets.any(1), sets.argmax(1), -1)
        assert (first == data.labels(split)).all()
    assert isinstance(data, AnnotatedDataSet)
    for split in ("train", "val"):
        for id, known in data.truth(split).items():
            labelled = np.flatnonzero(data.label_sets(split)[list(data.ids(split)).index(id)])
            assert known.classes is not None
            assert {*known.classes.tolist()} <= {*labelled.tolist()}, id


def test_splits_are_disjoint_and_all_holds_them(data: DataSet) -> None:
    apart = [set(data.ids(split)) for split in ("train", "held_back", "calibration", "val", "test")]
    for n, one in enumerate(apart):
        for other in apart[n + 1 :]:
            assert not one & other
    whole = set(data.ids("all"))
    for split in ("train", "held_back", "val", "test"):
        assert set(data.ids(split)) <= whole, split


def test_images_are_of_the_size_that_is_asked_for(data: DataSet) -> None:
    for split in SPLITS:
        for position in range(len(data.ids(split)))[:2]:
            plain = data.example(split, position)
            assert plain.id == data.ids(split)[position]
            assert plain.label == data.labels(split)[position]
            if isinstance(data, HasSeveralLabels):
                assert plain.labels == tuple(np.flatnonzero(data.label_sets(split)[position]))
            assert plain.image.dtype == np.uint8
            assert plain.image.ndim == 3
            assert plain.image.shape == (*plain.size, 3)
            assert plain.image.std() > 0
            scaled = data.example(split, position, at=(20, 30))
            assert scaled.image.shape == (20, 30, 3)
            assert scaled.size == plain.size, "the size is that of the original"
            larger = data.example(split, position, at_least=(40, 40))
            height, width = larger.image.shape[:2]
            assert min(height, width) >= 40
            assert abs(height / width - plain.size[0] / plain.size[1]) < 0.1
            again = data.example(split, position)
            np.testing.assert_array_equal(again.image, plain.image)


def test_an_image_carries_no_box(data: DataSet) -> None:
    names = {"id", "image", "label", "size", "is_first_of_several", "has_own_range"}
    names.add("other_labels")
    assert {field.name for field in fields(Example)} == names
    assert type(data.example("all", 0)) is Example


@pytest.mark.parametrize("name", DATA_SETS)
def test_fingerprint_is_the_same_again_and_holds_no_path(name: str, roots: dict[str, Path]) -> None:
    first, second = (build(name, roots[name]) for _ in range(2))
    for split in SPLITS:
        assert first.fingerprint(split) == second.fingerprint(split)
        assert str(roots[name]) not in first.fingerprint(split)
    assert first.size == second.size
    assert len(first.size) == 2
    used = [split for split in SPLITS if split in ("train", "val") and len(first.ids(split))]
    assert len({first.fingerprint(split) for split in used}) == len(used)


def test_names_for_coco_files(data: DataSet) -> None:
    for split in SPLITS:
        ids, names = data.ids(split), data.coco_names(split)
        assert len(names.image_ids) == len(names.file_names) == len(ids)
        assert len(set(names.image_ids)) == len(ids)
        assert len(set(names.category_ids)) == len(names.category_ids) == len(data.classes)
    assert all(isinstance(note, str) for note in data.notes())


def test_annotations_are_asked_for_apart_and_lie_in_their_images(data: DataSet) -> None:
    if not isinstance(data, AnnotatedDataSet):
        return
    for split in SPLITS:
        assert data.truth_fingerprint(split) == data.truth_fingerprint(split)
        truth, place = data.truth(split), {id: n for n, id in enumerate(data.ids(split))}
        assert truth.keys() <= place.keys()
        for id, known in list(truth.items())[:4]:
            assert known.id == id
            assert known.label == data.labels(split)[place[id]]
            assert known.size == data.example(split, place[id]).size
            x0, y0, x1, y1 = known.boxes.T
            assert (x0 >= 0).all()
            assert (y0 >= 0).all()
            assert (x1 <= known.size[1]).all()
            assert (y1 <= known.size[0]).all()
    assert all(isinstance(note, str) for note in data.truth_notes())


@pytest.mark.parametrize("name", [name for name in DATA_SETS if "size" in BUILDERS[name][1]])
def test_wrong_size_is_refused(name: str, roots: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="size"):
        build(name, roots[name], size="-1")
