"""The numbers that clovaai/wsolevaluation itself gave; absent from a bare checkout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2].parent / "shared" / "reference"
needed = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"the reference evaluator's answers are not at {FOLDER}"
)


@cache
def answers() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "wsolevaluation.json").read_text())
    return content


@cache
def arrays() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "wsolevaluation.npz") as content:
        return dict(content)


def true_boxes(i: int) -> np.ndarray:
    return np.array(answers()["boxes"][i])
