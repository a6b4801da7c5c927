"""What only a CUDA device can show; `./scripts/gpu check` runs these where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torchvision

import pipeline
from pipeline.engine import memory_limit, runtime
from pipeline.engine.memory_limit import BatchLimit

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def test_auto_is_the_gpu_without_tf32() -> None:
    device = runtime.select_device("auto")
    assert device.type == "cuda"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    wanted = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "float32"
    assert runtime.select_precision("auto", device) == wanted


@pytest.mark.parametrize("method", ["cam", "gradcam", "gradient"])
def test_explain_on_the_gpu_is_explain_on_the_cpu(method: str) -> None:
    torch.manual_seed(0)
    runtime.select_device("cuda")  # without TF32
    network = torchvision.models.resnet18(weights=None).eval()
    images = torch.randn(4, 3, 96, 96)
    expected = pipeline.explain(network, images, method, target=3).maps.detach()
    maps = pipeline.explain(network.cuda(), images.cuda(), method, target=3).maps.detach()
    assert (maps.cpu() - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_batch_that_is_too_large_is_halved() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    total = torch.cuda.get_device_properties(device).total_memory

    def work(items: Sequence[int]) -> int:  # each item takes a sixth of the device
        kept = [torch.empty(total // 6, dtype=torch.uint8, device=device) for _ in items]
        return len(kept)

    limit = BatchLimit(device)
    assert sum(limit.compute(work, range(16))) == 16
    assert limit.limit is not None
    assert limit.limit <= 4
    assert torch.cuda.memory_allocated(device) < total // 6  # nothing is left of what failed


def test_memory_errors_of_cuda_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    assert memory_limit.is_out_of_memory(caught.value)
