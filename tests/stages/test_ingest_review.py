"""Who reviewed what: only a person's review is truth, and only the random sample measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipeline.stages.ingest.review import Known, compare, describe, sort_images, summarise
from pipeline.types import CorrectedImage, FoundBox, HumanBoxes, ImageBoxes

CLASSES = ("robin", "house wren")
SIZE = (100, 200)


def found(id: str, *boxes: tuple[float, float, float, float], label: int = 0) -> ImageBoxes:
    return ImageBoxes(0, id, SIZE, [FoundBox(label, box, 0.9) for box in boxes])


KNOWN = Known(
    boxes={id: found(id, (10, 10, 50, 50)) for id in ("val/a.jpg", "val/b.jpg", "val/c.jpg")},
    classes=CLASSES,
    sampled=lambda id: id != "val/c.jpg",
    content=lambda id: f"hash of {id}",
    file_size=lambda id: 7,
)


def corrected(name: str, *rows: list[float], classes: tuple[str, ...] = (), **given: object):
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    names = classes or ("robin",) * len(boxes)
    return CorrectedImage(name, given.pop("size", SIZE), boxes, names, **given)  # type: ignore[arg-type]


def sort(*images: CorrectedImage):
    return sort_images(
        images, KNOWN, lambda image, id: image.is_reviewed, "cvat: a.xml", "2026-01-01"
    )


def test_only_reviewed_images_are_taken_and_all_others_are_counted() -> None:
    result = sort(
        corrected("/data/local-files/?d=val/a.jpg", [1, 2, 30, 40], is_reviewed=True),
        corrected("b.jpg", [10, 10, 50, 50], [0, 0, 5, 5]),
        corrected("z.jpg", [1, 2, 3, 4], is_reviewed=True),
        corrected("val/c.jpg", [1, 2, 3, 4], size=(50, 50), is_reviewed=True),
    )
    assert list(result.human) == ["val/a.jpg"]
    assert result.human["val/a.jpg"].content == "hash of val/a.jpg"
    assert result.not_reviewed == {"val/b.jpg": 2}
    notes = result.notes("a.xml")
    assert any("2 boxes): no truth" in note for note in notes)
    assert any("z.jpg" in note for note in notes)
    assert any("another size" in note for note in notes)
    assert len(notes) == 3


def test_an_image_with_a_box_that_cannot_be_read_says_nothing() -> None:
    """Left out alone, the box would become a person's word that there is no object."""
    result = sort(
        corrected("a.jpg", is_reviewed=True, unread=1), corrected("b.jpg", is_reviewed=True)
    )
    assert list(result.human) == ["val/b.jpg"]
    (note,) = result.notes("a.xml")
    assert "val/a.jpg" in note
    assert "its found boxes stay" in note


def test_boxes_are_brought_to_pixels_clipped_and_named_as_the_classes_are() -> None:
    result = sort(
        corrected("a.jpg", [0.25, 0.5, 0.5, 1.0], classes=("House_Wren",), size=None,
                  are_fractions=True, is_reviewed=True),
        corrected("b.jpg", [-20, 0, 50, 50], [300, 0, 310, 10], [1, 1, 5, 5],
                  classes=("robin", "robin", "owl"), is_reviewed=True),
    )  # fmt: skip
    assert result.human["val/a.jpg"].boxes.tolist() == [[50, 50, 100, 100]]
    assert list(result.human["val/a.jpg"].classes) == ["house wren"]
    assert result.human["val/b.jpg"].boxes.tolist() == [[0, 0, 50, 50], [1, 1, 5, 5]]
    assert (len(result.clipped), len(result.empty), len(result.classes)) == (1, 1, 1)


def human(
    id: str, *rows: Sequence[float], name: str = "robin", is_random: bool = True
) -> HumanBoxes:
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    return HumanBoxes(id, "x", SIZE, boxes, [name] * len(boxes), is_random=is_random)


@pytest.mark.parametrize(
    ("boxes", "name", "iou", "unchanged", "relabelled"),
    [
        ([[10.3, 10, 50, 50.2]], "robin", 0.98, True, False),
        ([[10, 10, 50, 50], [60, 60, 70, 70]], "robin", 1.0, False, False),
        ([[10, 10, 50, 50]], "house wren", 0.0, False, True),
        ([], "robin", 0.0, False, False),
    ],
)
def test_a_change_is_told_from_a_rounding(boxes, name, iou, unchanged, relabelled) -> None:
    change = compare(human("a", *boxes, name=name), found("a", (10, 10, 50, 50)), CLASSES)
    assert change.iou == pytest.approx(iou, abs=0.015)
    assert (change.is_unchanged, change.is_relabelled) == (unchanged, relabelled)


def test_only_the_random_images_measure() -> None:
    right, wrong = [10, 10, 50, 50], [100, 50, 150, 90]
    changes = [
        compare(human(str(n), right if n < 8 else wrong), found(str(n), (10, 10, 50, 50)), CLASSES)
        for n in range(10)
    ] + [
        compare(human("d", wrong, is_random=False), found("d", (10, 10, 50, 50)), CLASSES)
    ] * 30  # fmt: skip
    summary = summarise(changes)
    assert (summary["random"], summary["random_right"], summary["right_share"]) == (10, 8, 0.8)
    assert summary["right_interval"] == pytest.approx([0.49, 0.943], abs=1e-3)
    assert (summary["doubtful"], summary["doubtful_right"]) == (30, 0)
    lines = "\n".join(describe(summary))
    assert "of 10 images drawn at random 80 % were right" in lines
    assert "49 to 94" in lines


def test_without_a_random_image_nothing_is_measured() -> None:
    change = compare(human("d", is_random=False), found("d", (10, 10, 50, 50)), CLASSES)
    summary = summarise([change])
    assert summary["right_share"] is None
    assert "measure nothing" in "\n".join(describe(summary))


def test_a_file_without_a_review_says_what_happened_and_what_to_do() -> None:
    lines = "\n".join(describe({**summarise([]), "not_reviewed": 3}))
    assert "no image was reviewed" in lines
    assert "3 images have boxes that nobody submitted" in lines
    assert "ingest.reviewed=all" in lines
    assert "drawn at random" not in lines


def test_a_class_by_its_folder_is_known_and_a_misspelt_one_gets_near_names() -> None:
    known = replace(KNOWN, folders=("n01", "n02"))
    images = [
        corrected("a.jpg", [1, 2, 30, 40], classes=("n02",), is_reviewed=True),
        corrected("b.jpg", [1, 2, 30, 40], classes=("robbin",), is_reviewed=True),
    ]
    result = sort_images(images, known, lambda image, id: True, "cvat: a.xml", "2026-01-01")
    human = result.human["val/a.jpg"]
    assert list(human.classes) == ["house wren"]
    assert list(human.folders) == ["n02"]
    assert list(result.human["val/b.jpg"].folders) == []
    unknown, renamed = result.notes("a.xml")
    assert "is 'robbin' meant to be 'robin'? there are 2 classes: house wren, robin" in unknown
    assert "val/a.jpg: n02, now house wren" in renamed
