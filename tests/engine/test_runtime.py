from __future__ import annotations

import threading

import pytest
import torch

from pipeline.engine import runtime
from pipeline.errors import UserError


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_stream_keeps_the_order_and_bounds_what_is_ahead(threads: int) -> None:
    calls = 0
    lock = threading.Lock()

    def square(n: int) -> int:
        nonlocal calls
        with lock:
            calls += 1
        return n * n

    results = runtime.map_in_threads(square, iter(range(100)), threads, ahead=8)
    assert next(results) == 0
    assert calls <= 10
    assert list(results) == [n * n for n in range(1, 100)]


def test_stream_hands_on_what_went_wrong() -> None:
    with pytest.raises(ZeroDivisionError):
        list(runtime.map_in_threads(lambda n: 1 // n, [1, 0, 1], 2))


def test_batches_and_shards_cover_everything_once() -> None:
    assert list(runtime.split_into_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert runtime.split_into_shards(5, 2) == [(0, range(2)), (1, range(2, 4)), (2, range(4, 5))]
    assert runtime.split_into_shards(0, 2) == []


def test_device_and_precision() -> None:
    assert runtime.select_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="choices: auto, cpu"):
        runtime.select_device("gpu")
    with pytest.raises(UserError, match="CUDA devices"):
        runtime.select_device("cuda:99")
    assert runtime.select_precision("float32", torch.device("cpu")) == "float32"


@pytest.mark.parametrize("multiplies_bf16", [True, False])
def test_auto_is_float32_on_every_cpu(
    multiplies_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda where: multiplies_bf16)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert runtime.select_precision("auto", cpu) == "float32"
    assert runtime.select_precision("bf16", cpu) == "bf16"
    assert runtime.select_precision("auto", gpu) == ("bf16" if multiplies_bf16 else "float32")
    assert runtime.select_precision("auto", torch.device("mps")) == "float32"
    gain = runtime.describe_bf16_gain("auto", cpu)
    assert (gain is not None) == multiplies_bf16
    assert gain is None or ("precision=bf16" in gain and len(gain) < 110)
    assert runtime.describe_bf16_gain("float32", cpu) is None, "it was chosen"
    assert runtime.describe_bf16_gain("auto", gpu) is None, "bf16 already"


def test_float32_is_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32, the default of cuDNN's convolutions, is off: the switches need no GPU."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    try:
        convolutions.allow_tf32 = products.allow_tf32 = True
        assert runtime.select_device("cuda") == torch.device("cuda")
        assert not convolutions.allow_tf32
        assert not products.allow_tf32
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before
