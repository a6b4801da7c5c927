import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.formats.files import write_json
from pipeline.formats.json_records import write_records

RECORDS: list[dict[str, Any]] = [
    {
        "name": 'gt "known" \\ loc é \u2028',
        "value": 0.1 + 0.2,
        "n": 50,
        "iou": None,
        "threshold": {"kind": "oracle", "value": [0.1, 1e-17, 1e22]},
        "interval": (0.0, 1.0),
        "has": True,
    },
    {"empty": [], "none": {}, "nested": [[1, [2]], {"a": {"b": False}}], "numpy": np.float64(0.25)},
    {},
    {"nan": math.nan, "more": [math.inf, -math.inf, np.float64("nan")]},
]


@pytest.mark.parametrize("count", range(len(RECORDS) + 1))
def test_the_file_is_that_of_the_standard_library(count: int, tmp_path: Path) -> None:
    write_json(tmp_path / "theirs.json", RECORDS[:count], indent=1)
    write_records(tmp_path / "ours.json", iter(RECORDS[:count]))
    assert (tmp_path / "ours.json").read_bytes() == (tmp_path / "theirs.json").read_bytes()
    if count < len(RECORDS):
        text = json.dumps(RECORDS[:count], indent=1) + "\n"
        assert (tmp_path / "ours.json").read_text() == text


def test_what_json_cannot_hold_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_records(tmp_path / "ours.json", [{"a": {1, 2}}])
    assert not list(tmp_path.iterdir())
