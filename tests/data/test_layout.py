"""layout: which folders are splits, and what becomes of the images beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.folder import Folder
from pipeline.data.layout import guess_split, read_layout
from pipeline.data.split_names import find_split_part, is_numbered_part
from pipeline.errors import UserError

Fill = Callable[..., Folder]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Write files that are named as images into folders, and return the data set."""

    def write(*folders: str, count: int = 5, **options: str) -> Folder:
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for n in range(count):
                (tmp_path / folder / f"{n}.png").touch()
        return Folder(str(tmp_path), **options)  # type: ignore[arg-type]

    return write


def splits(*names: str) -> list[str]:
    return [f"{name}/{label}" for name in names for label in ("cat", "dog")]


def counts(data: Folder) -> tuple[int, int]:
    """Return the number of images that are trained on, and that are scored."""
    return len(data.ids("train")) + len(data.ids("held_back")), len(data.ids("val"))


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "dev"), ("train", "Testing"), ("train", "eval_set"), ("training", "test"),
     ("Training_Set", "Test_Set"), ("training", "dev"), ("TRAIN", "Validation"),
     ("train", "validation_set")],
)  # fmt: skip
def test_names_of_the_splits(fill: Fill, train: str, val: str) -> None:
    data = fill(*splits(train, val))
    assert (data.classes, counts(data)) == (("cat", "dog"), (10, 10))
    usual = ("train", "val", "validation", "test")
    assert data.notes() == [
        f"{name}: read as {split}/, as there is no folder of that name"
        for split, name in (("train", train), ("val", val))
        if name.lower() not in usual
    ]


def test_usual_names_come_first(fill: Fill) -> None:
    data = fill(*splits("train", "dev", "test", "training"))
    assert (counts(data), data.ids("val")[0]) == ((10, 10), "test/cat/0.png")
    assert data.notes() == [
        "dev (10 images): in no split, not used; test is scored, data.val_folder=dev scores it "
        "instead",
        "training (10 images): in no split, not used; train is trained on; move its class folders "
        "there",
    ]


def test_training_alone(fill: Fill) -> None:
    data = fill(*splits("training"))
    assert data.classes == ("cat", "dog")
    assert sum(counts(data)) == 10


@pytest.mark.parametrize(
    ("folders", "note"),
    [
        (
            splits("train", "val", "extra"),
            "extra (10 images): in no split, not used; val is scored, data.val_folder=extra scores "
            "it instead",
        ),
        (
            [*splits("train", "val", "dev"), "dev/fox", "dev/owl"],
            "dev (20 images; 2 classes ('fox', 'owl') in no split): in no split, not used; val is "
            "scored, data.val_folder=dev scores it instead",
        ),
        (
            splits("trian", "val"),
            "trian (10 images): in no split, not used; is it meant to be train? rename it",
        ),
        (
            [*splits("train", "val"), "bird", "fox/red"],
            "bird (5 images), fox (5 images): in no split, not used; class folders are to be in "
            "train/ or val/: move it there",
        ),
        (
            splits("train", "Train", "val"),
            "train (10 images): in no split, not used; Train is trained on; move its class folders "
            "there",
        ),
    ],
)
def test_images_that_no_split_uses(fill: Fill, folders: list[str], note: str) -> None:
    data = fill(*folders)
    assert data.classes == ("cat", "dog")
    assert [str(each) for each in data.notes()] == [note]
    used = len(data.ids("all"))
    assert used + data.notes()[0].total == 5 * len(folders)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("folders", "note"),
    [
        (
            splits("vaild"),
            "vaild (10 images): in no split, not used; is it meant to be val? rename it, or give "
            "data.val_folder=vaild",
        ),
        (
            ["eval"],
            "eval (5 images): in no split, not used; is it meant to be val? its images are to be "
            "in folders of the classes",
        ),
        (
            ["dev/a", "dev/b"],
            "dev (10 images; 2 classes ('a', 'b') in no split): in no split, not used; is it meant "
            "to be val? its images are to be in folders of the classes",
        ),
    ],
)
def test_no_folder_is_scored(fill: Fill, folders: list[str], note: str) -> None:
    data = fill(*splits("train"), *folders)
    (unused, share) = data.notes()
    assert unused == note
    assert share == (
        f"no val/: {counts(data)[1]} of the 10 images of train/, chosen by hash of their names, "
        "are scored and not trained on (data.val=0.2)"
    )
    assert sum(counts(data)) == 10


def test_val_without_images(fill: Fill, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    data = fill(*splits("train"))
    assert data.notes()[0] == "val: no class folder in it, so it is not the scored split"
    assert counts(data)[1] > 0
    (tmp_path / "val/cat").mkdir()
    data = fill(*splits("train"))
    assert counts(data) == (10, 0)
    assert data.notes() == [
        "1 class folder ('val/cat'): no image in it, left out",
        "val: no image in its class folders, so nothing is scored; fill or remove it",
    ]


def test_the_folder_that_is_scored(fill: Fill) -> None:
    data = fill(*splits("train", "val", "extra"), val_folder="extra")
    assert data.ids("val")[0] == "extra/cat/0.png"
    assert str(data.notes()[0]) == (
        "val (10 images): in no split, not used; extra is scored, data.val_folder=val scores it "
        "instead"
    )
    with pytest.raises(UserError, match=r"val_folder=extra: no such folder.*data\.calibration"):
        read_layout(Path(data.root), "extra", "extra")


@pytest.mark.parametrize(
    "folders",
    [splits("trian", "vaild"), splits("train2017", "val2017"), ["train", "dev"], ["train", "val"],
     ["cat", "dog", *splits("eval")], ["cat", "dog", *splits("vaild")]],
)  # fmt: skip
def test_splits_that_would_be_classes_are_refused(fill: Fill, folders: list[str]) -> None:
    with pytest.raises(UserError, match=r"named as .*would be .*expected train/<class>/<image>"):
        _ = fill(*folders).classes


@pytest.mark.parametrize(
    ("folders", "classes", "note"),
    [
        (["bus", "car", "train"], ("bus", "car", "train"), None),
        (["train", "tram"], ("train", "tram"), None),
        (["dev", "ops"], ("dev", "ops"), None),
        (["brain/healthy", "lung/healthy"], ("brain", "lung"), None),
        (["cat", "dog", *splits("copy")], ("cat", "copy", "dog"), "if it is no class, move it out"),
        (splits("trian", "more"), ("more", "trian"), "is it meant to be train or val?"),
        (
            ["cat/train", "cat/val", "dog/train"],
            ("cat", "dog"),
            "1 class folder ('cat') with folders called train and val inside",
        ),
        (splits("photos/train", "photos/val"), ("photos",), "photos"),
    ],
)
def test_classes_whose_names_are_like_splits(
    fill: Fill, folders: list[str], classes: tuple[str, ...], note: str | None
) -> None:
    data = fill(*folders)
    assert data.classes == classes
    assert len(data.ids("all")) == 5 * len(folders)
    if note is None:
        assert data.notes() == []
    else:
        assert note in data.notes()[0]


def test_classes_in_one_split_alone(fill: Fill) -> None:
    data = fill(*splits("train", "val"), "train/Sea lion", "val/sea lion", "train/owl")
    assert data.notes() == [
        "1 class ('sea lion') with images in val but none in train: not learned; is 'sea lion' "
        "meant to be 'Sea lion'? rename the folder",
        "2 classes ('Sea lion', 'owl') with images in train but none in val: not scored",
    ]


def test_class_folders_beside_val_alone(fill: Fill) -> None:
    data = fill("cat", "dog", *splits("val"))
    assert counts(data) == (0, 10)
    assert str(data.notes()[0]).startswith("cat (5 images), dog (5 images): in no split")


@pytest.mark.parametrize(
    ("name", "split"),
    [("vaild", "val"), ("validaton", "val"), ("tets", "val"), ("test-2", "val"), ("dev", "val"),
     ("trian", "train"), ("train_images", "train"), ("Trainset", "train"), ("brain", None),
     ("nest", None), ("robin", None), ("", None)],
)  # fmt: skip
def test_what_a_name_may_be_meant_for(name: str, split: str | None) -> None:
    assert guess_split(name) == split


def test_val_without_class_folders(fill: Fill) -> None:
    data = fill(*splits("train"), "val")
    assert str(data.notes()[0]) == (
        "val (5 images): in no split, not used; its images are to be in folders of the classes: "
        "val/<class>/<image>"
    )


@pytest.mark.parametrize(
    ("train", "val", "word"),
    [("seg_train", "seg_test", "test"), ("images_train", "images_val", "val"),
     ("X_train", "X_test", "test"), ("01_train", "02_val", "val"), ("trainA", "testA", "test"),
     ("split_train", "split_val", "val"), ("seg_train/seg_train", "seg_test/seg_test", "test"),
     ("my-training-set", "my-holdout-set", "val")],
)  # fmt: skip
def test_names_that_hold_the_name_of_a_split(fill: Fill, train: str, val: str, word: str) -> None:
    data = fill(*splits(train, val), "seg_pred/seg_pred")
    with pytest.raises(UserError, match="would be classes; expected train/<class>/<image>") as why:
        _ = data.classes
    assert f"{train!r} to train" in str(why.value)
    assert f"{val!r} to {word}" in str(why.value)


@pytest.mark.parametrize("names", [("fold0", "fold1", "fold2"), ("part_1", "part_2")])
def test_parts_of_a_cross_validation(fill: Fill, names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=rf"move the class folders in '{names[-1]}' into val/"):
        _ = fill(*splits(*names)).classes


@pytest.mark.parametrize(
    "names",
    [("red", "blue"), ("learn", "check"), ("fold_mountain", "rock"), ("station", "train_station")],
)
def test_classes_with_folders_of_the_same_names(fill: Fill, names: tuple[str, ...]) -> None:
    data = fill(*splits(*names))
    assert data.classes == tuple(sorted(names))
    (note,) = data.notes()
    assert "if they are splits, rename them to train and val" in note or "meant to be train" in note


def test_a_split_that_holds_itself(fill: Fill, tmp_path: Path) -> None:
    with pytest.raises(UserError) as why:
        _ = fill(*splits("train/train", "val/val")).classes
    assert str(why.value) == (
        f"data.root={tmp_path}: train/train, with 2 folders ('cat', 'dog'), would be a class; "
        "expected train/<class>/<image> and val/<class>/<image>: move the folders in train/train "
        "into train"
    )


@pytest.mark.parametrize("place", ["", "train/"])
def test_a_folder_of_yolo_is_told_so(fill: Fill, tmp_path: Path, place: str) -> None:
    (tmp_path / f"{place}labels").mkdir(parents=True)
    (tmp_path / f"{place}labels/0.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    data = fill(f"{place}images")
    with pytest.raises(UserError, match=rf"data=yolo data\.root={tmp_path}$"):
        data.ids("train")


def test_a_single_folder_of_all_scored_images(fill: Fill) -> None:
    data = fill("train/cat/images", "train/dog/images", "val/images")
    with pytest.raises(UserError, match=r"val/images is no class of train.*val/<class>/<image>"):
        _ = data.classes


@pytest.mark.parametrize(
    ("name", "split", "is_part"),
    [("seg_train", "train", False), ("valTest", "val", False), ("constrain", None, False),
     ("latest", None, False), ("train2017", "train", False), ("split_10", None, True),
     ("fold", None, False), ("mountain fold 3", None, True)],
)  # fmt: skip
def test_parts_of_a_name(name: str, split: str | None, is_part: bool) -> None:
    assert (find_split_part(name), is_numbered_part(name)) == (split, is_part)
