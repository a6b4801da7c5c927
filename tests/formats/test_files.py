"""Atomic writes, and names that any file system accepts."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.arrays import write_arrays
from pipeline.formats.files import (
    atomic_write,
    find_spelling,
    read_json,
    to_file_name,
    truncate_name,
    unique_file_names,
    write_json,
    write_text,
)

NAMES = st.text(st.characters(codec="utf-8"), max_size=120)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


@given(NAMES, st.integers(1, 80))
def test_a_file_name_is_short_and_has_no_separator(name: str, max_bytes: int) -> None:
    file_name = to_file_name(name, max_bytes)
    assert len(file_name.encode()) <= max_bytes
    assert not set(file_name) & set('/\\\0:*?"<>|\n ')
    assert not file_name.startswith(".")
    assert not file_name.endswith(".")


@given(NAMES, st.integers(0, 300))
def test_a_truncated_name_is_a_beginning_of_at_most_so_many_bytes(
    name: str, max_bytes: int
) -> None:
    short = truncate_name(name, max_bytes)
    assert name.startswith(short)
    assert len(short.encode()) <= max_bytes
    assert short == name or len(name[: len(short) + 1].encode()) > max_bytes


# Names that a number could make equal to another class's.
SIMILAR_NAMES = st.sampled_from(
    ["a", "A", "a-0", "a-1", "a-1-1", "a-1-2", "", "0", "-", "...", "a/"]
)


@given(st.lists(NAMES, max_size=6) | st.lists(SIMILAR_NAMES, max_size=8))
def test_class_names_become_names_of_different_files(classes: list[str]) -> None:
    names = unique_file_names(classes)
    assert len(names) == len(classes)
    assert all(names)
    assert len({name.lower() for name in names}) == len(names)


@given(JSON)
def test_json_that_was_written_is_read_as_it_was(value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "value.json")
        write_json(path, value)
        assert read_json(path) == value
        assert [file.name for file in Path(folder).iterdir()] == ["value.json"]


@given(st.text(st.sampled_from("abcdé漢.-_ "), min_size=1, max_size=80))
def test_any_name_is_written_atomically(name: str) -> None:
    """Names are included that a suffix would make too long for the file system."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x{name}"[:80])
        write_text(path, "before")
        with pytest.raises(ValueError, match="in the middle"):
            fail_in_the_middle(path)
        assert path.read_text() == "before"
        assert list(Path(folder).iterdir()) == [path]


def fail_in_the_middle(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "before"
        raise ValueError("in the middle")


@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
def test_files_have_the_permissions_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    """safetensors writes its files as 0600."""
    before = os.umask(umask)
    try:
        write_arrays(tmp_path / "maps.safetensors", {"maps": np.zeros(3)})
        write_json(tmp_path / "value.json", 1)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("maps.safetensors", "value.json"), 0o666 & ~umask)


def test_a_path_is_found_in_any_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (tmp_path / decomposed).mkdir()
    # é̂: of three spellings, that of the disk is neither in NFC nor in NFD.
    mixed = "e\N{COMBINING DOT BELOW}\N{COMBINING ACUTE ACCENT}" + composed
    names = (composed, f"{decomposed}.txt", mixed)
    for name in names:
        (tmp_path / decomposed / name).touch()
    for name in names:
        for form in ("NFC", "NFD"):
            asked = tmp_path / composed / unicodedata.normalize(form, name)
            assert find_spelling(asked) == tmp_path / decomposed / name
    missing = tmp_path / composed / "missing é"
    assert not find_spelling(missing).exists()
    (tmp_path / decomposed / unicodedata.normalize("NFD", "missing é")).touch()
    assert find_spelling(missing).exists()
    assert find_spelling(tmp_path / "none") == tmp_path / "none"


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1.5, float("nan")], "b": float("inf")})
    assert read_json(tmp_path / "a.json") == {"a": [1.5, None], "b": None}
