"""Which kind of picture suits a map, and that it is drawn as that kind."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.plotting import colours
from pipeline.plotting.map_pictures import choose_kind, draw_map, list_scales

RANDOM = np.random.default_rng(0)
POSITIVE = RANDOM.random((20, 30), np.float32)
IMAGE = RANDOM.integers(0, 256, (40, 60, 3), np.uint8)


@pytest.mark.parametrize(
    ("values", "input_height", "kind"),
    [
        (POSITIVE, 41, "over"),
        (POSITIVE - 0.5, 41, "over"),
        (POSITIVE, 40, "map"),
        (POSITIVE - 0.5, 40, "signed"),
    ],
)
def test_a_coarse_map_lies_over_the_image_and_a_fine_map_has_its_sign(
    values: np.ndarray, input_height: int, kind: str
) -> None:
    assert choose_kind(values, input_height) == kind


def test_zero_is_white_and_the_signs_have_the_ends_of_the_colour_bar() -> None:
    values = np.zeros((40, 60), np.float32)
    values[:10], values[30:] = -2, 2
    drawn = draw_map(values, "signed", IMAGE, 100)
    np.testing.assert_allclose(drawn[0, 0], colours.BLUE, atol=2)
    np.testing.assert_allclose(drawn[-1, 0], colours.RED, atol=2)
    np.testing.assert_allclose(drawn[20, 0], (255, 255, 255), atol=2)
    (scale,) = list_scales(["signed"], 100)
    np.testing.assert_array_equal(scale.bar[0, 0], drawn[0, 0])


@pytest.mark.parametrize("kind", ["map", "over", "grey", "signed", "signed_over"])
def test_a_picture_has_the_size_of_the_image(kind: str) -> None:
    assert draw_map(POSITIVE - 0.5, kind, IMAGE, 99).shape == IMAGE.shape
    assert list_scales([kind], 99)
