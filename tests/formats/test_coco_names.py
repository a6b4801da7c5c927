"""Names of images as exporters write them: matched by the longest end that a single image has."""

from __future__ import annotations

import pytest

from pipeline.formats.coco_names import NameIndex

IDS = ["val/red/a.png", "val/blue/a.png", "val/red/b.JPG", "val/red/c d.png", "val/red/e.jpg",
       "val/red/1a2b3c4d-f.png", "val/red/ü%20.png"]  # fmt: skip
INDEX = NameIndex(IDS, [*IDS, "train/red/b.JPG", "train/green/g.png"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val\\red\\a.png", "val/red/a.png"),
        ("D:\\photos\\val\\red\\a.png", "val/red/a.png"),
        ("\\\\server\\share\\red\\a.png", "val/red/a.png"),
        ("/home/anna/photos/red/a.png", "val/red/a.png"),
        ("file:///home/anna/photos/blue/a.png", "val/blue/a.png"),
        ("../photos/red/a.png", "val/red/a.png"),
        ("s3://bucket/project/red/a.png", "val/red/a.png"),
        ("gs://bucket/red/a.png", "val/red/a.png"),
        ("https://account.blob.host/box/red/a.png?sv=2024&sig=a%2Fb", "val/red/a.png"),
        ("https://host/red/c%20d.png", "val/red/c d.png"),
        ("red/c%20d.png", "val/red/c d.png"),
        ("/data/local-files/?d=photos/red/a.png", "val/red/a.png"),
        ("/data/local-files/?d=photos%2Fred%2Fa.png", "val/red/a.png"),
        ("/data/upload/3/0123abcd-e.jpg", "val/red/e.jpg"),
        ("images/0123abcd-e.jpg", "val/red/e.jpg"),
        ("e_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg", "val/red/e.jpg"),
        ("1a2b3c4d-f.png", "val/red/1a2b3c4d-f.png"),
        ("val/red/b.jpg", "val/red/b.JPG"),
        ("images/b.jpg", "val/red/b.JPG"),
        ("E.JPEG", "val/red/e.jpg"),
        ("val/e.jpg", "val/red/e.jpg"),
        ("ü%20.png", "val/red/ü%20.png"),
        ("train/red/b.JPG", "train/red/b.JPG"),
    ],
)
def test_a_name_of_an_exporter_is_that_image(name: str, expected: str) -> None:
    assert INDEX.find(name).ids == [expected]


@pytest.mark.parametrize("name", ["a.png", "s3://bucket/a.png", "C:\\x\\a.png", "val/a.png"])
def test_a_name_that_several_images_end_in_has_them_all(name: str) -> None:
    assert INDEX.find(name).ids == ["val/red/a.png", "val/blue/a.png"]


@pytest.mark.parametrize(
    "name", ["x.png", "aa.png", "red", "", "/", "http://[", "s3://", "?", "%00",
             "train/red/e.jpg", "/home/anna/train/red/e.jpg", "green/e.jpg"],
)  # fmt: skip
def test_another_image_or_one_of_another_folder_is_none(name: str) -> None:
    assert not INDEX.find(name).ids


def test_upper_and_lower_case_count_where_both_are_there() -> None:
    index = NameIndex(["v/a.jpg", "v/a.JPG", "v/B.jpg"])
    assert index.find("/x/a.JPG").ids == ["v/a.JPG"]
    assert len(index.find("/x/A.jpg").ids) == 2
    assert index.find("b.JPG").ids == ["v/B.jpg"]


def test_what_stands_there_as_it_is_goes_before_a_part_of_it() -> None:
    ranks = [INDEX.find(name).rank for name in ("val/red/e.jpg", "e.jpg", "x/red/e.jpg", "x/e.jpg")]
    assert ranks == sorted(ranks, reverse=True)
    assert [INDEX.find(name).is_literal for name in ("e.jpg", "x/e.jpg")] == [True, False]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("val/red/b.png", "val/red/b.JPG"), ("b", "val/red/b.JPG"), ("red/e", "val/red/e.jpg"),
     ("C:\\x\\e.TIF", "val/red/e.jpg"), ("0123abcd-e.png", "val/red/e.jpg"),
     ("val/blue/a.jpg", "val/blue/a.png")],
)  # fmt: skip
def test_a_name_with_another_ending_or_none(name: str, expected: str) -> None:
    match = INDEX.find(name)
    assert match.ids == [expected]
    assert match.has_other_ending
    assert not INDEX.find("val/red/e.jpg").has_other_ending


def test_two_images_that_differ_in_their_ending_alone_are_ambiguous() -> None:
    index = NameIndex(["v/a.jpg", "v/a.png"])
    assert index.find("v/a.png").ids == ["v/a.png"]
    assert index.find("v/a.bmp").ids == ["v/a.jpg", "v/a.png"]
    assert not index.find("train/x.bmp").ids
