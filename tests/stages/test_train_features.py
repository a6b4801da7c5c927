"""Features on disk: rows out of many shards, none read that is not asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.formats.arrays import map_arrays, write_arrays
from pipeline.results.shards import shard_path
from pipeline.stages.train import features
from pipeline.stages.train.reading import Reading


def write(folder: Path, sizes: list[int]) -> np.ndarray:
    """Shards of so many rows each, 0 for one in which all was set aside; gives all rows."""
    rng = np.random.default_rng(0)
    every = rng.normal(size=(sum(sizes), 5)).astype(np.float16)
    start = 0
    for n, size in enumerate(sizes):
        positions = np.arange(start, start + size)
        arrays = {"features": every[start : start + size], "labels": positions,
                  "positions": positions, "several": positions == 4,
                  "own_range": positions > 10}  # fmt: skip
        aside = [(n, f"broken {n}")] if size == 0 else []
        write_arrays(shard_path(folder, n), arrays if size else {}, set_aside=aside)
        start += size
    return every


def test_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    every = write(tmp_path, [4, 0, 1, 7])
    rows, labels, reading = features.read_pooled(tmp_path)
    assert len(rows) == 12
    assert labels.tolist() == list(range(12))
    assert reading.reasons == ["broken 1"]
    assert (reading.several, reading.own_range) == ({4}, {11})
    places = np.array([11, 0, 4, 3, 5, 4, 0])
    assert np.array_equal(rows[places], every[places].astype(np.float32))
    assert rows[places].dtype == np.float32


def test_they_are_mapped_and_not_read(tmp_path: Path) -> None:
    write(tmp_path, [4, 7])
    rows, _, _ = features.read_pooled(tmp_path)
    assert all(isinstance(part.base, np.memmap) for part in rows.parts)
    assert not any(part.flags.writeable for part in rows.parts)


def test_no_shard_is_no_row(tmp_path: Path) -> None:
    rows, labels, reading = features.read_pooled(tmp_path)
    assert (len(rows), len(labels), reading) == (0, 0, Reading())


def test_a_shard_cut_short_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [4])
    path = shard_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="not as it was written"):
        map_arrays(path)["features"]
