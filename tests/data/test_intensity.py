"""intensity: a data set scales its images of more than 8 bits alike, and says from what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data import intensity
from pipeline.data.cub import Cub
from pipeline.data.folder import Folder
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.formats import photo
from tests import docs_workshop

Write = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "set"


def frame(brightness: float = 1, dtype: Any = np.uint16, seed: int = 0) -> np.ndarray:
    """A 12-bit frame: ground from 400 to 600, an object of 3500."""
    pixels = 400 + np.random.default_rng(seed).integers(0, 200, (48, 64)).astype(np.float64)
    pixels[10:34, 20:44] = 3500
    return (pixels * brightness).astype(dtype)


def write_set(root: Path, make: Callable[[int], Any], suffix: str = "png", count: int = 6) -> None:
    """Write train/ and val/ of two classes."""
    for split in ("train", "val"):
        for name in "ab":
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for n in range(count):
                Image.fromarray(make(n)).save(folder / f"{n}.{suffix}")


def low_and_high(data: Any, kind: Any = "integer") -> tuple[float, float]:
    low, high = data.intensity.ranges.ranges[kind]
    return low, high


def test_all_images_of_a_set_are_scaled_alike(root: Path) -> None:
    write_set(root, lambda n: frame(1 if n else 0.5, seed=n))
    data = Folder(str(root), held_back=0)
    low, high = low_and_high(data)
    assert 200 <= low <= 300
    assert 3490 <= high <= 3500
    bright, dark = data.example("val", 1).image, data.example("val", 0).image
    assert bright[20, 30].tolist() == [255] * 3
    assert abs(int(dark[20, 30, 0]) - 255 * (1750 - low) / (high - low)) <= 2
    (note,) = data.notes()
    assert note == (
        f"data: 12 of 12 training images that were looked at have more than 8 bits: integers are "
        f"scaled from [{low:g}, {high:g}] to 0 to 255, the 0.5 and 99.5 percentiles of 12 images; "
        "data.range=[low,high] sets it"
    )


@pytest.mark.parametrize("most", [1.0, 4095.0])
def test_floats_with_nan(root: Path, most: float) -> None:
    def make(n: int) -> np.ndarray:
        pixels = frame(most / 4095, np.float32, n)
        pixels[:4] = np.nan
        return pixels

    write_set(root, make, "tif")
    data = Folder(str(root))
    low, high = low_and_high(data, "float")
    assert low == pytest.approx(400 / 4095 * most, rel=0.02)
    assert high == pytest.approx(3500 / 4095 * most, rel=0.02)
    image = data.example("val", 0).image
    assert (image[:4] == 0).all()
    assert len(np.unique(image[34:])) > 10
    assert any("have pixels without a measurement (NaN" in note for note in data.notes())


def test_thermal_frames(root: Path) -> None:
    def make(n: int) -> np.ndarray:
        pixels = frame(1, np.int16, n) - 1000
        if n % 2:
            pixels[:4] = -9999
        return pixels

    write_set(root, make, "tif")
    data = Folder(str(root), held_back=0)
    low, high = low_and_high(data)
    assert -600 <= low <= -590
    assert high == 2500
    assert data.intensity.ranges.no_data == (-9999.0,)
    note = next(note for note in data.notes() if "without a measurement" in note)
    assert "6 images ('train/a/1.tif', " in note
    assert "of 12 that were sampled" in note
    assert "-9999" in note


def test_an_isolated_greatest_value_is_saturated_and_white_in_all_images(root: Path) -> None:
    def make(n: int) -> np.ndarray:
        pixels = frame(seed=n)
        pixels[:4] = 65535
        return pixels

    write_set(root, make)
    data = Folder(str(root))
    assert low_and_high(data)[1] == 3500
    assert (data.example("val", 0).image[:4] == 255).all()
    assert data.intensity_record()["no_data"] == []
    note = next(note for note in data.notes() if "saturated" in note)
    assert "of 11 that were sampled with pixels of 65535, the greatest value of their type" in note
    assert note.endswith(
        "data.no_data=[65535] makes them black where they stand for no measurement"
    )
    # The remedy, and a range that is given.
    assert (Folder(str(root), no_data=[65535]).example("val", 0).image[:4] == 0).all()
    given: dict[str, Any] = {"range": [0, 4095]}
    assert (Folder(str(root), **given).example("val", 0).image[:4] == 255).all()
    named = Folder(str(root), **given, no_data=65535)
    assert (named.example("val", 0).image[:4] == 0).all()


def test_integers_and_floats_have_ranges_of_their_own(root: Path) -> None:
    write_set(root, lambda n: frame(seed=n))
    write_set(root, lambda n: frame(1 / 4095, np.float32, n), "tif")
    data = Folder(str(root), held_back=0)
    assert low_and_high(data)[1] == 3500
    assert low_and_high(data, "float")[1] == pytest.approx(3500 / 4095)
    images = {data.ids("val")[n]: data.example("val", n).image for n in range(4)}
    difference = images["val/a/0.png"].astype(int) - images["val/a/0.tif"]
    assert np.abs(difference).max() <= 2


def test_images_of_8_bits_stay_as_they_are_beside_deep_ones(root: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (48, 64)).astype(np.uint8)
    write_set(root, lambda n: frame(seed=n) if n % 3 else grey)
    data = Folder(str(root), held_back=0)
    assert (data.example("val", 0).image[..., 0] == grey).all()
    assert any(
        note == "data: 4 of 12 training images that were looked at have 8 bits, and stay as they "
        "are" for note in data.notes()
    )  # fmt: skip


def test_sixteen_bits_that_are_all_in_use_give_the_upper_byte(root: Path) -> None:
    rng = np.random.default_rng(0)
    write_set(root, lambda n: rng.integers(0, 65536, (48, 64)).astype(np.uint16))
    data = Folder(str(root))
    deep = np.asarray(Image.open(root / "val/a/0.png"))
    np.testing.assert_array_equal(data.example("val", 0).image[..., 0], deep >> 8)
    assert any("[0, 65535] to 0 to 255, the whole scale" in note for note in data.notes())


# -- keys and cost


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_sets_of_8_bits_have_no_note_and_the_same_key(root: Path, suffix: str) -> None:
    write_set(root, lambda n: frame(1 / 16, np.uint8, n), suffix)
    data = Folder(str(root))
    assert data.fingerprint("train") == data.splits["train"].fingerprint()
    assert data.intensity_record() == {}
    assert data.notes() == []
    (note,) = Folder(str(root), range=[0, 9]).notes()
    assert note.startswith("data: data.range (given, or of the checkpoint) is not used: none of")


def test_no_file_of_an_8_bit_format_is_opened(root: Path, monkeypatch: Any) -> None:
    write_set(root, lambda n: frame(1 / 16, np.uint8, n), "jpg")

    def refuse(path: Any) -> bool:
        raise AssertionError(path)

    monkeypatch.setattr(photo, "has_deep_pixels", refuse)
    Folder(str(root)).fingerprint("all")


def test_few_files_of_a_large_set_are_opened(root: Path, monkeypatch: Any) -> None:
    write_set(root, lambda n: frame(1 / 16, np.uint8, n), count=100)
    for path in list((root / "train/a").iterdir())[:3]:  # an ending that few have
        path.rename(path.with_suffix(".tif"))
    opened: list[str] = []

    def record(path: str) -> bool:
        opened.append(path)
        return False

    monkeypatch.setattr(photo, "has_deep_pixels", record)
    data = Folder(str(root))
    data.fingerprint("all")
    assert len(opened) <= 2 * intensity.MAX_LOOKED_AT
    assert sum(path.endswith(".tif") for path in opened) >= 2
    first, opened[:] = list(opened), []
    Folder(str(root)).fingerprint("all")
    assert opened == first


def test_the_range_is_part_of_the_key(root: Path) -> None:
    write_set(root, lambda n: frame(seed=n))
    plain = Folder(str(root))
    keys = {plain.fingerprint("val"), plain.splits["val"].fingerprint()}
    for option in ([0, 4095], [1, 4095], {"integer": [0, 4095]}):
        keys.add(Folder(str(root), range=option).fingerprint("val"))
    assert len(keys) == 5
    assert plain.fingerprint("val") == Folder(str(root)).fingerprint("val")
    assert plain.fingerprint("calibration") == plain.splits["calibration"].fingerprint()


def test_a_deep_image_that_the_sample_lacks_says_so_once_it_is_read(
    root: Path, monkeypatch: Any
) -> None:
    write_set(root, lambda n: frame(1 / 16, np.uint8, n))
    monkeypatch.setattr(intensity, "MAX_LOOKED_AT", 0)
    Image.fromarray(frame()).save(root / "val/a/0.png")
    data = Folder(str(root))
    assert data.notes() == []
    example = data.example("val", 0)
    assert example.image[20, 30, 0] == 255
    assert example.has_own_range
    assert not data.example("val", 1).has_own_range
    given = Folder(str(root), range=[0, 4095])
    assert not given.example("val", 0).has_own_range


def find_note(data: Any, words: str) -> Any:
    (note,) = (note for note in data.notes() if words in note)
    return note


def test_val_of_another_kind_of_number_is_named_before_it_is_read(root: Path) -> None:
    write_set(root, lambda n: frame(seed=n))
    for path in (root / "val").glob("*/*.png"):
        Image.fromarray(frame(1 / 4095, np.float32)).save(path.with_suffix(".tif"))
        path.unlink()
    note = find_note(Folder(str(root)), "range of its own")
    assert note.startswith(
        "data: 12 images ('val/a/0.tif', 'val/a/1.tif', 'val/a/2.tif', ...) of 12 "
    )
    assert note.total == 12
    assert "'data.range={float:[low,high]}' sets a range for all" in note
    given = Folder(str(root), range={"float": [0, 1]})
    assert not any("range of its own" in note for note in given.notes())
    # A range for both that does not fit the floats.
    note = find_note(Folder(str(root), range=[0, 4095]), "val images")
    assert "cover 0 % of [0, 4095]" in note


@pytest.mark.parametrize("images", [16, 1 / 16])
def test_val_that_is_brighter_or_darker_than_the_range_is_named(root: Path, images: float) -> None:
    write_set(root, lambda n: frame(seed=n))
    for path in (root / "val").glob("*/*.png"):
        Image.fromarray(frame(images)).save(path)
    note = find_note(Folder(str(root)), "of the pixels of 12 val images")
    assert "data: 100 % of the pixels" in note
    assert "become black or white (of the training images 0 %)" in note
    assert note.total == 12


def test_val_with_little_contrast_in_a_wide_range_is_named(root: Path) -> None:
    rng = np.random.default_rng(0)
    write_set(root, lambda n: rng.integers(0, 65536, (48, 64)).astype(np.uint16))
    for path in (root / "val").glob("*/*.png"):
        Image.fromarray(frame()).save(path)
    assert "cover 5 % of [0, 65535]" in find_note(Folder(str(root)), "val images")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_val_of_8_bits_beside_deep_training_images_is_named(root: Path, suffix: str) -> None:
    write_set(root, lambda n: frame(seed=n))
    for path in list((root / "val").glob("*/*.png")):
        path.unlink()
        Image.fromarray(frame(1 / 16, np.uint8)).save(path.with_suffix(f".{suffix}"))
    note = find_note(Folder(str(root), held_back=0), "val images")
    assert note.startswith(
        "data: 12 of 12 val images that were looked at have 8 bits, and stay as they are, while "
        "12 of 12 training images that were looked at have more"
    )


def test_val_like_the_training_images_has_no_note(root: Path) -> None:
    write_set(root, lambda n: frame(1 - 0.1 * (n % 3), seed=n))
    assert len(Folder(str(root)).notes()) == 1


# -- options


def test_a_range_by_hand(root: Path) -> None:
    write_set(root, lambda n: frame(seed=n))
    data = Folder(str(root), range=[0, 7000])
    assert abs(int(data.example("val", 0).image[20, 30, 0]) - 127) <= 1
    assert data.intensity_record() == {
        "range": {"float": [0.0, 7000.0], "integer": [0.0, 7000.0]}, "no_data": []
    }  # fmt: skip
    (note,) = Folder(str(root), held_back=0, range=[0, 1000]).notes()
    assert "as data.range or the checkpoint has it; 19 % of the pixels of 12 images are" in note


WRONG: list[Any] = [[1, 1], [2, 1], [0, float("nan")], [0, float("inf")], [1], [1, 2, 3], "ab", 5,
                    ["a", "b"], {"whole": [0, 1]}, {"integer": [1, 0]}, {}, []]  # fmt: skip


@pytest.mark.parametrize("given", WRONG)
def test_wrong_ranges_are_refused(root: Path, given: Any) -> None:
    write_set(root, lambda n: frame(seed=n), count=1)
    builders: list[Callable[..., Any]] = [
        lambda **options: Folder(str(root), **options),
        lambda **options: Images(str(root), **options),
    ]
    for build in builders:
        with pytest.raises(UserError, match=r"data\.range=.*two finite numbers, low below high"):
            build(range=given)
        with pytest.raises(UserError, match=r"data\.no_data=.*finite numbers"):
            build(no_data=[float("nan")])


def test_images_and_cub_have_the_options(root: Path, tmp_path: Path) -> None:
    write_set(root, lambda n: frame(seed=n), count=2)
    images = Images(str(root / "val"))
    assert low_and_high(images)[1] == 3500
    assert images.intensity_record() == {}  # a checkpoint keeps what was trained on
    assert "4 of 4 images that were looked at" in images.notes()[0]
    assert low_and_high(Images(str(root / "val"), range=[0, 9])) == (0, 9)
    assert Images(str(root / "val"), range=[0, 9]).intensity_record() == {}
    docs_workshop.birds(tmp_path)
    assert low_and_high(Cub(str(tmp_path), range=[0, 9])) == (0, 9)
