"""listing: which files are listed, in which order, under which id, and how they are split."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from pipeline.data import hashed_splits, listing
from pipeline.data.listing import File, Listing
from pipeline.errors import UserError
from pipeline.formats import photo
from pipeline.formats.files import read_lines


def files(count: int, classes: int = 1) -> Listing:
    entries = [File(f"{n % classes}/{n}.jpg", f"/{n}.jpg", (n, n)) for n in range(count)]
    return Listing(entries, [n % classes for n in range(count)], [str(n) for n in range(classes)])


def test_suffixes_are_those_that_pillow_reads():
    Image.init()
    read = {
        ending
        for ending, form in Image.registered_extensions().items()
        if form in Image.OPEN and form not in photo.NOT_READ
    }
    assert read == listing.SUFFIXES


# -- splits


def test_split_by_hash_stays_when_images_are_added():
    few, many = (hashed_splits.set_apart(files(n), 0.2, "val") for n in (500, 1000))
    assert set(few[1].ids) <= set(many[1].ids)
    assert set(few[0].ids) <= set(many[0].ids)
    assert 0.15 < len(many[1].ids) / 1000 < 0.25
    assert not set(many[0].ids) & set(many[1].ids)


@pytest.mark.parametrize("count", range(2, 30))
def test_tiny_sets_have_both_parts(count):
    kept, apart = hashed_splits.set_apart(files(count, classes=min(count - 1, 3)), 0.1, "x")
    assert apart.ids
    assert set(kept.labels) == set(range(min(count - 1, 3)))


def test_nothing_to_spare():
    kept, apart = hashed_splits.set_apart(files(3, classes=3), 0.5, "x")
    assert (len(kept.ids), len(apart.ids)) == (3, 0)
    for share in (0.0, 0.5):
        assert hashed_splits.set_apart(files(0), share, "x")[1].ids == []
    assert hashed_splits.set_apart(files(9), 0.0, "x")[1].ids == []


def test_fingerprint_of_a_listing():
    some = files(5, 2)
    assert some.fingerprint() == files(5, 2).fingerprint() != files(4, 2).fingerprint()
    assert some.fingerprint() != Listing(some.files, [1, 1, 0, 1, 0], some.classes).fingerprint()
    assert some.fingerprint() != Listing(some.files, some.labels, ["0", "2"]).fingerprint()
    moved = [File(file.id, "/elsewhere" + file.path, file.stamp) for file in some.files]
    assert some.fingerprint() == Listing(moved, some.labels, some.classes).fingerprint()


def test_the_other_classes_of_images_go_with_them():
    """They change the fingerprint, and a listing without them has that of before."""
    several = replace(files(40, 2), others=[(1,) if n % 4 == 0 else () for n in range(40)])
    assert several.fingerprint() != files(40, 2).fingerprint()
    assert files(5, 2).fingerprint() == "dd28f4fd897b4832"
    assert several.label_sets()[:2].tolist() == [[True, True], [False, True]]
    kept, apart = hashed_splits.set_apart(several, 0.3, "x")
    again = kept + apart
    place = [again.ids.index(id) for id in several.ids]
    assert (again.label_sets()[place] == several.label_sets()).all()
    joined = files(2) + several
    assert joined.others is not None
    assert len(joined.others) == 42


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_each_of_several_classes_keeps_an_image(share):
    others = [(1,) if n < 3 else (2,) if n == 5 else () for n in range(12)]
    several = replace(files(12), labels=[0] * 12, classes="abc", others=others)
    kept, apart = hashed_splits.set_apart(several, share, "x")
    assert kept.label_sets().any(0).all()
    assert apart.ids


# -- small things


def test_input_size():
    assert listing.parse_input_size(224) == (224, 224)
    assert listing.parse_input_size([96, 128]) == (96, 128)
    for wrong in (0, 7, 9000, (224,), (1, 2, 3), [224, -1]):
        with pytest.raises(UserError, match=r"data\.size"):
            listing.parse_input_size(wrong)


def test_lines(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffn01 a\r\n\n  n02 \u2028 b  \nn03 c".encode())
    assert list(read_lines(path)) == [(1, "n01 a"), (3, "n02 \u2028 b"), (4, "n03 c")]
    path.write_bytes(b"ok\n\xff\xfe")
    with pytest.raises(UserError, match=r"classes\.txt: not UTF-8"):
        list(read_lines(path))
    with pytest.raises(UserError, match="no such file"):
        list(read_lines(tmp_path / "none.txt"))
