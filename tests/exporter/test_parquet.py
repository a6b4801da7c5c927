"""parquet: a typed row a box, written in groups, that pyarrow reads back as it was."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from tests.exporter.subjects import CLASSES, IDS, boxes_of
from tests.exporter.tools import export, subject


def test_boxes_scores_classes_and_masks_come_back(tmp_path: Path) -> None:
    from pyarrow import parquet

    export("parquet", subject(tmp_path / "images", masks=True), tmp_path / "parquet")
    rows = parquet.read_table(tmp_path / "parquet/boxes.parquet").to_pylist()
    assert [row["image"] for row in rows] == [IDS[0], IDS[0], IDS[1], IDS[2], IDS[3]]
    assert [row["class"] for row in rows] == [CLASSES[0], CLASSES[0], CLASSES[1], None, CLASSES[2]]
    boxes = [row for row in rows if row["class"] is not None]
    read = np.array([[row[side] for side in ("x0", "y0", "x1", "y1")] for row in boxes])
    wanted = [boxes_of(position, True) for position in (0, 1, 3)]
    assert np.abs(read - np.concatenate([item.boxes for item in wanted])).max() < 0.01
    assert [row["score"] for row in boxes] == pytest.approx([0.9, 0.1, 0.9, None], abs=1e-6)
    assert [row["confidence"] for row in boxes] == [0.8125, 0.25, 0.8125, None]
    assert [row["review_sample"] for row in rows] == [False, False, True, False, False]
    assert [row["source"] for row in rows] == ["label2box"] * 4 + ["human"]
    masks = [mask for item in wanted for mask in item.masks]
    for row, mask in zip(boxes, masks, strict=True):
        rle = {"size": [row["height"], row["width"]], "counts": row["mask"]}
        assert np.array_equal(coco_mask.decode(rle), coco_mask.decode(mask))


def test_rows_are_written_in_groups(tmp_path: Path) -> None:
    from pyarrow import parquet

    found = subject(tmp_path / "images")
    export("parquet", found, tmp_path / "parquet", rows_in_group=2)
    file = parquet.ParquetFile(tmp_path / "parquet/boxes.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [2, 2, 1]


def test_without_pyarrow_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'label2box\[parquet\]'"):
        export("parquet", subject(tmp_path / "images"), tmp_path / "parquet")
