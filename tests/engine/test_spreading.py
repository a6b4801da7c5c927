"""Shards and items that a runner computes: in any order the same as without it."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.engine import progress, runtime, shards, spread_items, spreading
from pipeline.engine.shard_parts import concatenate_parts
from pipeline.engine.spread_items import map_items
from pipeline.engine.spreading import NeededPath, Spread, pickle_task, spread_shards, unpickle
from pipeline.errors import UserError
from pipeline.formats.arrays import read_arrays
from pipeline.model.compiled import Compiled
from pipeline.results.shards import list_shards
from pipeline.types.jobs import JobResult
from tests.conftest import TINY, Cli
from tests.engine.shuffled import Shuffled

pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")

SHUFFLED = "runner._target_=tests.engine.shuffled.Shuffled"


@pytest.fixture(autouse=True)
def as_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker has, and what it changes in its process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(runtime, "_most_threads", None)
    monkeypatch.setattr(Shuffled, "at_most", 0)
    monkeypatch.setattr(Shuffled, "tasks", 0)


def write(folder: Path, runner: Shuffled | None, unit: str = "images") -> dict[str, bytes]:
    """The shards of squares of 50 numbers, of which 7 and 31 cannot be used."""
    folder.mkdir()

    def flow(pieces: Iterator[range]) -> Iterator[Any]:
        for piece in pieces:
            kept = np.array([n for n in piece if n not in (7, 31)])
            yield {"n": kept, "square": kept**2}, [(n, "odd") for n in piece if n in (7, 31)]

    plan = shards.ShardPlan(count=50, size=12, piece=5, unit=unit)
    with spread_shards(None if runner is None else Spread(runner, uses_gpu=False), "explain"):
        shards.write_shards(folder, "squares", plan, flow, concatenate_parts)
    return {path.name: path.read_bytes() for path in list_shards(folder)}


@pytest.mark.parametrize("where", ["driver", "workers"])
def test_shards_are_the_same_in_any_order(where: Any, tmp_path: Path) -> None:
    expected = write(tmp_path / "local", None)
    assert len(expected) == 5
    for seed in range(4):
        runner = Shuffled(seed, where, halves=0.3 * (seed % 2))
        assert write(tmp_path / str(seed), runner) == expected


def test_a_position_that_is_set_aside_is_among_the_skipped(tmp_path: Path) -> None:
    write(tmp_path / "a", Shuffled(fails={1: 14}))
    arrays, notes = read_arrays(list_shards(tmp_path / "a")[1])
    assert arrays["n"].tolist() == [n for n in range(12, 24) if n != 14]
    assert notes["set_aside"] == [[14, "computing it failed 3 times: a test"]]
    with pytest.raises(UserError, match="runner=local computes it in this process"):
        write(tmp_path / "b", Shuffled(fails={1: 14}), unit="shards")


@pytest.mark.parametrize("ahead", [1, 256])
def test_items_come_in_order(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread_items, "ITEMS", 7)
    monkeypatch.setattr(spread_items, "AHEAD", ahead)
    for seed in range(4):
        with spread_shards(Spread(Shuffled(seed, halves=0.3), uses_gpu=False), "evaluate"):
            assert [*map_items(lambda n: n**2, iter(range(100)), 2)] == [n**2 for n in range(100)]
    assert Shuffled.tasks == 4
    assert Shuffled.at_most > 1 or ahead == 1


def test_no_job_begins_while_large_results_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread_items, "BYTES_AHEAD", 1_000)
    stream = spread_items._Stream(range(3 * spread_items.ITEMS))
    first, second, _ = stream.jobs()
    large = JobResult(pickle.dumps([bytes([n] * 100) for n in range(spread_items.ITEMS)]))
    stream.add(second, large)
    assert [*stream.take_ready()] == []
    assert not stream.may_begin()
    stream.add(first, large)
    assert len([*stream.take_ready()]) == 2 * spread_items.ITEMS
    assert stream.may_begin()


def test_items_that_cannot_be_computed_end_the_run() -> None:
    with (
        spread_shards(Spread(Shuffled(fails={0: 3}), uses_gpu=False), "evaluate"),
        pytest.raises(UserError, match="item 3: computing it failed 3 times"),
    ):
        [*map_items(abs, range(100), 2)]


def test_what_writes_files_is_spread_where_workers_may_write() -> None:
    for where, tasks in (("driver", 0), ("workers", 1)):
        Shuffled.tasks = 0
        with spread_shards(Spread(Shuffled(write=where), uses_gpu=False), "draw"):  # type: ignore[arg-type]
            assert [*map_items(abs, range(10), 2, writes=True)] == [*range(10)]
        assert Shuffled.tasks == tasks


def test_the_place_of_work_is_shown_while_it_goes_on() -> None:
    with spread_shards(Spread(Shuffled(), uses_gpu=False), "evaluate"):
        results = map_items(abs, range(10), 2)
        next(results)
        task = progress.Task("evaluate", 60, 0, "images", began=0.0)
        task.advance(10)
        assert task.describe(10.0) == "10 of 60 images on 3 nodes, 1.0/s, 50 s left"
        assert [*results] == [*range(1, 10)]
    assert task.describe(10.0) == "10 of 60 images, 1.0/s, 50 s left"


def test_a_worker_without_a_path_names_option_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "photos"
    (root / "a").mkdir(parents=True)
    content, _ = pickle_task(abs, [NeededPath.of("data.root", root)])
    assert unpickle(content)[0] is abs
    (root / "a").rmdir()  # as where nothing is mounted
    with pytest.raises(
        UserError, match=r"data\.root=.*photos.*where .*photos/a is not.*at the same"
    ):
        unpickle(content)
    root.rmdir()
    with pytest.raises(UserError, match=r"data\.root=.*or runner=local"):
        unpickle(content)


def test_a_file_that_is_missing_in_a_worker_is_named() -> None:
    with (
        spread_shards(Spread(Shuffled(), uses_gpu=False), "evaluate"),
        pytest.raises(UserError, match=r"/nowhere/x is not on .*that all machines have"),
    ):
        [*map_items(os.stat, ["/nowhere/x"], 2)]


def test_what_a_backend_did_in_a_worker_is_known_here(tmp_path: Path) -> None:
    """It is compiled there: that it was used, and why it was refused, comes back."""
    here = Compiled("onnxruntime")
    content, kept = pickle_task({"first": here, "second": here}, [])
    assert kept == [here]
    task, gathered = unpickle(content)
    there = task["first"]
    assert [id(each) for each in (task["second"], *gathered)] == [id(there)] * 2
    assert (there.backend, there.is_used) == ("onnxruntime", False)
    kept[0].take(gathered[0].hand_over())
    assert (here.is_used, here.refusals) == (False, [])
    there.is_used = True
    there._refuse("a test")
    for _ in range(2):  # after each of two jobs
        kept[0].take(gathered[0].hand_over())
    assert here.is_used
    assert here.refusals == ["runtime.backend=onnxruntime: a test"]


def test_one_way_to_start_processes(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("+experiment=cam", *TINY, SHUFFLED, "runtime.devices=2", "runtime.device=cpu") == 2
    assert "it starts workers itself, and there are 2 processes already" in capsys.readouterr().err


RUNS: dict[str, Sequence[str]] = {
    "best": ("+experiment=best", *TINY, "refine.steps=4"),
    "audit": ("+experiment=cam", *TINY, "stages=[train,explain,localize,audit,picture,draw]"),
    "check": ("+experiment=check", *TINY),
}


LONG = pytest.mark.skipif(
    "LABEL2BOX_KILLS" not in os.environ, reason="takes most of a minute: ./scripts/test faults"
)


@pytest.mark.parametrize("name", ["best", "check", pytest.param("audit", marks=LONG)])
def test_results_are_the_same_bytes(name: str, cli: Cli, tmp_path: Path) -> None:
    """All files of all stages, but for records of time and of what was read."""
    spreading._runners.clear()
    options = RUNS[name]
    assert cli(*options, "outputs=local") == 0
    assert cli(*options, "outputs=spread", SHUFFLED, "runner.write=workers") == 0
    assert Shuffled.tasks > 0
    ours, theirs = (contents(tmp_path / folder) for folder in ("spread", "local"))
    assert ours.keys() == theirs.keys()
    assert [path for path, content in ours.items() if content != theirs[path]] == []


def contents(outputs: Path) -> dict[str, bytes]:
    """The bytes of the files of results, by path below the outputs."""
    found = {
        str(path.relative_to(outputs)): in_order(path)
        for path in sorted(outputs.rglob("*"))
        if path.is_file()
        and path.parts[len(outputs.parts)] not in ("runs", "latest", "locks")
        and path.suffix in (".json", ".safetensors", ".png", ".jpg")
        and path.name != "card.json"  # which says when and for how long a network was trained
    }
    reports = outputs.glob("report/*/index.html")
    return found | {f"{path.relative_to(outputs)}": read_report(path) for path in reports}


def read_report(path: Path) -> bytes:
    """What a report's page shows of images, without what says when a stage ran, and how long."""
    (text,) = re.findall(r'id="view-model">(.*?)</script>', path.read_text(encoding="utf-8"))
    model = json.loads(text)
    del model["stages"], model["made"]
    assert len(model["images"]) > 20
    return json.dumps(model).encode()


def in_order(path: Path) -> bytes:
    """The bytes of a file; of arrays with the names of their notes in order, which vary."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        return content
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True)
    return header.encode() + content[8 + size :]
