"""Reviews that were replaced come back where the later one is taken back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.formats import human_boxes
from pipeline.formats.review_history import identify, list_replaced, take_back
from pipeline.types import HumanBoxes, WrongMark


def review(content: str, ingested: str, date: str = "") -> HumanBoxes:
    boxes = np.array([[1, 2, 3, 4.5]], np.float32)
    return HumanBoxes(
        f"{content}.jpg", content, (9, 9), boxes, ["robin"], [None], date=date,
        source="coco: a.json", ingested=ingested, folders=["n01"],
    )  # fmt: skip


def mark(content: str, ingested: str) -> WrongMark:
    return WrongMark(id=content, content=content, is_random=True, date="", source="marks: a.json",
                     ingested=ingested)  # fmt: skip


def test_replaced_reviews_count_again() -> None:
    first, marked = [review("a", "1"), review("b", "1")], mark("c", "1")
    second = [review("a", "2"), review("c", "2"), review("d", "2")]
    later = review("d", "3")
    replaced = list_replaced([*first, marked, *second, later], [first[1], *second[:2], later])
    assert [identify(each)[1:] for each in replaced] == [
        ("a", "coco: a.json", "1"), ("c", "marks: a.json", "1"), ("d", "coco: a.json", "2"),
    ]  # fmt: skip
    undone = {identify(each) for each in second}
    left = take_back([first[1], *second[:2], later], replaced, undone)
    assert [(each.content, each.ingested) for each in left.images] == [
        ("b", "1"), ("d", "3"), ("a", "1"),
    ]  # fmt: skip
    assert left.wrong == [marked]
    assert len(left.removed) == 2
    assert len(left.restored) == 2
    assert left.replaced == []
    again = take_back([*left.images, *left.wrong], left.replaced, undone)
    assert again.removed == []
    assert len(again.images) == 3


def test_the_file_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "human_boxes.json"
    old = review("a", "1", "2026-01-01")
    human_boxes.write(path, [review("a", "2")], [], [old, mark("b", "1")])
    (image,), wrong, (before, marked) = human_boxes.read_all(path)
    assert wrong == []
    assert image.folders == ["n01"]
    assert isinstance(before, HumanBoxes)
    assert {**vars(before), "boxes": 0} == {**vars(old), "boxes": 0}
    assert np.array_equal(before.boxes, old.boxes)
    assert marked == mark("b", "1")
