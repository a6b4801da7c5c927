"""Runs of the embedded set for ./scripts/gpu: trained, interrupted, resumed, on two devices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from pipeline.engine.run import Run
from pipeline.results.shards import list_shards
from scripts.measure.gpu_rows import Setting
from scripts.measure.runs import compose

STEP = "pipeline.stages.train.loop.Training.take_step"
EXPLAIN = "pipeline.stages.explain.maps.explain_batch"


class _Killed(BaseException):
    """What kill -9 looks like from inside: no handler of Exception runs after it."""


class CheckedRuns:
    """Runs of `+experiment=cam` on the embedded set, in float32.

    Args:
        setting: The device, and how many images.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        images, scored, batch = (96, 32, 32) if setting.is_rehearsal else (1024, 256, 64)
        self.batch = batch
        self.size = (
            f"data.images={images}", f"data.val_images={scored}", f"train.batch={batch}",
            "train.epochs=2", "runtime.shard=16", "runtime.batch=16", "train.loggers=[]",
        )  # fmt: skip

    def train(self, name: str, interrupted: bool = False) -> Path:
        """Train a network, perhaps interrupted in its last epoch; return its folder.

        Args:
            name: Of the folder of outputs.
            interrupted: Whether it is interrupted once, and goes on.
        """
        run = self._compose(name, self.setting.device)
        if interrupted:
            steps = len(run.data.ids("train")) // self.batch  # of an epoch
            with _killed_after(STEP, steps + 1):
                run.get_or_create("train")
        return run.get_or_create("train")[0]

    def explain(self, name: str, trained: Path, interrupted: bool = False) -> dict[str, bytes]:
        """Explain the scored images; return the bytes of each shard of maps.

        Args:
            name: Of the folder of outputs.
            trained: The network.
            interrupted: Whether it is interrupted once, and goes on.
        """
        run = self._compose(name, self.setting.device, f"checkpoint={trained}")
        if interrupted:
            with _killed_after(EXPLAIN, 1):
                run.get_or_create("explain")
        folder, _ = run.get_or_create("explain")
        return {path.name: path.read_bytes() for path in list_shards(folder)}

    def localize(
        self, name: str, trained: Path, device: torch.device, precision: str = "float32"
    ) -> dict[Any, list[list[float]]]:
        """Return the boxes of the scored images by image.

        Args:
            name: Of the folder of outputs.
            trained: The network.
            device: Where it computes.
            precision: Of the network.
        """
        run = self._compose(name, device, f"checkpoint={trained}", precision=precision)
        run.get_or_create("explain")
        folder, _ = run.get_or_create("localize")
        boxes: dict[Any, list[list[float]]] = {}
        for row in json.loads((folder / "boxes.json").read_text(encoding="utf-8")):
            boxes.setdefault(row["image_id"], []).append(row["bbox"])
        return boxes

    def _compose(
        self, name: str, device: torch.device, *more: str, precision: str = "float32"
    ) -> Run:
        outputs = self.setting.folder / name
        return compose("cam", *self.size, f"precision={precision}", f"runtime.device={device}",
                       f"outputs={outputs}", *more)  # fmt: skip


@contextmanager
def _killed_after(target: str, calls: int) -> Iterator[None]:
    """Kill what runs within the block after so many calls of a function, and go on behind it.

    Raises:
        RuntimeError: It came to its end before.
    """
    from importlib import import_module

    module, _, rest = target.partition(".Training")
    owner: Any = import_module(module if rest else target.rpartition(".")[0])
    owner = owner.Training if rest else owner
    name = target.rpartition(".")[2]
    original: Callable[..., Any] = getattr(owner, name)
    done = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal done
        if done == calls:
            raise _Killed
        done += 1
        return original(*arguments, **options)

    with patch.object(owner, name, counted), suppress(_Killed):
        yield
        raise RuntimeError(f"{name}: not interrupted, as it was called {done} times")
