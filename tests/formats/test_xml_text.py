"""Text and numbers in XML: a parser gives back what was written."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.xml_text import is_plain, to_attribute, to_number, to_text


@given(st.text())
def test_plain_text_comes_back(text: str) -> None:
    element = ElementTree.fromstring(f"<a b={to_attribute(text)}>{to_text(text)}</a>".encode())
    if is_plain(text):
        assert element.get("b") == text
        assert (element.text or "") == text
    else:
        assert element.get("b") != text


@pytest.mark.parametrize("text", ["a\0b", "\x08", "\ud800", "￿"])
def test_what_xml_forbids_is_escaped(text: str) -> None:
    assert not is_plain(text)
    element = ElementTree.fromstring(f"<a>{to_text(text)}</a>")
    assert element.text.isprintable()


@given(st.floats(-1e6, 1e6))
def test_numbers_keep_four_decimals(value: float) -> None:
    assert abs(float(to_number(value)) - value) <= 0.5001e-4
