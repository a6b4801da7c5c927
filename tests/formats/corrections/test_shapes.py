"""Boxes around turned boxes and ellipses: the same as around many points of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.corrections.shapes import ellipse_box, rotate_box

ANGLES = st.floats(-400, 400)


@given(ANGLES)
def test_the_box_around_an_ellipse_touches_it(degrees: float) -> None:
    angle = math.radians(degrees)
    points = [
        (
            5 + 8 * math.cos(t) * math.cos(angle) - 3 * math.sin(t) * math.sin(angle),
            7 + 8 * math.cos(t) * math.sin(angle) + 3 * math.sin(t) * math.cos(angle),
        )
        for t in (2 * math.pi * n / 5000 for n in range(5000))
    ]
    xs, ys = zip(*points, strict=True)
    expected = (min(xs), min(ys), max(xs), max(ys))
    assert ellipse_box(5, 7, 8, 3, degrees) == pytest.approx(expected, abs=1e-3)


@given(ANGLES)
def test_turning_by_four_quarters_changes_nothing(degrees: float) -> None:
    box = (1.0, 2.0, 5.0, 9.0)
    assert rotate_box(box, 360, (3, 3)) == pytest.approx(box)
    there = rotate_box(box, degrees, (3.0, 5.5))
    assert there == pytest.approx(rotate_box(box, degrees + 180, (3.0, 5.5)), abs=1e-9)
