"""COCO files are valid JSON: no NaN and no infinity."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.formats.coco_writing import dump


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(tmp_path: Path, score: float) -> None:
    with pytest.raises(UserError, match="score of a COCO record is NaN or infinite"):
        dump(tmp_path / "a.json", [{"image_id": 1, "bbox": [0, 0, 1, 1], "score": score}])
