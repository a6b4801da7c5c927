"""./scripts/bench all: each number has its aim and spread, what did not run a reason."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from scripts.measure import __main__, bench_all, records
from scripts.measure.bench_all import JOBS, Job, Row, format_row, run_job
from scripts.measure.records import Record

# Stands for python -m scripts.measure bench NAME: writes records, or fails, as its name says.
STUB = """#!{python}
import json, os, sys, time
name = sys.argv[4]
if name == "missing":
    sys.exit("missing: ../shared/data does not exist, so nothing was measured")
if name == "broken":
    print("Traceback", "ValueError: no", sep=chr(10), file=sys.stderr)
    sys.exit(3)
if name == "endless":
    time.sleep(600)
rows = [
    dict(name="fast", ours=2.0, theirs=1.0, ratio=2.0, unit="images/s", peer="a peer", low=1.5,
         high=2.5),
    dict(name="slow", ours=1.0, theirs=2.0, ratio=0.5, unit="images/s", peer="a peer"),
    dict(name="kept", ours=1.0, theirs=3.0, ratio=3.0, unit="s", peer="the limit: 3 s"),
]
os.makedirs("outputs/bench", exist_ok=True)
json.dump(rows, open(f"outputs/bench/{{name}}.json", "w"))
"""


@pytest.fixture(autouse=True)
def _stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(stub))


def test_rows_of_a_bench() -> None:
    rows = run_job(Job("good", ("a=1",), 1, {"fast": 1.3, "slow": 1.3}), 100)
    assert [(row.record.name, row.aim, row.holds) for row in rows] == [
        ("fast", 1.3, True), ("slow", 1.3, False), ("kept", 1.0, True),
    ]  # fmt: skip
    assert format_row(rows[0]) == (
        "| good | fast | 2 | 1 | images/s | 2 | 1.50 to 2.50 | 1.3 | holds | a peer |"
    )
    assert "| 1.3 | missed | a peer |" in format_row(rows[1])


@pytest.mark.parametrize(
    ("name", "left", "reason"),
    [
        ("missing", 100, "missing: ../shared/data does not exist, so nothing was measured"),
        ("broken", 100, "failed with exit code 3: ValueError: no"),
        ("endless", 0.6, "not complete after 0.0 minutes"),
        ("good", 0.1, "not begun: the time of all benches was over"),
    ],
)
def test_a_bench_that_did_not_run_has_a_reason(
    name: str, left: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_all, "LEAST_SECONDS", 0.5)
    assert run_job(Job(name, (), 1), left) == [Row(name, reason=reason)]


def test_one_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = (Job("good", (), 1, {"fast": 1.3}), Job("missing", (), 1), Job("other", (), 1))
    monkeypatch.setattr(bench_all, "JOBS", jobs)
    assert __main__.main("bench", "all", "only=good,missing") == 0
    printed = capsys.readouterr().out
    text = Path("outputs/bench/all.md").read_text()
    assert text in printed
    assert f"{len(os.sched_getaffinity(0))} cores" in text
    assert text.count("\n| good |") == 3
    assert "| missing | - |" in text
    assert "3 numbers, 0 below the aim, 1 benches not complete" in printed
    document = json.loads(Path("outputs/bench/all.json").read_text())
    assert [row["holds"] for row in document["rows"]] == [True, None, True, None]
    assert {"cpu", "flags", "cores", "torch", "load_before", "minutes"} <= set(document["machine"])
    monkeypatch.setattr(bench_all, "JOBS", (Job("good", (), 1, {"slow": 1.0}),))
    assert __main__.main("bench", "all") == 1


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("only=nothing", "hours=3"):
        assert __main__.main("bench", "all", wrong) == 2
        assert "names: api, backends, export" in capsys.readouterr().err


def test_jobs_are_benches_of_half_an_hour_at_most() -> None:
    assert {job.bench for job in JOBS} <= {*__main__.SPEED}
    assert all(job.minutes <= bench_all.MINUTES / 3 for job in JOBS)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    some = [Record("a", 1.0, None, None, "s", "note"), Record("b", 1, 2, 2, "s", "p", 1.5, 2.5)]
    records.write("name", some, tmp_path)
    assert records.read("name", tmp_path) == some
