import numpy as np
import pytest

from pipeline.ops.growing import GrowingArray


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_values_are_those_appended(shape: tuple[int, ...]) -> None:
    expected = np.random.default_rng(0).random((200, *shape))
    array = GrowingArray(float, shape)
    assert array.values.shape == (0, *shape)
    for count, value in enumerate(expected, 1):
        array.append(value)
        if count in (1, 64, 65, 200):
            np.testing.assert_array_equal(array.values, expected[:count])
    assert len(array) == 200
    assert array.values.dtype == float


def test_values_cannot_be_written_to_but_appended() -> None:
    array = GrowingArray(bool)
    array.append(True)
    before = array.values
    with pytest.raises(ValueError, match="read-only"):
        before[0] = False
    array.append(False)
    assert before.tolist() == [True]
    assert array.values.tolist() == [True, False]
