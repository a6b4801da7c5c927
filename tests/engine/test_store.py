from __future__ import annotations

import errno
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.engine import sources, store
from pipeline.engine.sources import forget_sources, hash_sources
from pipeline.formats.arrays import read_arrays, read_rows, write_arrays
from pipeline.formats.files import atomic_write, read_json, write_json
from pipeline.formats.results_folder import MARKER


def test_a_result_is_made_once_and_found_again(tmp_path: Path) -> None:
    folders: list[Path] = []
    results = store.Store(tmp_path)
    first, kept = results.get_or_create("explain", {"a": 1}, folders.append)
    again, kept_again = results.get_or_create("explain", {"a": 1}, folders.append)
    other, _ = results.get_or_create("explain", {"a": 2}, folders.append)
    assert (kept, kept_again) == (False, True)
    assert first == again != other
    assert folders == [first, other]
    assert read_json(first / "DONE")["versions"]["numpy"] == np.__version__
    assert read_json(first / "cache_key.json") == {"stage": "explain", "a": 1}


def test_what_failed_is_not_done_and_goes_on(tmp_path: Path) -> None:
    results = store.Store(tmp_path)

    def half(folder: Path) -> None:
        write_json(folder / "shard-0.json", 0)
        (folder / ".shard-1.json.123.tmp").write_text("cut off")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        results.get_or_create("explain", {}, half)
    seen: list[set[str]] = []
    results.get_or_create(
        "explain", {}, lambda folder: seen.append({p.name for p in folder.iterdir()})
    )
    assert "shard-0.json" in seen[0]
    assert not any(name.endswith(".tmp") for name in seen[0])


def _slow(root: Path, log: Path) -> None:
    def make(folder: Path) -> None:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.5)

    store.Store(root).get_or_create("train", {}, make)


def test_two_processes_that_want_the_same_make_it_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    runs = [spawn.Process(target=_slow, args=(tmp_path, tmp_path / "log")) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
        assert run.exitcode == 0
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.json"

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError), atomic_write(path):  # nothing was written
        pass
    assert list(tmp_path.iterdir()) == []


def test_arrays_and_notes_come_back(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "maps": np.ones((2, 7, 7), np.float16),
        "n": np.arange(2, dtype=np.int32),
    }
    write_arrays(tmp_path / "s.safetensors", arrays, set_aside=[[3, "a 'name'\n é"]])
    back, notes = read_arrays(tmp_path / "s.safetensors")
    assert notes == {"set_aside": [[3, "a 'name'\n é"]]}
    for name, values in arrays.items():
        assert back[name].dtype == values.dtype
        np.testing.assert_array_equal(back[name], values)
    write_arrays(tmp_path / "empty.safetensors", {}, set_aside=[])
    assert read_arrays(tmp_path / "empty.safetensors") == ({}, {"set_aside": []})


def test_arrays_come_back_whatever_their_order_in_memory(tmp_path: Path) -> None:
    """safetensors itself writes the memory as it lies."""
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    arrays: dict[str, Any] = {
        "moved": np.moveaxis(values, 1, 2),
        "fortran": np.asfortranarray(values),
        "cut": values[:, ::2],
        "one": np.float16(3),
    }
    write_arrays(tmp_path / "s.safetensors", arrays)
    back, _ = read_arrays(tmp_path / "s.safetensors")
    for name, array in arrays.items():
        assert np.array_equal(back[name], array), name
        assert back[name].shape == array.shape
    some = read_rows(tmp_path / "s.safetensors", ["moved", "absent"], slice(1, 2))
    assert list(some) == ["moved"]
    assert np.array_equal(some["moved"], arrays["moved"][1:2])


def test_the_source_of_a_stage_reaches_what_it_imports() -> None:
    hashes = hash_sources(["pipeline.stages.evaluate.stage"])
    assert "pipeline.metric.components" in hashes
    assert "pipeline.ops.maps" in hashes
    assert "pipeline.engine.store" not in hashes, "where a result is kept cannot change it"


def test_an_edited_source_changes_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saliency").mkdir()
    method = tmp_path / "saliency" / "mine.py"
    method.write_text("from pipeline.saliency import helper\n")
    (tmp_path / "saliency" / "__init__.py").write_text("")
    helper = tmp_path / "saliency" / "helper.py"
    helper.write_text("x = 1\n")
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fresh() -> dict[str, str]:
        forget_sources()
        return hash_sources(["pipeline.saliency.mine"])

    before = fresh()
    assert "pipeline.saliency.helper" in before
    helper.write_text("x = 1  # why\n")
    assert fresh() == before
    helper.write_text("x = 2\n")
    assert fresh() != before
    forget_sources()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_one_line(code: int) -> None:
    from pipeline.__main__ import disk_message

    message = disk_message(OSError(code, "x", "/some/file"))
    assert message is not None
    assert "\n" not in message
    assert "/some/file" in message
    assert disk_message(OSError(errno.ENOENT, "x")) is None


def test_results_and_the_folders_in_them_are_marked(tmp_path: Path) -> None:
    def draw(folder: Path) -> None:
        (folder / "pictures").mkdir()
        (folder / "pictures/a.png").touch()

    folder, _ = store.Store(tmp_path).get_or_create("draw", {}, draw)
    assert (folder / MARKER).is_file()
    assert (folder / "pictures" / MARKER).is_file()
    assert not (tmp_path / MARKER).exists()
    assert not (tmp_path / "draw" / MARKER).exists()
    assert set(read_json(folder / store.DONE)["files"]) == {"cache_key.json", "pictures/a.png"}
