"""Wilson's interval is scipy's."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from pipeline.ops.wilson import wilson_interval


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 20), (20, 20), (9, 10), (31, 50)])
def test_the_interval_is_scipys(count: int, total: int) -> None:
    expected = binomtest(count, total).proportion_ci(method="wilson")
    assert wilson_interval(count, total) == pytest.approx((expected.low, expected.high), abs=1e-4)
