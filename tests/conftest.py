"""What tests share: small generated data, the command line in this process, shared real data."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from tests.process_state import WatchedNames, describe_changes, read_state
from tests.shared_results import share_through

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# The embedded set, small enough for a whole run in seconds.
TINY = ("data.images=96", "data.val_images=24", "train.epochs=1", "train.batch=32",
        "runtime.shard=8")  # fmt: skip

# What the run of an experiment of boxes leaves beside its report.
PUBLISHED = ("boxes.json", "predictions.json", "confidence.json", "metrics.json", "notes.json",
             "config.yaml")  # fmt: skip


# Files that take longest come first, so that no process works on one when all others are done.
LONGEST = (
    "tests/test_docs.py", "tests/engine/test_ranks.py", "tests/test_robustness.py",
    "tests/engine/test_stale.py", "tests/scripts/test_thresholds.py", "tests/test_main.py",
    "tests/test_outside.py", "tests/test_releasing.py", "tests/stages/test_calibrate.py",
    "tests/stages/test_report.py", "tests/saliency/test_every_network.py",
    "tests/model/test_torchvision.py", "tests/stages/test_refine.py", "tests/stages/test_train.py",
    "tests/stages/test_compare.py", "tests/stages/test_audit.py", "tests/stages/test_evaluate.py",
    "tests/engine/test_serve.py", "tests/stages/test_onnx.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {str(ROOT / path): n for n, path in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(str(item.path), len(place)))  # others stay in their order


@pytest.fixture(scope="module", autouse=True)
def leaves_the_process_as_it_was() -> Iterator[None]:
    """Fail a file of tests that changes what the files after it in this process compute with."""
    tempfile.gettempdir()  # is set when it is first asked for
    before, watched = read_state(), WatchedNames()
    watched.accept()
    environment, path, arguments = {**os.environ}, [*sys.path], [*sys.argv]
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    # Runs set some variables and add the folder of modules of one's own: for one file alone.
    if {**os.environ} != environment:
        # Ray sets it where it starts on this machine, and keeps it for the process.
        kept = {name: os.environ[name] for name in ("RAY_AUTH_MODE",) if name in os.environ}
        os.environ.clear()
        os.environ.update(environment | kept)
    sys.path[:], sys.argv[:] = path, arguments
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # as each run says for itself
        torch.use_deterministic_algorithms(deterministic)
    changes = [*describe_changes(before, read_state()), *watched.list_replaced()]
    assert not changes, "left changed for the tests of other files:\n" + "\n".join(changes)


@pytest.fixture(scope="session", autouse=True)
def no_power_cuts() -> Iterator[None]:
    """Write without waiting for the disk, which takes a quarter of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def compose_once() -> Iterator[None]:
    """Let Hydra compose a configuration once, not once more to read hydra.mode, which is not set.

    Processes of their own do both.
    """
    from hydra._internal.hydra import Hydra
    from hydra.types import RunMode

    def read_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
        is_sweep = any(each.lstrip("+") == "hydra.mode=MULTIRUN" for each in overrides)
        return RunMode.MULTIRUN if is_sweep else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", read_mode)
        yield


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results that tests of this process share (`shared_results`)."""
    return tmp_path_factory.mktemp("pool")


@pytest.fixture
def shared_results(pool: Path) -> Iterator[None]:
    """Let runs take results that a run of an earlier test has.

    For tests that look at results, and not at how or whether they are computed.
    """
    from pipeline.engine.store import Store

    watched = WatchedNames()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "get_or_create", share_through(pool, watched))
        watched.accept()
        yield


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
    torch.set_num_threads(1)
