"""What `clean` and store.limit delete, and what they keep, of small results and of real runs."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.engine.inventory import Inventory, add_user, read_inventory
from pipeline.engine.removal import limit_store, plan_removal, remove
from pipeline.engine.store import LOCK, Store
from pipeline.formats import human_boxes
from pipeline.formats.files import write_text
from pipeline.results.marks import FILE as MARKS
from pipeline.results.marks import Change, MarksFile
from pipeline.types import WrongMark
from tests.conftest import TINY, Cli

DAY = 86400.0


class Outputs:
    """A folder of outputs, with results and runs that are written by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root)

    def result(self, stage: str, size: int = 1000, days: float = 1, key: int = 0) -> Path:
        """A complete result that was last used some days ago."""

        def create(folder: Path) -> None:
            (folder / "maps.bin").write_bytes(bytes(size))

        folder, _ = self.store.get_or_create(stage, {"key": key}, create)
        then = time.time() - days * DAY
        os.utime(folder / "DONE", (then, then))
        return folder

    def run(self, name: str, *results: Path, days: float = 1, config: str = "") -> Path:
        """The folder of a run, which links to results."""
        folder = self.root / "runs" / name
        (folder / "stages").mkdir(parents=True)
        for result in results:
            link = folder / "stages" / result.parent.name
            link.symlink_to(os.path.relpath(result, link.parent))
        write_text(folder / "config.yaml", f"seed: 0\n{config}")
        then = time.time() - days * DAY
        os.utime(folder / "config.yaml", (then, then))
        return folder

    def inventory(self) -> Inventory:
        return read_inventory(self.root)

    def clean(self, *runs: Path, unfinished: bool = False) -> set[str]:
        """What is left of stages and runs after cleaning, as `train` or `cam/1`."""
        inventory = self.inventory()
        chosen = [run for run in inventory.runs if run.folder in runs]
        remove(self.root, plan_removal(inventory, chosen, unfinished))
        return self.left()

    def left(self) -> set[str]:
        inventory = self.inventory()
        return {r.stage for r in inventory.results} | {run.name for run in inventory.runs}


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "outputs")


def test_what_no_run_links_to_is_deleted(outputs: Outputs) -> None:
    linked, unlinked = outputs.result("train"), outputs.result("explain")
    outputs.run("cam/1", linked)
    (outputs.root / "mine/0123456789abcdef").mkdir(parents=True)
    write_text(outputs.root / "mine/0123456789abcdef/photo.txt", "mine")
    write_text(outputs.root / "human_boxes.json", "[]")
    by_stage = {result.stage: result for result in outputs.inventory().results}
    assert by_stage["explain"].size >= 1000
    assert outputs.clean() == {"train", "cam/1"}
    assert (linked / "maps.bin").is_file()
    assert not unlinked.parent.exists()
    assert (outputs.root / "mine/0123456789abcdef/photo.txt").is_file()
    assert (outputs.root / "human_boxes.json").is_file()
    assert not list(outputs.root.rglob(".deleted*"))


def test_chosen_runs_take_along_what_they_alone_link_to(outputs: Outputs) -> None:
    train, explain = outputs.result("train"), outputs.result("explain")
    first = outputs.run("cam/1", train)
    second = outputs.run("cam/2", train, explain)
    (outputs.root / "latest").symlink_to("runs/cam/2")
    assert outputs.clean(second) == {"train", "cam/1"}
    assert os.readlink(outputs.root / "latest") == "runs/cam/1"
    assert outputs.clean(first) == set()
    assert not (outputs.root / "latest").is_symlink()


def test_a_run_that_a_kept_run_names_is_kept(outputs: Outputs) -> None:
    trained = outputs.run("cam/1", outputs.result("train"))
    middle = outputs.run("predict/1", config=f"checkpoint: {trained}\n")
    outputs.run("evaluate/1", config=f"against: '{middle}/boxes.json'\n")
    everything = {"train", "cam/1", "predict/1", "evaluate/1"}
    assert outputs.clean(trained, middle) == everything
    assert outputs.clean(trained) == everything


def mark(run: Path, name: str = "a.jpg", date: str = "2026-01-02T03:04:05.678Z") -> None:
    """Mark an image of a run as wrong, as its served report does."""
    record = {"file_name": name, "width": 4, "height": 3, "boxes": []}
    MarksFile(run / MARKS, {name: record}).merge({name: Change("wrong", date)})


def test_marks_that_were_not_ingested_keep_their_run(
    outputs: Outputs, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = outputs.result("train")
    run, other = outputs.run("cam/1", trained), outputs.run("cam/2")
    mark(run)
    clean = ("clean", f"outputs={outputs.root}", "runs=all", "yes=true")
    assert cli(*clean) == 0
    said = capsys.readouterr().out
    assert "kept: cam/1, with 1 mark, made by a person and not ingested" in said
    assert "run=outputs/runs/cam/1 corrections=" in said
    assert "marks=true deletes them" in said
    assert (run / MARKS).is_file()
    assert trained.is_dir()
    assert not other.exists()
    # A later mark than the one that was ingested keeps the run; the same one does not.
    known = WrongMark(
        id="a.jpg", content="0" * 16, is_random=False, date="2026-01-02T03:04:05.678Z",
        source="marks: reviewed.json", ingested="",
    )  # fmt: skip
    human_boxes.write(outputs.root / "human_boxes.json", [], [known])
    mark(run, date="2026-02-02T03:04:05.678Z")
    assert "cam/1" in outputs.clean(run)
    known = replace(known, date="2026-02-02T03:04:05.678Z")
    human_boxes.write(outputs.root / "human_boxes.json", [], [known])
    assert "cam/1" not in outputs.clean(run)


def test_marks_are_deleted_where_that_is_asked_for(
    outputs: Outputs, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    run, damaged = outputs.run("cam/1"), outputs.run("cam/2")
    mark(run)
    write_text(damaged / MARKS, "{")
    clean = ("clean", f"outputs={outputs.root}", "runs=all", "yes=true")
    assert cli(*clean) == 0
    assert "cam/2, with a file of marks that cannot be read, made" in capsys.readouterr().out
    assert damaged.is_dir()
    assert cli(*clean, "marks=true") == 0
    assert "with cam/1 for good: 1 mark, made by a person" in capsys.readouterr().out
    assert not run.exists()
    assert not damaged.exists()


def test_what_a_run_that_goes_on_may_use_is_kept(outputs: Outputs) -> None:
    before, used = outputs.result("train", days=3), outputs.result("explain", days=1)
    going = outputs.run("cam/1", days=2)
    with FileLock(going / LOCK):
        assert outputs.clean(going) == {"explain", "cam/1"}
        assert not before.exists()
        assert used.exists()
    assert outputs.clean(going) == set()


def test_a_result_that_is_being_made_is_kept(outputs: Outputs) -> None:
    folder = outputs.result("train")
    with FileLock(folder / LOCK):
        assert outputs.clean(unfinished=True) == {"train"}
    assert outputs.clean() == set()


def test_what_was_looked_up_meanwhile_is_kept(outputs: Outputs) -> None:
    """Between the list and the answer of the user, another run begins."""
    outputs.result("train", days=3)
    plan = plan_removal(outputs.inventory(), (), unfinished=False)
    going = outputs.run("cam/1", days=0)
    with FileLock(going / LOCK):
        assert outputs.store.find("train", {"key": 0}) is not None
        assert remove(outputs.root, plan).results == 0
    assert "train" in outputs.left()


def test_unfinished_results_stay_with_what_they_are_made_from(outputs: Outputs) -> None:
    def create(folder: Path) -> None:
        outputs.result("pseudo_labels")
        raise KeyboardInterrupt

    outputs.result("explain")
    with pytest.raises(KeyboardInterrupt):
        outputs.store.get_or_create("refine", {}, create)
    assert outputs.clean() == {"refine", "pseudo_labels"}
    assert outputs.clean(unfinished=True) == set()


def test_what_killed_runs_left_is_deleted(outputs: Outputs) -> None:
    result = outputs.result("train")
    run = outputs.run("cam/1", result)
    left = (result / ".maps.bin.123.tmp", result / ".tmpA1b2C3", result / "shard-000009.bin",
            outputs.root / "train/.deleted-train-1-2/maps.bin")  # fmt: skip
    kept = (result / "logs/log.csv", run / ".recent.1.tmp", result / "maps.bin")
    for path in (*left, *kept):
        write_text(path, "text")
    assert outputs.clean() == {"train", "cam/1"}
    assert not [path for path in left if path.exists()]
    assert not (outputs.root / "train/.deleted-train-1-2").exists()
    assert [path for path in kept if path.exists()] == [*kept]


def leave_sweep(outputs: Outputs, name: str, hours: float = 2) -> Path:
    """The folder of a sweep whose jobs wrote into it some hours ago."""
    folder = outputs.root / ".sweep" / name
    write_text(folder / "0.log", "a log of a job" * 100)
    then = time.time() - hours * 3600
    for path in (folder / "0.log", folder):
        os.utime(path, (then, then))
    return folder


def test_what_sweeps_left_is_counted_and_deleted(
    outputs: Outputs, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    old, recent = leave_sweep(outputs, "old"), leave_sweep(outputs, "recent", hours=0.5)
    launched = leave_sweep(outputs, ".submitit/17_0")
    write_text(outputs.root / ".sweep/multirun.yaml", "seed: 0\n")
    os.utime(outputs.root / ".sweep/multirun.yaml", (0, 0))
    assert cli("clean", f"outputs={outputs.root}") == 0
    said = capsys.readouterr().out
    assert "3 logs and records that sweeps left: " in said
    assert "kept: 1 log and records of sweeps that go on, or wrote within the last hour" in said
    assert old.is_dir()
    assert cli("clean", f"outputs={outputs.root}", "yes=true") == 0
    assert "deleted: 3 other files" in capsys.readouterr().out
    assert not old.exists()
    assert not launched.parent.exists()
    assert [path.name for path in recent.parent.iterdir()] == ["recent"]
    os.utime(recent / "0.log", (0, 0))
    os.utime(recent, (0, 0))
    outputs.clean()
    assert not (outputs.root / ".sweep").exists()


def test_what_a_sweep_that_goes_on_writes_is_kept(outputs: Outputs) -> None:
    """Also where no job wrote for an hour; what its launcher wrote beside it, too."""
    going, killed = leave_sweep(outputs, "going"), leave_sweep(outputs, "killed")
    launched = leave_sweep(outputs, ".submitit/17_0")
    with FileLock(going / LOCK):
        os.utime(going / LOCK, (0, 0))
        os.utime(going, (0, 0))
        plan = plan_removal(outputs.inventory(), (), unfinished=False)
        assert [*plan.sweeps] == [killed]
        outputs.clean()
        assert going.is_dir()
        assert launched.is_dir()
        assert not killed.exists()
        # Between the list and the answer of the user, another sweep begins in a folder.
        again = leave_sweep(outputs, "killed")
        with FileLock(again / LOCK):
            assert remove(outputs.root, plan).leftovers == 0
        assert again.is_dir()


def test_a_run_of_another_folder_of_outputs_keeps_what_it_links_to(
    outputs: Outputs, tmp_path: Path
) -> None:
    result = outputs.result("train")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "stages").mkdir(parents=True)
    add_user(result, elsewhere)
    assert outputs.clean() == {"train"}
    (elsewhere / "stages").rmdir()
    assert outputs.clean() == set()


def test_photographs_that_are_linked_into_a_result_take_no_room(outputs: Outputs) -> None:
    result = outputs.result("export", size=10)
    size = outputs.inventory().results[0].size
    photo = outputs.root.parent / "photo.jpg"
    photo.write_bytes(bytes(5000))
    os.link(photo, result / "photo.jpg")
    assert outputs.inventory().results[0].size == size


def test_the_least_recently_used_go_first_until_the_rest_fits(outputs: Outputs) -> None:
    for key, days in enumerate((1, 4, 3, 2)):
        outputs.result("explain", 100_000, days, key)
    outputs.run("cam/1", outputs.result("train", 100_000, days=9))
    assert limit_store(outputs.root, "1M") is None
    line = limit_store(outputs.root, "310K")
    assert line is not None
    assert line.startswith("store      2 results removed")
    kept = [r.used for r in outputs.inventory().results if r.stage == "explain"]
    assert sorted(round((time.time() - used) / DAY) for used in kept) == [1, 2]
    line = limit_store(outputs.root, "50K")
    assert line is not None
    assert "2 results removed" in line
    assert "more than store.limit=50K" in line
    assert outputs.left() == {"train", "cam/1"}


# -- the command line ----------------------------------------------------------------------------

RUN = ("+experiment=cam", *TINY, "stages=[train,explain,calibrate,localize]")


def test_after_cleaning_the_same_command_computes_nothing(
    cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli(*RUN) == 0
    assert cli(*RUN, "segmenter.threshold=0.4", "name=other") == 0
    capsys.readouterr()
    assert cli("clean") == 0
    listed = capsys.readouterr().out
    assert re.search(r"^other/\S+ .* 1 min$", listed, re.MULTILINE)
    assert "nothing deleted; yes=true deletes these without asking" in listed
    assert len(list((tmp_path / "outputs/explain").iterdir())) == 2, "held-back images, too"
    assert cli("clean", "runs=other", "--yes") == 0
    assert "deleted: 1 run, " in capsys.readouterr().out
    assert cli(*RUN) == 0
    assert " made " not in capsys.readouterr().out
    assert cli("clean", "older_than=1d", "yes=true") == 0
    assert len(list((tmp_path / "outputs/runs/cam").iterdir())) == 2
    assert cli(*RUN, "store.limit=1K", "name=limited") == 0
    output = capsys.readouterr().out
    assert " made " not in output
    assert "more than store.limit=1K" in output
    assert cli("clean", "runs=all", "yes=true") == 0
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {".store.lock", "runs"}


def test_a_terminal_asks(cli: Cli, monkeypatch: pytest.MonkeyPatch, outputs: Outputs) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    outputs.result("train")
    for answer, left in (("", {"train"}), ("y", set())):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert cli("clean", f"outputs={outputs.root}") == 0
        assert outputs.left() == left


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run=cam"], "did you mean 'runs'"),
        (["yes=perhaps"], "expected yes=true or yes=false"),
        (["older_than=30"], "expected an age as 12h, 30d or 8w"),
        (["runs=cma"], "did you mean 'cam'"),
        (["outputs=nowhere"], "no such folder"),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: list[str], part: str, cli: Cli, outputs: Outputs,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    outputs.run("cam/1", outputs.result("train"))
    assert cli("clean", *arguments) == 2
    assert part in capsys.readouterr().err
    assert outputs.left() == {"train", "cam/1"}


def test_a_limit_that_is_no_size_is_refused(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*RUN, "store.limit=much") == 2
    assert "store.limit=much: expected a size as 20G" in capsys.readouterr().err


def test_help_and_version(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("clean", "--help") == 0
    assert "older_than=30d" in capsys.readouterr().out
    assert cli("--version") == 0
    line = capsys.readouterr().out
    assert re.match(r"label2box \S+; torch \d\S+, torchvision \d\S+, opencv-python \d", line)
    assert line.endswith(f"Python {sys.version.split()[0]}\n")
