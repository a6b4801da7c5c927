"""wsolevaluation's metadata and maps: read as that evaluator does, odd lines and files named."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from pipeline.errors import SkippedImage, UserError
from pipeline.formats import map_files, mask_files, wsolevaluation

Form = Literal["NFC", "NFD"]

TEXT = {
    "image_ids": "val/1.jpg\nval/a,b.jpg\n",
    "class_labels": "val/1.jpg,4\nval/a,b.jpg,2\n",
    "image_sizes": "val/1.jpg,100,80\nval/a,b.jpg,50,60\n",
    "localization": "val/1.jpg,10,20,39,59\nval/1.jpg,0,0,99,79\nval/a,b.jpg,1,2,3,4\n",
}


def write(folder: Path, **changed: str | None) -> Path:
    for name, text in {**TEXT, **changed}.items():
        if text is not None:
            (folder / f"{name}.txt").write_text(text)
    return folder


def test_boxes_end_with_their_last_pixel(tmp_path: Path) -> None:
    metadata = wsolevaluation.read(write(tmp_path))
    assert metadata.ids == ["val/1.jpg", "val/a,b.jpg"]
    assert metadata.classes == (2, 4)
    assert metadata.sizes["val/1.jpg"] == (80, 100)
    np.testing.assert_array_equal(metadata.boxes["val/1.jpg"], [[10, 20, 39, 59], [0, 0, 99, 79]])
    np.testing.assert_array_equal(
        metadata.get_half_open_boxes("val/1.jpg"), [[10, 20, 40, 60], [0, 0, 100, 80]]
    )
    assert metadata.notes == []
    assert wsolevaluation.read(tmp_path, max_images=1).ids == ["val/1.jpg"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("val/1.jpg,40,20,10,59", "1 line ('line 4') whose box is reversed: left out"),
        ("val/1.jpg,nan,20,10,59", "1 line ('line 4') whose box is not finite: left out"),
        ("val/1.jpg,100,20,120,59", "1 line ('line 4') whose box lies outside its image: left out"),
        ("val/2.jpg,1,2,3,4", "1 line ('line 4') of images that image_ids.txt does not have"),
        ("val/1.jpg,-5,2,3,4", "1 line ('line 4') whose box sticks out of its image"),
        ("val/1.jpg,1,2,3", "1 line ('line 4') of another form than image,x0,y0,x1,y1: left out"),
        ("val/1.jpg,1,2,3,z", "1 line ('line 4') whose x0, y0, x1, y1 are not four numbers"),
        ("", None),
    ],
)
def test_boxes_that_cannot_be_right_are_named(
    line: str, expected: str | None, tmp_path: Path
) -> None:
    metadata = wsolevaluation.read(write(tmp_path, localization=f"{TEXT['localization']}{line}\n"))
    if expected is None:
        assert metadata.notes == []
        return
    (note,) = metadata.notes
    assert note.startswith("localization.txt: ")
    assert expected in note
    assert len(metadata.boxes["val/1.jpg"]) == (3 if "sticks" in expected else 2)


def test_sizes_with_height_before_width_are_asked_about(tmp_path: Path) -> None:
    swapped = "val/1.jpg,80,100\nval/a,b.jpg,60,50\n"
    notes = wsolevaluation.read(write(tmp_path, image_sizes=swapped)).notes
    assert notes[-1] == (
        "image_sizes.txt: 1 image ('val/1.jpg') of 2 has boxes that stick out, and none would "
        "with width and height swapped; are width and height swapped in the file?"
    )
    lines = TEXT["localization"] + "val/1.jpg,0,0,99,99\n"
    notes = wsolevaluation.read(write(tmp_path, localization=lines)).notes
    assert not any("swapped" in note for note in notes), "it would stick out in both"


def test_images_without_boxes_or_classes_are_named(tmp_path: Path) -> None:
    metadata = wsolevaluation.read(
        write(tmp_path, localization="val/1.jpg,1,2,3,4\n", class_labels="val/1.jpg,4\n")
    )
    assert metadata.notes[0].startswith("class_labels.txt: 1 image ('val/a,b.jpg') has no class; ")
    assert any("1 image ('val/a,b.jpg') has no annotation" in note for note in metadata.notes)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"image_ids": "\n"}, "image_ids.txt: it names no image"),
        ({"class_labels": "val/1.jpg,cat\n"}, "1 line ('line 1') whose class is no whole number"),
        (
            {"image_sizes": "val/1.jpg,100\n"},
            "1 line ('line 1') of another form than image,width,height",
        ),
        ({"image_sizes": "val/1.jpg,100,x\n"}, "1 line ('line 1') whose height is no whole number"),
        (
            {"image_sizes": "val/1.jpg,100,0\n"},
            "1 line ('line 1') whose width or height is below 1",
        ),
        ({"localization": "val/1.jpg,1,2,3\n"}, "none of its 1 lines can be used"),
        ({"localization": "val/1.jpg,1,2,3,z\n"}, "whose x0, y0, x1, y1 are not four numbers"),
        ({"localization": None}, "localization.txt is not there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_nothing_usable_is_refused_with_the_reasons(
    changed: dict[str, str | None], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        wsolevaluation.read(write(tmp_path, **changed))
    assert expected in str(refused.value)


def test_odd_lines_are_left_out_and_named(tmp_path: Path) -> None:
    metadata = wsolevaluation.read(
        write(
            tmp_path,
            image_ids="val/1.jpg\nval/a,b.jpg\nval/1.jpg\n",
            class_labels="val/1.jpg,4.0\nval/a,b.jpg,cat\n",
            image_sizes="val/1.jpg,100,80.0\nval/1.jpg,90,80\nval/a,b.jpg,0,60\n",
        )
    )
    assert metadata.ids == ["val/1.jpg", "val/a,b.jpg"]
    assert metadata.labels == {"val/1.jpg": 4}
    assert metadata.sizes == {"val/1.jpg": (80, 100)}
    assert list(metadata.boxes) == ["val/1.jpg"]
    notes = " ".join(metadata.notes)
    for expected in (
        "image_ids.txt: 1 line ('line 3') of an image that is there twice: left out",
        "image_sizes.txt: 1 line ('line 2') that contradict an earlier line of the same image",
        "image_sizes.txt: 1 line ('line 3') whose width or height is below 1",
        "class_labels.txt: 1 line ('line 2') whose class is no whole number",
        "class_labels.txt: 1 image ('val/a,b.jpg') has no class",
        "localization.txt: 1 line ('line 3') of images without a size in image_sizes.txt",
        "1 image ('val/a,b.jpg') has no annotation that can be used: not scored, 1 of 2 are",
    ):
        assert expected in notes


def test_maps_are_found_with_and_without_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    np.save(tmp_path / "val/1.jpg.npy", np.full((2, 3), 0.5))
    np.save(tmp_path / "val/2.npy", np.ones((1, 4, 4), np.float32))
    np.save(tmp_path / "val/odd.npy", np.ones((4, 4)))
    assert wsolevaluation.read_map(tmp_path, "val/1.jpg").shape == (2, 3)
    assert wsolevaluation.read_map(tmp_path, "val/2.jpg").shape == (4, 4)
    for shape in ((3, 4, 1), (1, 3, 4), (1, 1, 3, 4), (1, 3, 4, 1)):
        np.save(tmp_path / "shape.npy", np.arange(12.0).reshape(shape))
        values = wsolevaluation.read_map(tmp_path, "shape")
        np.testing.assert_array_equal(values, np.arange(12.0).reshape(3, 4))
    (tmp_path / "shape.npy").unlink()
    assert map_files.find_unknown_maps(tmp_path, ["val/1.jpg", "val/2.jpg"]) == ["val/odd.npy"]


def test_maps_that_cannot_be_scored_say_why(tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    np.save(tmp_path / "text.npy", np.array([["a"]]))
    np.save(tmp_path / "flat.npy", np.ones(4))
    np.save(tmp_path / "object.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "nan.npy").read_bytes()[:-8])
    (tmp_path / "empty.npy").write_bytes(b"")
    for name, expected in {
        "nan": "not finite", "text": "no array of numbers", "flat": "not [h, w]",
        "object": "no .npy file", "cut": "no .npy file", "empty": "no .npy file",
        "gone": "no map",
    }.items():  # fmt: skip
        with pytest.raises(SkippedImage) as skipped:
            wsolevaluation.read_map(tmp_path, name)
        assert expected in str(skipped.value)


def test_masks_are_objects_together_and_ignore_elsewhere(tmp_path: Path) -> None:
    first, second, ignore = (np.zeros((4, 4), np.uint8) for _ in range(3))
    first[0, 0] = second[1, 1] = ignore[1, 1] = ignore[3, 3] = 255
    for name, mask in (("a", first), ("b", second), ("i", ignore)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), mask)
    write(tmp_path, localization="val/1.jpg,a.png,i.png\nval/1.jpg,b.png,\n")
    masks = wsolevaluation.read(tmp_path).masks["val/1.jpg"]
    expected = np.zeros((4, 4), np.uint8)
    expected[0, 0] = expected[1, 1] = 1
    expected[3, 3] = 255
    np.testing.assert_array_equal(mask_files.read_masks(masks), expected)
    assert mask_files.read_masks(masks, (8, 8))[7, 7] == 255
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(SkippedImage, match="a mask that cannot be read"):
        mask_files.read_masks(masks)


def test_what_was_read_has_a_name_that_follows_its_content(tmp_path: Path) -> None:
    before = wsolevaluation.fingerprint(write(tmp_path))
    assert wsolevaluation.fingerprint(tmp_path) == before
    write(tmp_path, localization=TEXT["localization"].replace("39", "38"))
    assert wsolevaluation.fingerprint(tmp_path) != before
    assert wsolevaluation.fingerprint_maps(tmp_path) == wsolevaluation.fingerprint_maps(tmp_path)


@pytest.mark.parametrize(("lists", "files"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
@pytest.mark.parametrize("suffix", [".npy", ".jpg.npy"])
def test_names_are_the_same_in_any_unicode_form(
    tmp_path: Path, lists: Form, files: Form, suffix: str
) -> None:
    def text(form: Form, name: str) -> str:
        return unicodedata.normalize(form, name)

    id = text("NFC", "val/é/ü.jpg")
    write(
        tmp_path,
        image_ids=text(lists, f"{id}\n"),
        class_labels=text(files, f"{id},4\n"),
        image_sizes=text(lists, f"{id},100,80\n"),
        localization=text(files, f"{id},masks/é.png,\n{id},1,2,3,4\n"),
    )
    path = tmp_path / "maps" / text(files, f"val/é/ü{suffix}")
    for each in (path, tmp_path / text(files, "masks/é.png")):
        each.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.ones((2, 3)))
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((80, 100), 255, np.uint8))
    (tmp_path / "mask.png").rename(tmp_path / text(files, "masks/é.png"))
    metadata = wsolevaluation.read(tmp_path)
    assert metadata.ids == [id]
    assert (metadata.labels, metadata.sizes) == ({id: 4}, {id: (80, 100)})
    assert list(metadata.boxes) == list(metadata.masks) == [id]
    assert metadata.notes == []
    assert mask_files.read_masks(metadata.masks[id]).all()
    assert wsolevaluation.read_map(tmp_path / "maps", id).shape == (2, 3)
    assert map_files.find_unknown_maps(tmp_path / "maps", [text(lists, id)]) == []
