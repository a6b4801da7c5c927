"""What a test leaves behind in its process is noticed, and what tests share is what they made."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import ImageFile

from pipeline.engine import store
from pipeline.engine.store import Store
from pipeline.ops import bootstrap
from tests.process_state import WatchedNames, describe_changes, read_state
from tests.shared_results import share_through

Undo = Callable[[], Any]


def change_threads() -> Undo:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    return lambda: torch.set_num_threads(before)


def change_default_dtype() -> Undo:
    torch.set_default_dtype(torch.float64)
    return lambda: torch.set_default_dtype(torch.float32)


def change_grad() -> Undo:
    torch.set_grad_enabled(False)
    return lambda: torch.set_grad_enabled(True)


def change_denormals() -> Undo:
    assert torch.set_flush_denormal(True)
    return lambda: torch.set_flush_denormal(False)


def change_opencv() -> Undo:
    before = cv2.getNumThreads()
    cv2.setNumThreads(before + 1)
    return lambda: cv2.setNumThreads(before)


def change_numpy() -> Undo:
    before = np.seterr(all="raise")
    return lambda: np.seterr(**before)


def change_pillow() -> Undo:
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    return lambda: setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)


def change_umask() -> Undo:
    before = os.umask(0o077)
    return lambda: os.umask(before)


def change_handler() -> Undo:
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return lambda: signal.signal(signal.SIGALRM, before)


CHANGES = {
    "torch.get_num_threads": change_threads,
    "torch.get_default_dtype": change_default_dtype,
    "torch.is_grad_enabled": change_grad,
    "denormals of": change_denormals,
    "cv2.getNumThreads": change_opencv,
    "numpy.geterr": change_numpy,
    "PIL.ImageFile.LOAD_TRUNCATED_IMAGES": change_pillow,
    "os.umask": change_umask,
    "signal handlers": change_handler,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_is_left_changed_is_named(name: str) -> None:
    before = read_state()
    undo = CHANGES[name]()
    try:
        changes = describe_changes(before, read_state())
    finally:
        undo()
    assert changes
    assert all(change.startswith(name) for change in changes)
    assert describe_changes(before, read_state()) == []


def test_a_function_or_method_that_is_left_replaced_is_named() -> None:
    watched = WatchedNames()
    watched.accept()
    assert watched.list_replaced() == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "middle", lambda values: (0.0, 1.0))
        patch.setattr(Store, "find", lambda self, stage, key: None)
        patch.setattr(os, "replace", shutil.move)
        named = [line.split(":")[0] for line in watched.list_replaced()]
    assert named == [
        "os.replace", "pipeline.engine.store.Store.find", "pipeline.ops.bootstrap.middle",
    ]  # fmt: skip
    assert watched.list_replaced() == []


def test_a_result_is_shared_unless_a_function_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def ask(outputs: str, stage: str = "train", name: str = "a") -> bool:
        def create(folder: Path) -> None:
            made.append(name)
            (folder / "weights").write_text(name)

        folder, kept = Store(tmp_path / outputs).get_or_create(stage, {"name": name}, create)
        assert (folder / "weights").read_text() == name
        return kept

    watched = WatchedNames()
    monkeypatch.setattr(Store, "get_or_create", share_through(tmp_path / "pool", watched))
    watched.accept()
    assert [ask("first"), ask("second"), ask("second", name="b")] == [False, True, False]
    assert made == ["a", "b"]
    assert [ask("first", "report"), ask("second", "report")] == [False, False]
    with monkeypatch.context() as patch:
        patch.setattr(store, "git_commit", lambda: None)
        assert not ask("first", name="c")
    assert not ask("second", name="c")
