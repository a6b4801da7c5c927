"""A batch that is too large for an accelerator halves itself; errors say what needs less memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine import memory_limit, shards, terminal
from pipeline.engine.compute import Compute
from pipeline.engine.memory_limit import BatchLimit
from pipeline.errors import UserError
from pipeline.types import Example

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _no_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No GPU is asked for: its memory is simulated. Notes of other tests are forgotten."""
    monkeypatch.setattr(memory_limit, "_free_cached_memory", lambda device: None)
    terminal.forget_notes()
    yield
    terminal.forget_notes()


class Memory:
    """Room for so many items at once."""

    def __init__(self, room: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        self.room, self.error, self.sizes = room, error, list[int]()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.sizes.append(len(items))
        if len(items) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB. CUBLAS_STATUS_ALLOC_"
                             "FAILED")  # fmt: skip
        return [n * n for n in items]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize(
    ("room", "sizes"), [(99, [20]), (10, [20, 10, 10]), (7, [20, 10, 5] + [5] * 3)]
)
def test_a_batch_is_halved_until_it_fits(
    room: int, sizes: list[int], error: type[RuntimeError], capsys: pytest.CaptureFixture[str]
) -> None:
    limit, memory = BatchLimit(GPU), Memory(room, error)
    for _ in range(2):
        parts = limit.compute(memory, range(20))
        assert [value for part in parts for value in part] == [n * n for n in range(20)]
    again = [size for size in sizes if size <= room]
    assert memory.sizes == [*sizes, *again]  # the second batch does not fail again
    said = capsys.readouterr().out
    halvings = sum(size > room for size in sizes)
    assert said.count("has no memory for") == halvings
    assert (f"runtime.batch={sizes[-1]} begins so" in said) == (halvings > 0)


def test_no_memory_for_one_image() -> None:
    with pytest.raises(
        UserError, match=r"runtime.device=cuda: it has no memory for a single image"
    ):
        BatchLimit(GPU).compute(Memory(0), range(4))


def test_other_errors_are_not_taken_for_it() -> None:
    def work(items: Sequence[int]) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        BatchLimit(GPU).compute(work, range(4))
    with pytest.raises(RuntimeError, match="shape mismatch"), memory_limit.explain_error("train"):
        work([])


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [("train", "train.accumulate=M"), ("refine", "refine.batch=N"), ("explain", "runtime.batch=N")],
)
def test_a_stage_that_cannot_halve_says_what_needs_less(stage: str, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy) as caught, memory_limit.explain_error(stage):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. More text")
    assert "More text" not in str(caught.value)
    assert str(caught.value).startswith(
        f"{stage}: the accelerator has no memory for this (CUDA out"
    )


class Images:
    """Images of a pixel that holds their position; every seventh cannot be read."""

    size = (1, 1)

    def read(self, position: int, size: tuple[int, int]) -> Any:
        from pipeline.errors import SkippedImage

        if position % 7 == 6:
            return SkippedImage(f"broken {position}")
        return Example(str(position), np.full((1, 1, 3), position, np.uint8), 0, (1, 1))

    def __len__(self) -> int:
        return 60


def simulated_gpu() -> Compute:
    """A GPU as the flow sees it: this machine computes, without autocast."""
    compute = SimpleNamespace(device=GPU, is_cpu=False, workers=2, batch=16, shard=32)
    compute.autocast = lambda: torch.no_grad()
    return compute  # type: ignore[return-value]


def write(folder: Path, room: int) -> dict[str, np.ndarray]:
    """Write shards of all images, with room for so many; return what they hold."""
    from pipeline.formats.arrays import read_arrays
    from pipeline.results.shards import list_shards

    def work(batch: shards.PositionedExamples) -> shards.Arrays:
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        pixels = shards.stack_pixels(batch)
        return {"image": shards.stack_positions(batch), "value": pixels[:, 0, 0, 0]}

    folder.mkdir()
    shards.write_image_shards(Images(), simulated_gpu(), folder, "explain", work)  # type: ignore[arg-type]
    parts = [read_arrays(path)[0] for path in list_shards(folder)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_shards_are_the_same_with_little_memory(tmp_path: Path) -> None:
    plenty, little = write(tmp_path / "plenty", 99), write(tmp_path / "little", 3)
    for name, values in plenty.items():
        np.testing.assert_array_equal(values, little[name])
    assert plenty["image"].tolist() == [n for n in range(60) if n % 7 != 6]
    for path in sorted((tmp_path / "plenty").iterdir()):
        assert path.read_bytes() == (tmp_path / "little" / path.name).read_bytes()


def test_the_gpu_computes_while_the_cpu_segments() -> None:
    begun = {n: threading.Event() for n in range(20)}

    def work(batch: shards.PositionedExamples) -> shards.Arrays:
        number = batch[0][0] // 2
        begun[number].set()
        if number < 19:  # GrabCut takes until the next batch is on the GPU
            assert begun[number + 1].wait(20), "the next batch waits for this one"
        return {"image": shards.stack_positions(batch)}

    flow = shards.network_flow(Images(), simulated_gpu(), work)  # type: ignore[arg-type]
    pieces = [range(n, n + 2) for n in range(0, 40, 2)]
    arrays = [part["image"].tolist() for part, _ in flow(iter(pieces))]
    assert arrays == [[n for n in piece if n % 7 != 6] for piece in pieces]
