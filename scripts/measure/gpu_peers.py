"""Our methods and those of torchcam, pytorch-grad-cam and captum, in turns on the same device.

Both in float32 without TF32. The peers run as their users run them, contiguous; ours in
channels_last.
"""

from __future__ import annotations

from collections.abc import Iterator

from scripts.measure.gpu_rows import Measured, Setting
from scripts.measure.speed_saliency import Bench
from scripts.measure.timing import Work, compare

TORCHCAM, GRAD_CAM, CAPTUM = 1.3, 3.0, 1.1  # how many times as fast ours should be


def measure_torchcam(setting: Setting) -> Iterator[Measured]:
    """Compare CAM and Grad-CAM with torchcam."""
    bench = _build(setting)
    yield _compare(bench, setting, "cam", "torchcam CAM", bench.torchcam("CAM"), TORCHCAM)
    theirs = "torchcam GradCAM"
    yield _compare(bench, setting, "gradcam", theirs, bench.torchcam("GradCAM"), TORCHCAM)


def measure_pytorch_grad_cam(setting: Setting) -> Iterator[Measured]:
    """Compare Grad-CAM with pytorch-grad-cam."""
    bench = _build(setting)
    theirs = "pytorch-grad-cam GradCAM"
    yield _compare(bench, setting, "gradcam", theirs, bench.grad_cam("GradCAM"), GRAD_CAM)


def measure_captum(setting: Setting) -> Iterator[Measured]:
    """Compare gradient methods with captum."""
    bench = _build(setting)
    pairs = {"gradient": "Saliency", "guided_backprop": "GuidedBackprop"}
    for method, kind in pairs.items():
        work = bench.captum(kind)
        yield _compare(bench, setting, method, f"captum {kind}", work, CAPTUM)


def _build(setting: Setting) -> Bench:
    return Bench(setting.device, setting.batch, setting.side, setting.network)


def _compare(
    bench: Bench, setting: Setting, method: str, peer: str, theirs: Work, aim: float
) -> Measured:
    """Measure a method and its peer in turns."""
    ours = bench.method(method, bf16=False)
    taken = compare(ours, theirs, setting.device, setting.rounds, setting.seconds)
    return Measured(
        name=f"{method} vs {peer}", value=taken.ratio, unit="times as fast", aim=aim,
        low=taken.low, high=taken.high, ours=bench.batch / taken.ours,
        theirs=bench.batch / taken.theirs,
        note=f"{setting.network}, {setting.side} px, batch {bench.batch}, both float32, images/s",
    )  # fmt: skip


MEASUREMENTS = (measure_torchcam, measure_pytorch_grad_cam, measure_captum)
