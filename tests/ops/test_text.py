"""text: names in one Unicode form, and names that stay different."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops.text import count_note, list_some, printable, spell_out, to_nfc


@given(st.text())
def test_unicode_forms_are_compared_as_the_same_name(name: str) -> None:
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    assert len({to_nfc(form) for form in forms}) == 1
    assert len({printable(form) for form in forms}) == 1
    assert len({spell_out(form) for form in forms}) == len(set(forms))


@given(st.text(), st.text())
def test_other_names_stay_different(a: str, b: str) -> None:
    assert (printable(a) == printable(b)) == (to_nfc(a) == to_nfc(b))
    assert (spell_out(a) == spell_out(b)) == (a == b)
    assert spell_out(a).isascii()
    assert (spell_out(a) or "-").isprintable()


@pytest.mark.parametrize(
    ("what", "text"), [("image", "2 images"), ("class", "2 classes"), ("box", "2 boxes")]
)
def test_plurals(what: str, text: str) -> None:
    assert list_some(["a", "b"], what) == f"{text} ('a', 'b')"


def test_a_note_about_one_is_in_the_singular() -> None:
    why = "of 9 have no box of their own class"
    assert count_note(["a"], "image", why) == "1 image ('a') of 9 has no box of its own class"
    assert count_note(["a", "b"], "image", why) == (
        "2 images ('a', 'b') of 9 have no box of their own class"
    )
    assert count_note(["a"], "map", "are of no image") == "1 map ('a') is of no image"
    assert count_note(["a", "b"], "category", "").startswith("2 categories ")
