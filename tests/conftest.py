"""What tests share: small generated data, the command line in this process, shared real data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# The embedded set, small enough for a whole run in seconds.
TINY = ("data.images=96", "data.val_images=24", "train.epochs=1", "train.batch=32",
        "runtime.shard=8")  # fmt: skip

# What the run of an experiment of boxes leaves beside its report.
PUBLISHED = ("boxes.json", "predictions.json", "confidence.json", "metrics.json", "notes.json",
             "config.yaml")  # fmt: skip


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights, which are not part of the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared is not here: no real images to test on")
    return SHARED


Cli = Callable[..., int]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`python -m pipeline` in this process, in a folder of its own; gives the exit code."""
    from pipeline.__main__ import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.fixture
def folder_of_images(tmp_path: Path) -> Path:
    """Two classes, coloured squares on grey, in train/ and val/, without boxes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for split, count in (("train", 12), ("val", 4)):
        for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                image = rng.integers(90, 130, (48, 64, 3)).astype(np.uint8)
                x, y = rng.integers(0, 40), rng.integers(0, 24)
                image[y : y + 24, x : x + 24] = colour
                Image.fromarray(image).save(root / split / name / f"{n}.png")
    return root


def painted(height: int = 30, width: int = 40) -> np.ndarray:
    """RGB that no turn or mirror leaves as it was: red grows to the right, green downwards, blue
    where the upper left corner is."""
    y, x = np.mgrid[:height, :width]
    red, green = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1)
    corner = 255 * ((y < height / 2) & (x < width / 2))
    return np.stack([red, green, corner], 2).astype(np.uint8)


@pytest.fixture(name="painted")
def painted_fixture() -> Callable[..., np.ndarray]:
    return painted


@pytest.fixture
def paint() -> Callable[..., Path]:
    """Writes a picture of some size, or any Pillow image, making folders as needed."""

    def write(path: Path, image: Any = None, size: tuple[int, int] = (30, 40), **how: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(painted(*size)) if image is None else image
        image.save(path, **how)
        return path

    return write


# Generated input is the same in each run, and kept nowhere: a test that passes passes again.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, max_examples=60
)
hypothesis.settings.load_profile("repeatable")


def pytest_configure() -> None:
    # On busy cores two threads that wait for each other are many times slower than one.
    import torch

    torch.set_num_threads(1)
