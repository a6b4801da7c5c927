"""Only new images are explained and localized; what is taken over equals what is computed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.engine import ranks
from pipeline.engine.run import Run
from scripts.measure.runs import compose
from tests.conftest import Cli
from tests.data import drawn_sets

RUN = ("+experiment=cam", "data=folder", "model=small", "train.epochs=1", "data.size=32",
       "explain.split=all", "runtime.shard=4", "stages=[train,explain,localize,rank]")  # fmt: skip


def change(root: Path) -> None:
    """A new image, one that was renamed, copied without its time, removed, and one repainted."""
    red, blue = root / "train" / "red", root / "train" / "blue"
    rng = np.random.default_rng(1)
    for path in (red / "new.png", blue / "0.png"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(path)
    (red / "1.png").rename(red / "other name.png")
    os.utime(blue / "2.png", (1e9, 1e9))
    (red / "3.png").unlink()


def test_only_new_images_are_computed(
    cli: Cli,
    folder_of_images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = (*RUN, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    network = f"checkpoint={Path('outputs/latest').resolve()}"
    change(folder_of_images)
    shutil.copytree("outputs", "two", symlinks=True)
    capsys.readouterr()
    assert cli(*run, network) == 0
    assert "explain: 30 of 32 images are as they were" in capsys.readouterr().out
    reused = (Path("outputs/latest") / "predictions.json").read_bytes()
    assert cli(*run, network, "outputs=afresh") == 0
    assert "as they were" not in capsys.readouterr().out
    assert (Path("afresh/latest") / "predictions.json").read_bytes() == reused
    _run_as_two_ranks(lambda: compose("cam", *run[1:], network, "outputs=two"), monkeypatch)
    assert capsys.readouterr().out.count("explain: 30 of 32 images are as they were") == 1
    for stage in ("explain", "localize"):
        assert _read_results(Path("outputs", stage)) == _read_results(Path("two", stage)), stage


def _read_results(folder: Path) -> dict[str, bytes]:
    """Return the shards, stamps and boxes of all results of a stage."""
    files = [*folder.glob("*/*.safetensors"), *folder.glob("*/*s.json")]
    assert len({path.parent for path in files}) == 2, "before the images changed, and after"
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _run_as_two_ranks(build: Callable[[], Run], patch: pytest.MonkeyPatch) -> None:
    """Explain and localize in two threads, each of them a rank."""
    world, meet = threading.local(), threading.Barrier(2, timeout=30)
    shared: dict[int, Any] = {}
    runs = build(), build()

    def all_gather(value: Any) -> list[Any]:
        shared[world.rank] = value
        meet.wait()
        values = [shared[0], shared[1]]
        meet.wait()
        return values

    def add_up(values: Sequence[float]) -> list[float]:
        return [sum(of_all) for of_all in zip(*all_gather(values), strict=True)]

    def work(rank: int) -> None:
        world.rank = rank
        for stage in ("explain", "localize"):
            runs[rank].get_or_create(stage)

    patch.setattr(
        ranks, "current_world",
        lambda: ranks.World(world.rank, 2, world.rank, 2)
        if hasattr(world, "rank")
        else ranks.World(),
    )  # fmt: skip
    patch.setattr(ranks, "all_gather", all_gather)
    patch.setattr(
        ranks,
        "all_reduce_sum",
        lambda values: [sum(v) for v in zip(*all_gather(values), strict=True)],
    )
    with ThreadPoolExecutor(2) as pool:
        for done in as_completed([pool.submit(work, rank) for rank in (0, 1)]):
            done.result()


ANNOTATE = ("+experiment=annotate", "data=folder", "model=small", "train.epochs=1", "data.size=32",
            "saliency=ddt", "stages=[train,explain,calibrate,localize,rank,annotate]")  # fmt: skip


def test_never_keeps_what_was_fitted(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (*ANNOTATE, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    first = Path("outputs/latest").resolve().name
    change(folder_of_images)
    capsys.readouterr()
    assert cli(*run, "annotate.retrain=never") == 0
    assert "explain: 30 of 32 images are as they were" in capsys.readouterr().out
    notes = [note["text"] for note in json.loads(Path("outputs/latest/notes.json").read_text())]
    names = "the network, the components of saliency=ddt and the confidences: images and boxes"
    assert [note for note in notes if first in note and names in note], notes
    sheet = Path("outputs/latest/review/sheet-0001.jpg").read_bytes()
    for kept in Path("outputs/annotate").glob("*/pictures_made_for.json"):
        kept.unlink()
    assert cli(*run, "annotate.retrain=never", "annotate.sheet=31") == 0
    assert Path("outputs/latest/review/sheet-0001.jpg").read_bytes() == sheet, "pictures anew"
    assert cli(*run, "annotate.retrain=never", "calibrate.boxes=new.json") == 2
    assert "annotate.retrain=auto chooses another" in capsys.readouterr().err
    assert cli(*run) == 0
    assert "are as they were" not in capsys.readouterr().out, "auto fits DDT to the new set"
    assert cli(*run, "annotate.retrain=never", "data.size=48", "train.epochs=2") == 2
    assert "as data.size is 48 and was 32; train.epochs is 2 and was 1" in (capsys.readouterr().err)


def test_another_method_takes_nothing_over(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (*RUN, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    network = f"checkpoint={Path('outputs/latest').resolve()}"
    capsys.readouterr()
    assert cli(*run, network, "saliency=gradcam", "segmenter=threshold_cam") == 0
    assert "as they were" not in capsys.readouterr().out


def test_an_image_of_another_class_is_computed(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (*RUN, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    network = f"checkpoint={Path('outputs/latest').resolve()}"
    train = folder_of_images / "train"
    shutil.move(train / "red" / "5.png", train / "blue" / "55.png")
    capsys.readouterr()
    assert cli(*run, network) == 0
    assert "explain: 31 of 32 images are as they were" in capsys.readouterr().out


def test_equal_images_and_equal_stamps_are_not_mixed_up(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copies of an image each have their boxes; files of the same size and time are told apart."""
    red = folder_of_images / "train" / "red"
    rng = np.random.default_rng(2)
    for n in (20, 21):  # uncompressed: the same size
        pixels = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(red / f"{n}.bmp")
        os.utime(red / f"{n}.bmp", (1e9, 1e9))
    run = (*RUN, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    network = f"checkpoint={Path('outputs/latest').resolve()}"
    for copy in ("copy.png", "copy2.png"):
        shutil.copy(red / "4.png", red / copy)
    (red / "20.bmp").rename(red / "b.bmp")
    (red / "21.bmp").rename(red / "a.bmp")
    assert cli(*run, network) == 0
    assert "explain: 36 of 36 images are as they were" in capsys.readouterr().out
    reused = (Path("outputs/latest") / "predictions.json").read_bytes()
    assert cli(*run, network, "outputs=afresh") == 0
    assert (Path("afresh/latest") / "predictions.json").read_bytes() == reused


def test_a_changed_file_of_an_index_is_computed_again_alone(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ImageNet: folders do not tell of it; reading the file does, and the run after it computes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "set"
    drawn_sets.imagenet(root)
    for place in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(place, (1e9, 1e9))
    run = ("+experiment=cam", "data=imagenet", f"data.root={root}", *RUN[2:])
    assert cli(*run) == 0
    network = f"checkpoint={Path('outputs/latest').resolve()}"
    drawn_sets.paint(next((root / "val").iterdir()), 99)
    capsys.readouterr()
    assert cli(*run, network) == 0, "nothing is read, so nothing is noticed"
    assert cli(*run, network, "outputs=other") == 2
    assert "the file was changed after its folder was indexed" in capsys.readouterr().err
    assert cli(*run, network) == 0
    assert "explain: 20 of 21 images are as they were" in capsys.readouterr().out
