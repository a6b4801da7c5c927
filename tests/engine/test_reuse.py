"""Only new images are explained and localized; what is taken over equals what is computed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cli

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
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (*RUN, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    network = f"checkpoint={Path('outputs/latest').resolve()}"
    change(folder_of_images)
    capsys.readouterr()
    assert cli(*run, network) == 0
    assert "explain: 30 of 32 images are as they were" in capsys.readouterr().out
    reused = (Path("outputs/latest") / "predictions.json").read_bytes()
    assert cli(*run, network, "outputs=afresh") == 0
    assert "as they were" not in capsys.readouterr().out
    assert (Path("afresh/latest") / "predictions.json").read_bytes() == reused


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
