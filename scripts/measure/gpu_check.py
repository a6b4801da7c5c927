"""Does a GPU give what the CPU gives, and does what holds on a CPU hold there?

Maps are compared with those of the same network on the CPU, in float32 and contiguous, by their
largest difference as a share of the largest value. Networks have random weights.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.engine import memory_limit, runtime, terminal
from pipeline.engine.choices import instantiate, read_choice
from scripts.measure.gpu_rows import Measured, Setting, Skip
from scripts.measure.speed_saliency import Bench
from scripts.measure.timing import synchronize

METHODS: dict[str, dict[str, Any]] = {
    "cam": {}, "gradcam": {}, "gradcam_plus_plus": {}, "layercam": {}, "eigencam": {},
    "gradient": {}, "guided_backprop": {}, "integrated_gradients": {"steps": 4},
    "occlusion": {"window": 16, "stride": 16},
}  # fmt: skip
SLOW = {"occlusion": 1, "integrated_gradients": 4}  # images that the CPU explains, where not all
COMPARED = 8  # images whose maps are compared
MAX_DIFFERENCE = 1e-4  # of the largest value of a map
EMPTY = 1e-3  # of the largest value of all maps, below which a map is empty
MIN_SAME_BOXES = 0.99  # of the images
SAME_BOX = 1.0  # pixels by which a side may differ
MAX_GROWTH = 1.0  # MB of a GPU's memory; of a process, whose allocators settle, 20
TEST_SECONDS = 110


def measure_maps(setting: Setting) -> Iterator[Measured]:
    """Compare maps in float32, channels_last, with those of the CPU, contiguous."""
    bench, reference = _build(setting), _build_reference(setting)
    for name, options in METHODS.items():
        count = SLOW.get(name, COMPARED)
        maps = _explain(bench, name, count, options)
        expected = _explain(reference, name, count, options)
        yield _compare_maps(f"maps of {name}, float32", maps, expected, MAX_DIFFERENCE)


def measure_lower_precision(setting: Setting) -> Iterator[Measured]:
    """Compare maps in bf16, and in fp16, which is no value of `precision`, with float32."""
    bench, reference = _build(setting), _build_reference(setting)
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float16, "fp16")):
        for method in ("cam", "gradcam", "layercam"):
            maps = _explain(bench, method, COMPARED, {}, dtype)
            expected = _explain(reference, method, COMPARED, {})
            yield _compare_maps(f"maps of {method}, {name}", maps, expected, None)


def measure_layout(setting: Setting) -> Iterator[Measured]:
    """Check that what a network computes stays channels_last."""
    bench = _build(setting)
    with torch.inference_mode():
        features = bench.ours(bench.last, at=("last", "below")).activations
    kept = [values.is_contiguous(memory_format=torch.channels_last) for values in features.values()]
    yield Measured(name="layers that are channels_last", value=float(np.mean(kept)), unit="share",
                   aim=1.0)  # fmt: skip


def measure_determinism(setting: Setting) -> Iterator[Measured]:
    """Explain twice with deterministic algorithms."""
    bench = _build(setting)
    with _deterministic():
        for name in ("cam", "gradcam", "gradient", "guided_backprop"):
            first, second = (_explain(bench, name, COMPARED, {}) for _ in range(2))
            yield _compare_maps(f"{name} twice, deterministic", first, second, 0.0)


def measure_memory(setting: Setting) -> Iterator[Measured]:
    """Explain many batches, and compare the memory after some and after all."""
    bench = _build(setting)
    calls = 10 if setting.is_rehearsal else 100
    for name in ("cam", "gradcam", "gradient"):
        work = bench.method(name, bf16=False)
        used = []
        for number in range(calls):
            work()
            if number in (calls // 2 - 1, calls - 1):
                synchronize(setting.device)
                used.append(_count_megabytes(setting.device))
        most = MAX_GROWTH if setting.device.type == "cuda" else 20 * MAX_GROWTH
        yield Measured(name=f"memory of {name}, last {calls // 2} of {calls} batches",
                       value=used[1] - used[0], unit="MB more", aim=most, at_most=True)  # fmt: skip


def measure_halving(setting: Setting) -> Iterator[Measured]:
    """Give a batch little memory, and compare its maps with those of the whole batch."""
    if setting.device.type != "cuda":
        raise Skip("torch bounds the memory of CUDA devices alone; tests/engine/"
                   "test_memory_limit.py simulates one")  # fmt: skip
    bench = _build(setting)
    images = bench.last[:COMPARED].repeat(64, 1, 1, 1)
    method = instantiate("saliency", read_choice("saliency", "cam"))

    def work(part: Any) -> np.ndarray:
        classes = torch.zeros(len(part), 1, dtype=torch.long, device=setting.device)
        maps = method(bench.ours, images[part[0] : part[-1] + 1], lambda logits: classes).maps
        return np.asarray(maps.float().cpu().numpy())

    expected = work(range(len(images)))
    limit = memory_limit.BatchLimit(setting.device)
    with _little_memory(setting.device, work, images):
        terminal.forget_notes()
        parts = limit.compute(work, range(len(images)))
    yield Measured(name="images at once after halving", value=float(limit.limit or len(images)),
                   unit=f"of {len(images)}", aim=len(images) / 2, at_most=True)  # fmt: skip
    halved = torch.from_numpy(np.concatenate(parts))
    yield _compare_maps("maps of the halved batch", halved, torch.from_numpy(expected),
                        MAX_DIFFERENCE)  # fmt: skip


def measure_runs(setting: Setting) -> Iterator[Measured]:
    """Train, explain and localize twice, interrupted, and on the CPU."""
    from scripts.measure.gpu_runs import CheckedRuns

    runs = CheckedRuns(setting)
    with _deterministic():
        first = runs.train("first")
        yield _difference_of_weights("training twice", first, runs.train("second"))
        yield _difference_of_weights(
            "training, interrupted and resumed", first, runs.train("resumed", interrupted=True)
        )
        whole = runs.explain("whole", first)
        resumed = runs.explain("cut", first, interrupted=True)
        same = np.mean([whole[name] == resumed[name] for name in whole])
        yield Measured(name="shards of maps, interrupted and resumed", value=float(same),
                       unit="share of the same bytes", aim=1.0)  # fmt: skip
    boxes = runs.localize("boxes", first, setting.device)
    on_cpu = runs.localize("boxes_cpu", first, torch.device("cpu"))
    yield _compare_boxes("boxes, float32", boxes, on_cpu, MIN_SAME_BOXES)
    in_bf16 = runs.localize("boxes_bf16", first, setting.device, "bf16")
    yield _compare_boxes("boxes, bf16", in_bf16, on_cpu, None)


def measure_tests(setting: Setting) -> Iterator[Measured]:
    """Run the tests that are marked cuda."""
    if importlib.util.find_spec("pytest") is None:
        raise Skip("pytest cannot be imported")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider",
               "tests/engine/test_cuda.py"]  # fmt: skip
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TEST_SECONDS,
                           env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    # The summary is the last line, as "5 passed in 9.31s" or "6 skipped in 2.10s".
    last = (ended.stdout.strip().splitlines() or [ended.stderr.strip()[-200:]])[-1]
    if setting.device.type != "cuda" and " skipped" in last and ended.returncode == 0:
        raise Skip(f"they need a CUDA device: {last}")
    if ended.returncode != 0:
        print(ended.stdout, ended.stderr, file=sys.stderr)
    yield Measured(name="exit code of the tests marked cuda", value=float(ended.returncode),
                   unit="code", aim=0.0, at_most=True, note=last)  # fmt: skip


def _build(setting: Setting) -> Bench:
    return Bench(setting.device, max(COMPARED, setting.batch // 4), setting.side, setting.network)


def _build_reference(setting: Setting) -> Bench:
    """Return the same network and images on the CPU, contiguous."""
    reference = Bench("cpu", max(COMPARED, setting.batch // 4), setting.side, setting.network)
    reference.ours.to(memory_format=torch.contiguous_format)
    reference.last = reference.images
    return reference


def _explain(
    bench: Bench, name: str, count: int, options: dict[str, Any], dtype: torch.dtype | None = None
) -> Tensor:
    """Return the maps of some images, computed in float32 or another type, on the CPU."""
    method = instantiate("saliency", {**read_choice("saliency", name), **options})
    classes = torch.arange(count, device=bench.device)[:, None]
    with torch.autocast(bench.device.type, dtype, enabled=dtype is not None):
        maps = method(bench.ours, bench.last[:count], lambda logits: classes).maps
    return maps.detach().float().cpu()  # type: ignore[no-any-return]


def _compare_maps(name: str, maps: Tensor, expected: Tensor, most: float | None) -> Measured:
    """Return the largest difference of the maps of an image, as a share of its largest value.

    Where a network with random weights has no evidence for a class its map is empty but for
    rounding: then the largest value of all images is its measure.
    """
    difference = (maps - expected).abs().flatten(1).amax(1)
    largest = expected.abs().flatten(1).amax(1)
    largest = torch.where(largest > EMPTY * largest.max(), largest, largest.max())
    value = float((difference / largest).max())
    if not np.isfinite(value):
        raise ValueError(f"{name}: maps are not finite")
    return Measured(name=name, value=value, unit="of the maximum", aim=most, at_most=True)


def _compare_boxes(
    name: str, boxes: dict[Any, Any], expected: dict[Any, Any], least: float | None
) -> Measured:
    """Return the share of the images whose boxes are the same within SAME_BOX."""

    def is_same(image: Any) -> bool:
        pair = [np.array(each.get(image, [])).reshape(-1, 4) for each in (boxes, expected)]
        return len(pair[0]) == len(pair[1]) and bool((abs(pair[0] - pair[1]) <= SAME_BOX).all())

    images = {*boxes, *expected}
    same = float(np.mean([is_same(image) for image in images]))
    note = f"{len(images)} images, sides within {SAME_BOX:g} px"
    return Measured(name=name, value=same, unit="of the images as on the CPU in float32",
                    aim=least, note=note)  # fmt: skip


def _difference_of_weights(name: str, first: Path, second: Path) -> Measured:
    """Return the largest difference of the weights of two trained networks."""
    from safetensors.torch import load_file

    weights, others = (load_file(folder / "weights.safetensors") for folder in (first, second))
    value = max(float((weights[key].float() - others[key].float()).abs().max()) for key in weights)
    return Measured(name=name, value=value, unit="largest difference of a weight", aim=0.0,
                    at_most=True)  # fmt: skip


def _count_megabytes(device: torch.device) -> float:
    """Return the memory that tensors take on a GPU, or the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e6
    from scripts.measure.speed_api import read_resident_memory

    return read_resident_memory()


@contextmanager
def _deterministic() -> Iterator[None]:
    """Use only deterministic algorithms within the block."""
    runtime.set_deterministic(True)
    try:
        yield
    finally:
        runtime.set_deterministic(False)


@contextmanager
def _little_memory(
    device: torch.device, work: Callable[[Any], object], images: Tensor
) -> Iterator[None]:
    """Leave less memory than `work` needs of all images, and more than it needs of a quarter."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work(range(len(images)))
    needed = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    room = torch.cuda.memory_reserved(device) + 0.6 * needed
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


MEASUREMENTS = (
    measure_maps, measure_lower_precision, measure_layout, measure_determinism, measure_memory,
    measure_halving, measure_runs, measure_tests,
)  # fmt: skip
