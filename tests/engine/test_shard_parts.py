"""Slow shards are written in parts: what is done is not done again, and the bytes are the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine import shard_parts, shards
from pipeline.engine.compute import Compute
from pipeline.engine.passes import count_passes, limit_batch
from pipeline.results.shards import list_shards
from pipeline.saliency.cam import CAM
from pipeline.saliency.rise import RISE
from pipeline.types import Example
from tests.saliency.networks import build_network

PLAN = shards.ShardPlan(count=25, size=10, piece=3)


class Killed(BaseException):
    """What kill -9 looks like from inside: nothing after it runs."""


def write(folder: Path, at_most: int = 99) -> list[int]:
    """Write the shards, killed after so many pieces; where each computed piece began."""
    begun: list[int] = []

    def flow(pieces: Iterator[range]) -> Iterator[Any]:
        for piece in pieces:
            if len(begun) == at_most:
                raise Killed
            begun.append(piece.start)
            readable = [n for n in piece if n % 4]
            arrays = {"image": np.array(readable), "half": np.array(readable, np.float16)}
            yield arrays, [(n, f"broken {n}") for n in piece if n % 4 == 0]

    with suppress(Killed):
        shards.write_shards(folder, "explain", PLAN, flow, shard_parts.concatenate_parts)
    return begun


def content(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in list_shards(folder)]


@pytest.mark.parametrize("pieces", range(10))
def test_killed_after_any_piece_it_goes_on_with_the_next(
    pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    every = write(whole)
    assert not list(whole.glob(shard_parts.PATTERN))
    monkeypatch.setattr(shard_parts, "PART_SECONDS", -1.0)  # a part of each piece
    assert [*write(cut, pieces), *write(cut)] == every
    assert content(cut) == content(whole)
    assert len(content(whole)) == 3
    assert not [path for path in cut.iterdir() if ".part-" in path.name]


def test_a_damaged_part_and_those_behind_it_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_parts, "PART_SECONDS", -1.0)
    assert write(tmp_path, 3) == [0, 3, 6]
    parts = sorted(tmp_path.glob(shard_parts.PATTERN))
    assert len(parts) == 3
    parts[1].write_bytes(parts[1].read_bytes()[:-5])
    assert write(tmp_path)[:3] == [3, 6, 9]


def test_parts_of_another_plan_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_parts, "PART_SECONDS", -1.0)
    write(tmp_path, 2)
    monkeypatch.setattr("tests.engine.test_shard_parts.PLAN", replace(PLAN, source="others"))
    assert write(tmp_path)[0] == 0


def test_a_slow_method_has_smaller_pieces() -> None:
    network = build_network("plain")
    trained: Any = SimpleNamespace(
        network=network, tensor=lambda pixels: torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    )
    example = Example("a", np.zeros((32, 32, 3), np.uint8), 0, (32, 32))
    cpu = Compute(torch.device("cpu"), "float32", workers=0, batch=16, shard=256)
    assert count_passes(CAM(), trained, example, 100) == 1
    assert count_passes(RISE(masks=32), trained, example, 100) == 33
    assert count_passes(RISE(masks=400), trained, example, 100) == 100

    class Images(list[Example]):
        size = (32, 32)

        def read(self, position: int, size: Any) -> Example:
            return self[position]

    images: Any = Images([example])
    assert limit_batch(cpu, CAM(), trained, images).batch == 16
    assert limit_batch(cpu, RISE(masks=32), trained, images).batch == 5
    assert limit_batch(cpu, RISE(masks=4000), trained, images).batch == 1
    assert limit_batch(replace(cpu, batch=2), CAM(), trained, images).batch == 2
    assert not network._forward_pre_hooks
