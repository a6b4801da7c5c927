"""The comparison of two run folders finds what differs, and passes over only what is listed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file

from scripts.measure import snapshots
from scripts.measure.snapshot_compare import Allowed, Renamed, Rules, Side, compare_folders
from scripts.measure.snapshot_jobs import JOBS

RECORDS = [
    {"name": "gt_known_loc", "value": 0.5, "n": 4, "threshold": {"kind": "fixed"}},
    {"name": "mean_iou", "value": 0.25, "n": 4, "threshold": None},
]
PAGE = (
    "<h1>cam</h1>\n<p>Made 2026-01-02 03:04 by label2box 0.1.0, commit 0123456789ab+, "
    "PyTorch 2, Python 3.</p>\n"
)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_run(work: Path) -> Path:
    """A run folder with a file of each kind; one stage's result lies elsewhere and is linked."""
    run, result = work / "runs/cam/now", work / "train/0123"
    write_json(run / "metrics.json", RECORDS)
    write_json(result / "card.json", {"model": {"_target_": "pipeline.a.Net"}, "seconds": 1.5})
    write_json(result / "made_of.json", {"source": "0123"})
    save_file({"w": np.arange(4, dtype=np.float32)}, result / "w.safetensors", {"ids": '["a"]'})
    (result / "table.txt").write_text("top-1  50.0\ntop-5  75.0\n")
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(result / "map.png")
    (result / "other.bin").write_bytes(b"abc")
    (run / "stages").mkdir()
    (run / "stages/train").symlink_to("../../../../train/0123")
    (run / "index.html").write_text(PAGE)
    (run / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "checkpoint": str(work / "x")}))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """The same run in two working folders."""
    return write_run(tmp_path / "old"), write_run(tmp_path / "new")


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command keeps after a difference goes with the test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


ALLOWED = (*snapshots.ALLOWED, Allowed("text", "config.yaml", "a path", "^<work>/x$"))


def compare(
    runs: tuple[Path, Path],
    allowed: tuple[Allowed, ...] = ALLOWED,
    renamed: tuple[Renamed, ...] = (),
) -> list[str]:
    old, new = runs
    sides = (
        Side("old", old, {str(old.parents[2]): "<work>"}),
        Side("new", new, {str(new.parents[2]): "<work>"}),
    )
    _, found = compare_folders(*sides, Rules(allowed, renamed))
    return [str(one) for one in found]


def test_the_same_twice_is_equal(runs: tuple[Path, Path]) -> None:
    assert compare(runs) == []


def test_what_is_listed_may_differ_and_nothing_else(runs: tuple[Path, Path]) -> None:
    """Each listed difference is a difference as soon as the table is empty."""
    train = runs[1] / "stages/train"
    write_json(train / "card.json", {"model": {"_target_": "pipeline.a.Net"}, "seconds": 9.25})
    write_json(train / "made_of.json", {"source": "4567"})
    page = PAGE.replace("2026-01-02 03:04", "2027-05-06 07:08").replace("0123456789ab+", "cdef0123")
    (runs[1] / "index.html").write_text(page.replace("0.1.0", "0.2.0"))
    assert compare(runs) == []
    found = compare(runs, allowed=())
    assert {one.split(":")[0] for one in found} == {
        "config.yaml", "index.html", "stages/train/card.json", "stages/train/made_of.json"
    }  # fmt: skip


def change_json(path: Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


def test_a_number_that_changed_in_its_last_digit_is_found(runs: tuple[Path, Path]) -> None:
    change_json(runs[1] / "metrics.json", lambda v: v[1].update(value=float(np.nextafter(0.25, 1))))
    (found,) = compare(runs)
    assert found == "metrics.json: [1].value: 0.25 != 0.25000000000000006 (mean_iou)"


@pytest.mark.parametrize(
    ("before", "after"), [(1, 1.0), (1, True), (0.0, -0.0), (None, 0), ("a", "b"), ([], {})]
)
def test_a_value_of_another_type_is_found(before: Any, after: Any, runs: tuple[Path, Path]) -> None:
    for run, value in zip(runs, (before, after), strict=True):
        write_json(run / "metrics.json", {"a": [value]})
    (found,) = compare(runs)
    assert found.startswith("metrics.json: a[0]: ")
    write_json(runs[1] / "metrics.json", {"a": [before]})
    assert compare(runs) == []


def test_not_a_number_equals_itself(runs: tuple[Path, Path]) -> None:
    for run in runs:
        write_json(run / "metrics.json", [float("nan")])
    assert compare(runs) == []


def test_a_pixel_that_changed_is_found(runs: tuple[Path, Path]) -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[1, 2, 0] = 1
    Image.fromarray(pixels).save(runs[1] / "stages/train/map.png")
    (found,) = compare(runs)
    assert found == "stages/train/map.png: 1 of 20 pixels differ, by at most 1 of 255"
    Image.fromarray(pixels[:3]).save(runs[1] / "stages/train/map.png")
    assert "(4, 5, 3) != RGB (3, 5, 3)" in compare(runs)[0]


def test_a_picture_is_compared_decoded(runs: tuple[Path, Path]) -> None:
    """Another compression of the same pixels is the same picture."""
    path = runs[1] / "stages/train/map.png"
    before = path.read_bytes()
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path, compress_level=0)
    assert path.read_bytes() != before
    assert compare(runs) == []


def test_a_file_that_is_missing_or_added_is_found(runs: tuple[Path, Path]) -> None:
    (runs[1] / "stages/train/table.txt").unlink()
    write_json(runs[1] / "further.json", [])
    (runs[0] / "stages/train/w.safetensors").unlink()
    assert compare(runs) == [
        "further.json: only the new tree makes this file",
        "stages/train/table.txt: only the old tree makes this file",
        "stages/train/w.safetensors: only the new tree makes this file",
    ]
    allowed = (
        Allowed("only_new", "further.json", "new"),
        Allowed("only_old", "*table.txt", "gone"),
        Allowed("only_old", "*.safetensors", "the wrong side"),
    )
    assert compare(runs, (*ALLOWED, *allowed)) == [
        "stages/train/w.safetensors: only the new tree makes this file"
    ]


def test_a_link_that_is_missing_is_found(runs: tuple[Path, Path]) -> None:
    (runs[1] / "stages/train").unlink()
    assert all("only the old tree makes this file" in one for one in compare(runs))
    assert len(compare(runs)) == 6


def test_two_empty_folders_are_no_proof(tmp_path: Path) -> None:
    folders = tmp_path / "a/b/c/d", tmp_path / "e/f/g/h"
    for folder in folders:
        folder.mkdir(parents=True)
    assert compare(folders) == [".: there is no file to compare"]


def test_a_record_that_was_added_or_removed_is_found(runs: tuple[Path, Path]) -> None:
    further = {"name": "new_metric", "value": 1.0}
    write_json(runs[1] / "metrics.json", [RECORDS[0], further, RECORDS[1]])
    found = compare(runs)
    assert found[0] == "metrics.json: the whole: 2 items != 3 items"
    assert found[1].startswith('metrics.json: the whole: only in the new file: {"name": "new_me')
    having = (("name", "new_metric"),)
    allowed = Allowed("added", "metrics.json", "a new number", "[*]", having)
    assert compare(runs, (*ALLOWED, allowed)) == []
    # It may be added, not taken away; and the others are compared as before.
    assert compare((runs[1], runs[0]), (*ALLOWED, allowed))
    change_json(runs[1] / "metrics.json", lambda v: v[2].update(n=5))
    assert compare(runs, (*ALLOWED, allowed)) == ["metrics.json: [1].n: 4 != 5 (mean_iou)"]
    shutil.copy(runs[0] / "metrics.json", runs[1] / "metrics.json")
    change_json(runs[1] / "metrics.json", lambda v: v.pop())
    assert compare(runs)[0] == "metrics.json: the whole: 2 items != 1 items"


def test_a_key_that_was_added_is_found(runs: tuple[Path, Path]) -> None:
    change_json(runs[1] / "metrics.json", lambda v: v[0].update(unit="percent"))
    assert compare(runs) == ["metrics.json: [0].unit: only in the new file: percent (gt_known_loc)"]
    allowed = Allowed("added", "metrics.json", "a unit", "[*].unit")
    assert compare(runs, (*ALLOWED, allowed)) == []
    assert compare((runs[1], runs[0]), (*ALLOWED, allowed)) == [
        "metrics.json: [0].unit: only in the old file: percent (gt_known_loc)"
    ]


def test_arrays_and_their_notes_are_compared_exactly(runs: tuple[Path, Path]) -> None:
    path, values = runs[1] / "stages/train/w.safetensors", np.arange(4, dtype=np.float32)
    save_file({"w": np.nextafter(values, 9)}, path, {"ids": '["a"]'})
    assert "array w: 4 of 4 values differ, by at most" in compare(runs)[0]
    save_file({"w": values.astype(np.float64)}, path, {"ids": '["a"]'})
    assert "array w: float32 (4,) != float64 (4,)" in compare(runs)[0]
    save_file({"w": values, "b": values}, path, {"ids": '["b"]'})
    assert compare(runs) == [
        "stages/train/w.safetensors: array b: only in the new file",
        "stages/train/w.safetensors: metadata.ids[0]: a != b",
    ]


def test_texts_and_other_files_are_compared(runs: tuple[Path, Path]) -> None:
    (runs[1] / "stages/train/table.txt").write_text("top-1  50.0\ntop-5  75.1\nmore\n")
    (runs[1] / "stages/train/other.bin").write_bytes(b"abd")
    (runs[1] / "index.html").write_text(PAGE.replace("cam", "gradcam"))
    assert compare(runs) == [
        "index.html: line 1: '<h1>cam</h1>\\n' != '<h1>gradcam</h1>\\n'",
        "stages/train/other.bin: the bytes differ",
        "stages/train/table.txt: line 2: 'top-5  75.0\\n' != 'top-5  75.1\\n'",
        "stages/train/table.txt: line 3: only in the new file: 'more\\n'",
    ]


def test_lines_that_are_listed_may_be_added_and_not_removed(runs: tuple[Path, Path]) -> None:
    added = (*ALLOWED, Allowed("line", "index.html", "a row of a table", where="<tr>PxAP "))
    (runs[1] / "index.html").write_text(PAGE + "<tr>PxAP 1</tr>\n")
    assert compare(runs, allowed=added) == []
    (runs[1] / "index.html").write_text(PAGE + "<tr>IoU 1</tr>\n")
    assert len(compare(runs, allowed=added)) == 1
    (runs[0] / "index.html").write_text(PAGE + "<tr>PxAP 1</tr>\n")
    (runs[1] / "index.html").write_text(PAGE)
    assert len(compare(runs, allowed=added)) == 1


def test_a_file_that_cannot_be_read_is_a_difference(runs: tuple[Path, Path]) -> None:
    for name in ("metrics.json", "stages/train/map.png", "stages/train/w.safetensors"):
        (runs[1] / name).write_bytes(b"{")
    found = compare(runs)
    assert len(found) == 3
    assert all("the new tree's file cannot be read" in one for one in found)


def test_names_of_the_old_tree_are_brought_to_the_new_ones(runs: tuple[Path, Path]) -> None:
    train = runs[1] / "stages/train"
    (train / "other.bin").rename(train / "further.bin")
    write_json(train / "card.json", {"net": {"_target_": "pipeline.b.Network"}, "seconds": 1.5})
    (train / "table.txt").write_text("first  50.0\ntop-5  75.0\n")
    (runs[1] / "stages/train").rename(runs[1] / "stages/fit")
    assert compare(runs)
    renamed = (
        Renamed("file", "other.bin", "further.bin"),
        Renamed("file", "stages/train", "stages/fit"),
        Renamed("key", "model", "net", "*card.json"),
        Renamed("class", "pipeline.a.Net", "pipeline.b.Network"),
        Renamed("word", "top-1", "first", "*table.txt"),
    )
    assert compare(runs, ALLOWED, renamed) == []
    # A renaming is one of names, never of what stands under them.
    change_json(
        runs[1] / "stages/fit/card.json", lambda v: v["net"].update(_target_="pipeline.Net")
    )
    assert "net._target_: pipeline.b.Network != pipeline.Net" in "".join(
        compare(runs, ALLOWED, renamed)
    )


def test_a_file_that_was_renamed_is_compared_and_not_hidden(runs: tuple[Path, Path]) -> None:
    renamed = (Renamed("file", "other.bin", "further.bin"),)
    train = runs[1] / "stages/train"
    assert compare(runs, renamed=renamed) == []  # from before the renaming
    shutil.copy(train / "other.bin", train / "further.bin")
    assert compare(runs, renamed=renamed) == [
        "stages/train/further.bin: only the new tree makes this file"
    ]
    (train / "other.bin").unlink()
    assert compare(runs, renamed=renamed) == []
    (train / "further.bin").write_bytes(b"abd")
    assert compare(runs, renamed=renamed) == ["stages/train/further.bin: the bytes differ"]


def test_keys_move_through_lists_and_between_parents(runs: tuple[Path, Path]) -> None:
    write_json(runs[0] / "metrics.json", {"a": [{"b": {"c": 1}}, {"d": 2}]})
    write_json(runs[1] / "metrics.json", {"a": [{"e": {"f": 1}, "b": {}}, {"d": 2}]})
    assert compare(runs, renamed=(Renamed("key", "a[*].b.c", "a[*].e.f"),)) == []


def test_overrides_are_renamed_by_key_or_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"refine.cut": "refine.segmenter", "saliency=a": "saliency=b"}
    monkeypatch.setattr(snapshots, "RENAMED_OVERRIDES", table)
    given = ["refine.cut=x", "refine.cut.y=1", "saliency=a", "saliency=aa", "+experiment=cam"]
    assert [snapshots.new_override(one) for one in given] == [
        "refine.segmenter=x", "refine.cut.y=1", "saliency=b", "saliency=aa", "+experiment=cam"
    ]  # fmt: skip


def test_every_allowed_difference_has_a_reason() -> None:
    assert all(entry.reason and entry.files != "*" for entry in snapshots.ALLOWED)


def test_every_job_stands_on_one_before_it() -> None:
    names = list(JOBS)
    for name, job in JOBS.items():
        assert job.steps, name
        assert job.after is None or names.index(job.after) < names.index(name)


def test_an_unknown_job_is_refused() -> None:
    with pytest.raises(SystemExit, match="no such job nothing"):
        snapshots.chosen_jobs("quick", "cam,nothing")


@pytest.mark.parametrize("same", [True, False])
def test_the_exit_code_tells_of_a_difference(
    same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command over two stand-ins of the package that write one file each."""
    trees = []
    for side, value in (("old", 1), ("new", 1 if same else 2)):
        package = tmp_path / side / "pipeline"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(
            "import pathlib\nrun = pathlib.Path('outputs/latest')\nrun.mkdir(parents=True)\n"
            f"(run / 'metrics.json').write_text('{value}')\n"
        )
        trees.append(snapshots.Tree(side, tmp_path / side, tmp_path / "work" / side))  # type: ignore[arg-type]
    monkeypatch.setattr(snapshots, "old_tree", lambda revision, cache: trees[0])
    monkeypatch.setattr(snapshots, "ROOT", tmp_path / "new")
    assert snapshots.main(["quick", "--only", "cam"]) == (0 if same else 1)
    told = capsys.readouterr().out
    assert ("equal (1 files)" in told) == same
    assert ("metrics.json: the whole: 1 != 2" in told) != same


def test_a_command_that_fails_is_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("old", "new"):
        (tmp_path / side / "pipeline").mkdir(parents=True)
        (tmp_path / side / "pipeline/__init__.py").write_text("")
        (tmp_path / side / "pipeline/__main__.py").write_text("raise SystemExit('no luck')")
    old = snapshots.Tree("old", tmp_path / "old", tmp_path / "work")
    monkeypatch.setattr(snapshots, "old_tree", lambda revision, cache: old)
    monkeypatch.setattr(snapshots, "ROOT", tmp_path / "new")
    assert snapshots.main(["--only", "cam"]) == 1
    assert "no luck" in capsys.readouterr().out


def test_a_tree_whose_package_is_not_the_one_imported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(snapshots.Failure, match="the package is imported from"):
        snapshots.Tree("new", tmp_path, tmp_path).check_import()
