"""alarm: the confidence of what an image without an object would get a box for."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.stages.evaluate.alarm import describe_alarms, measure_alarm
from pipeline.types import Boxes, Note, SaliencyMap

SIZE = (30, 40)
MAPS = [SaliencyMap.of("a", 0, 0, 0.9, np.ones((2, 2), np.float32), SIZE)]


def boxes_of(confidences: list[float]) -> dict[int, Boxes]:
    box = np.tile(np.array([0, 0, 9, 9], np.float32), (len(confidences), 1))
    sure = np.array(confidences, np.float32)
    return {0: Boxes("a", 0, box, np.ones(len(box), np.float32), SIZE, confidences=sure)}


@pytest.mark.parametrize(
    ("confidences", "predicted", "expected"),
    [([0.75, 0.9], 0, 0.75), ([], 0, 0.0), ([0.75], 1, 0.0), ([0.75], 2, None)],
)
def test_the_alarm_of_an_image(
    confidences: list[float], predicted: int, expected: float | None
) -> None:
    assert measure_alarm(MAPS, boxes_of(confidences), predicted, {1}) == expected


def test_the_sentence() -> None:
    alarms = [0, 0.2, 0.5, 0.49, 0.9, 0, 0, 0, 0, 0]
    (note,) = describe_alarms({f"{n}.png": alarm for n, alarm in enumerate(alarms)})
    assert str(note) == (
        "evaluate: of 10 images without an object (data.negatives) 2 (20.0 %, 95 %: 5.7 to 51.0) "
        "are taken for an object, with a box of confidence 0.5 or more; 4 with a box of any "
        "confidence"
    )
    assert isinstance(note, Note)
    assert note.names == ("2.png", "4.png")
    assert describe_alarms({}) == []
