"""Boxes of a person on disk: as they were, and of an image the latest review."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.errors import UserError
from pipeline.formats import coco, human_boxes
from pipeline.types import HumanBoxes, WrongMark


def image(id: str = "robin/a b.jpg", content: str = "0011", **given: object) -> HumanBoxes:
    boxes = np.array([[1.25, 2, 30.5, 20], [0, 0, 60, 40]], np.float32)
    whole = HumanBoxes(
        id, content, (40, 60), boxes, ["robin", "Zaunkönig"], None, True, "2026-01-02T03:04:05Z",
        "anna", "label_studio: project.json", "2026-02-03T00:00:00+0000",
    )  # fmt: skip
    return replace(whole, **given)  # type: ignore[arg-type]


def nothing(content: str) -> HumanBoxes:
    return image("b.jpg", content, boxes=np.zeros((0, 4), np.float32), classes=[])


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "human_boxes.json"
    human_boxes.write(path, [image(), nothing("22")])
    (first, second), wrong = human_boxes.read(path)
    assert wrong == []
    assert np.array_equal(first.boxes, image().boxes)
    assert {**vars(first), "boxes": 0} == {**vars(image()), "boxes": 0}
    assert len(second.boxes) == 0
    assert second.content == "22"


def test_other_readers_take_it_as_reviewed_coco(tmp_path: Path) -> None:
    path = tmp_path / "human_boxes.json"
    human_boxes.write(path, [image(is_random=False), nothing("22")])
    assert len(COCO(str(path)).anns) == 2
    content = coco.read(path)
    assert [entry.is_reviewed for entry in content.images] == [True, True]
    assert content.images[0].chosen_by_doubt
    assert not any(content.images[0].scored)


@pytest.mark.parametrize("text", ["[]", "{", '{"info": {"label2box_human_boxes": "9"}}', "{}"])
def test_another_file_is_refused_with_a_remedy(text: str, tmp_path: Path) -> None:
    path = tmp_path / "human_boxes.json"
    path.write_text(text)
    with pytest.raises(UserError, match="ingest again"):
        human_boxes.read(path)


def test_the_latest_review_of_an_image_stays() -> None:
    early, late = image(date="2026-01-01"), image(date="2026-03-01", classes=["wren", "wren"])
    merged, replaced, older = human_boxes.merge([early], [late])
    assert (merged, replaced, older) == ([late], [late.id], [])
    merged, replaced, older = human_boxes.merge([late], [early])
    assert (merged, replaced, older) == ([late], [], [early.id])
    merged, replaced, older = human_boxes.merge([early], [early, image("c.jpg", "33")])
    assert (len(merged), replaced, older) == (2, [], [])


def wrong(content: str = "44", date: str = "2026-02-01") -> WrongMark:
    return WrongMark(
        id="d.jpg", content=content, is_random=True, date=date, source="marks: a.json", ingested=""
    )


def test_without_the_wrong_images_of_the_sample_none_is_random_to_other_readers(
    tmp_path: Path,
) -> None:
    path = tmp_path / "human_boxes.json"
    human_boxes.write(path, [image()], [wrong()])
    (kept,), marked = human_boxes.read(path)
    assert (kept.is_random, marked) == (True, [wrong()])
    content = coco.read(path)
    assert [entry.name for entry in content.images] == [image().id]
    assert content.images[0].chosen_by_doubt


def test_a_wrong_image_waits_until_it_is_corrected() -> None:
    accepted = image(content="44", date="2026-01-01", source="marks: a.json")
    corrected = image(content="44", date="2026-01-01")
    other, merge = image(), human_boxes.merge_wrong
    assert merge([], [wrong()], [other]) == ([other], [wrong()])
    assert merge([wrong()], [], [corrected]) == ([corrected], [])
    assert merge([], [wrong()], [accepted]) == ([], [wrong()]), "a later mark takes it back"
    assert merge([], [wrong(date="2025")], [accepted]) == ([accepted], [])
    assert merge([wrong(date="2026-03")], [wrong()], []) == ([], [wrong(date="2026-03")])
