"""Boxes of a person are found again by the content of images, and replace those that were found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.ops.hashing import hash_file
from pipeline.results.human import follow_renaming, match_images, replace_by_human
from pipeline.types import HumanBoxes, WrongMark
from tests.exporter.subjects import CLASSES, IDS, SIZES, found_boxes, image_source, write_images


def drawn(position: int, root: Path, *classes: str, id: str | None = None) -> HumanBoxes:
    boxes = np.array([[0, 0, 1, 1]] * len(classes), np.float32).reshape(-1, 4)
    content = hash_file(root / IDS[position])
    return HumanBoxes(id or IDS[position], content, SIZES[position], boxes, classes)


def test_images_are_found_by_content_also_where_they_were_renamed(tmp_path: Path) -> None:
    write_images(tmp_path)
    images = [drawn(0, tmp_path, CLASSES[0]), drawn(1, tmp_path, CLASSES[0], id="old/name.png")]
    matched, notes = match_images(images, [], IDS, image_source(tmp_path))
    assert list(matched) == [IDS[0], IDS[1]]
    assert matched[IDS[1]].id == IDS[1]
    assert notes == []


def test_boxes_of_an_image_that_was_changed_are_left_out_and_counted(tmp_path: Path) -> None:
    write_images(tmp_path)
    image = drawn(0, tmp_path, CLASSES[0])
    (tmp_path / IDS[0]).write_bytes((tmp_path / IDS[1]).read_bytes())
    matched, notes = match_images([image], [], IDS, image_source(tmp_path))
    assert matched == {}
    assert len(notes) == 1
    assert "changed since" in notes[0]


def test_a_sample_without_its_wrong_images_is_no_random_choice(tmp_path: Path) -> None:
    write_images(tmp_path)
    human = [replace(drawn(n, tmp_path, CLASSES[0]), is_random=True) for n in (0, 1)]
    wrong = WrongMark(id="old.png", content=hash_file(tmp_path / IDS[2]), is_random=True, date="",
                      source="marks: a.json", ingested="")  # fmt: skip
    source = image_source(tmp_path)
    matched, notes = match_images(human, [wrong], IDS, source)
    assert [image.is_random for image in matched.values()] == [False, False]
    assert len(notes) == 1
    assert "1 image ('x.webp') of the random sample marked as wrong" in notes[0]
    for other in (replace(wrong, is_random=False), replace(wrong, content="of another data set")):
        matched, notes = match_images(human, [other], IDS, source)
        assert [image.is_random for image in matched.values()] == [True, True]
        assert notes == []


def test_data_sets_may_share_names_of_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    other = replace(drawn(0, tmp_path, CLASSES[1]), content="of another data set")
    matched, _ = match_images(
        [drawn(0, tmp_path, CLASSES[0]), other], [], IDS, image_source(tmp_path)
    )
    assert list(matched[IDS[0]].classes) == [CLASSES[0]]


def test_they_replace_all_boxes_of_their_image(tmp_path: Path) -> None:
    write_images(tmp_path)
    human = {
        IDS[0]: drawn(0, tmp_path, CLASSES[1], CLASSES[3], "unknown"),
        IDS[1]: drawn(1, tmp_path),
        IDS[2]: drawn(2, tmp_path, CLASSES[0]),
        IDS[3]: drawn(3, tmp_path, "unknown"),
    }
    before = list(found_boxes().images())
    found, notes = replace_by_human(found_boxes(), human)
    first, second, third, last = found.images()
    assert [(box.label, box.is_human, box.score) for box in first.boxes] == [
        (1, True, 1.0), (3, True, 1.0)
    ]  # fmt: skip
    assert (second.boxes, second.is_human) == ([], True)
    assert [box.label for box in third.boxes] == [0], "an image without a found box"
    assert last == before[3], "without a box of a known class the found boxes stay"
    assert [note.total for note in notes] == [3, 2], "images and boxes of no known class"
    assert "unknown" in notes[1].names[0]


def test_boxes_follow_a_class_whose_folder_is_renamed() -> None:
    """A name that another folder has now is kept, as what the person meant cannot be known."""
    box = np.array([[0, 0, 1, 1]], np.float32)

    def image(id: str, name: str, folder: str = "") -> HumanBoxes:
        folders = (folder,) if folder else ()
        return HumanBoxes(id, id, (9, 9), box, [name], folders=folders)

    human = {
        image.id: image
        for image in (
            image("as it was called without classes.txt", "n01"),
            image("renamed", "wren", "n02"),
            image("the same", "robin", "n01"),
            image("swapped", "robin", "n02"),
            image("unknown", "owl", "n09"),
        )
    }
    followed, notes = follow_renaming(human, ["robin", "European wren"], ["n01", "n02"])
    names = [image.classes[0] for image in followed.values()]
    assert names == ["robin", "European wren", "robin", "robin", "owl"]
    renamed, swapped = notes
    assert renamed.startswith("human_boxes.json: 2 boxes")
    assert "'renamed: wren, now European wren'" in renamed
    assert "swapped" in swapped
    assert follow_renaming(human, ["robin"], ()) == (human, [])


def test_an_unknown_class_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    write_images(tmp_path)
    human = {IDS[0]: drawn(0, tmp_path, CLASSES[0] + "x")}
    _, (note,) = replace_by_human(found_boxes(), human)
    assert f"meant to be {CLASSES[0]!r}" in note
    assert f"there are {len(CLASSES)} classes" in note
