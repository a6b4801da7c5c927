"""Saliency maps a second: ours against a bare forward pass and against the peers.

resnet50 with random weights (speed does not ask for trained ones), 224x224, batch 16, all cores of
the process; Score-CAM one image. The peers as their users run them: float32, contiguous. Ours as
the project runs it: channels_last, bf16 where a method allows it. A record that ends in _float32 is
ours in float32 beside the same peer. Rounds alternate in one process; a ratio is the median of the
rounds' own ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.choices import instantiate, read_choice
from pipeline.model.classifier import Classifier
from pipeline.model.torchvision import Torchvision
from scripts.measure.records import Record

ROUNDS = 5
BATCH = 16
Work = Callable[[], object]


def run(*names: str) -> list[Record]:
    bench = Bench()
    found = []
    for name, (ours, theirs, peer, count) in bench.pairs().items():
        if names and not any(name.startswith(one) for one in names):
            continue
        found.append(_record(name, ours, theirs, peer, count))
    return found


class Bench:
    """The same network twice: torchvision's own for the peers, cut for ours."""

    def __init__(self) -> None:
        import torchvision

        torch.manual_seed(0)
        self.theirs = torchvision.models.resnet50(weights=None).eval()
        builder = Torchvision("resnet50", None)
        body, head = builder.own(1000)
        self.ours = Classifier(body, head, [str(n) for n in range(1000)], below=builder.below)
        source = dict(self.theirs.state_dict())
        state = {
            name: source["fc." + name[12:] if name.startswith("head.linear.") else name[5:]]
            for name in self.ours.state_dict()
        }
        self.ours.load_state_dict({name: one.clone() for name, one in state.items()})
        self.ours.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.images = torch.randn(BATCH, 3, 224, 224)
        self.last = self.images.contiguous(memory_format=torch.channels_last)
        self.classes = list(range(BATCH))

    def method(self, name: str, bf16: bool, count: int = BATCH, **arguments: Any) -> Work:
        method = instantiate("saliency", {**read_choice("saliency", name), **arguments})
        images, classes = self.last[:count], torch.tensor(self.classes[:count])[:, None]

        def work() -> object:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return method(self.ours, images, lambda logits: classes)

        return work

    def forward(self, bf16: bool) -> Work:
        def work() -> object:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return self.ours(self.last)

        return work

    def torchcam(self, kind: str) -> Work:
        from torchcam import methods

        def work() -> object:
            given = {"fc_layer": "fc"} if kind == "CAM" else {}
            with getattr(methods, kind)(self.theirs, target_layer="layer4", **given) as extractor:
                scores = self.theirs(self.images)
                return extractor(self.classes, scores)

        return work

    def grad_cam(self, kind: str, count: int = BATCH) -> Work:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(n) for n in self.classes[:count]]

        def work() -> object:
            with getattr(pytorch_grad_cam, kind)(self.theirs, [self.theirs.layer4]) as cam:
                if hasattr(cam, "batch_size"):
                    cam.batch_size = BATCH
                return cam(input_tensor=self.images[:count], targets=targets)

        return work

    def captum(self, kind: str, count: int = BATCH, **arguments: Any) -> Work:
        from captum import attr

        def work() -> object:
            images = self.images[:count].clone().requires_grad_(kind != "Occlusion")
            method = getattr(attr, kind)(self.theirs)
            return method.attribute(images, target=self.classes[:count], **arguments)

        return work

    def pairs(self) -> dict[str, tuple[Work, Work, str, int]]:
        """name -> ours, theirs, who they are, images in one call."""
        window = {"sliding_window_shapes": (3, 56, 56), "strides": (3, 28, 28), "baselines": 0}
        cams = {
            "cam_vs_forward": ("cam", self.forward(True), "the bare forward pass, bf16", BATCH),
            "cam_vs_torchcam": ("cam", self.torchcam("CAM"), "torchcam CAM", BATCH),
            "gradcam_vs_torchcam": ("gradcam", self.torchcam("GradCAM"), "torchcam GradCAM", BATCH),
            "gradcam_vs_pytorch_grad_cam": (
                "gradcam", self.grad_cam("GradCAM"), "pytorch-grad-cam GradCAM", BATCH),
            "gradient_vs_captum": ("gradient", self.captum("Saliency"), "captum Saliency", BATCH),
            "guided_backprop_vs_captum": (
                "guided_backprop", self.captum("GuidedBackprop"), "captum GuidedBackprop", BATCH),
            "scorecam_vs_pytorch_grad_cam": (
                "scorecam", self.grad_cam("ScoreCAM", 1), "pytorch-grad-cam ScoreCAM", 1),
            "occlusion_vs_captum": (
                "occlusion", self.captum("Occlusion", 4, **window), "captum Occlusion", 4),
        }  # fmt: skip
        found: dict[str, tuple[Work, Work, str, int]] = {}
        for name, (method, theirs, peer, count) in cams.items():
            arguments = {"window": 56, "stride": 28} if method == "occlusion" else {}
            same = self.forward(False) if name == "cam_vs_forward" else theirs
            ours = self.method(method, True, count, **arguments)
            in_float32 = self.method(method, False, count, **arguments)
            if method in ("gradient", "guided_backprop"):
                # They refuse bfloat16 by their own choice: beside them, what it would give.
                found[name] = in_float32, theirs, f"{peer}, both float32", count
                found[f"{name}_bf16"] = self.in_bf16(method), theirs, peer, count
            else:
                found[name] = ours, theirs, peer, count
                same_told = peer.replace("bf16", "float32")
                found[f"{name}_float32"] = in_float32, same, f"{same_told}, both float32", count
        return found

    def in_bf16(self, method: str) -> Work:
        """A gradient method made to compute in bfloat16, to see what it would gain."""
        from unittest.mock import patch

        plain = self.method(method, True)

        @contextmanager
        def lower(images: Tensor, graph: bool = True) -> Iterator[None]:
            with torch.set_grad_enabled(graph):
                yield

        def work() -> object:
            with patch("pipeline.saliency.gradients.full_precision", lower):
                return plain()

        return work


def _record(name: str, ours: Work, theirs: Work, peer: str, count: int) -> Record:
    slow = "scorecam" in name or "occlusion" in name
    if not slow:
        ours(), theirs()  # warms both up
    rounds = [(_seconds(ours), _seconds(theirs)) for _ in range(1 if slow else ROUNDS)]
    ratio = median(t / o for o, t in rounds)
    return Record(name, count / median(o for o, _ in rounds), count / median(t for _, t in rounds),
                  ratio, "images/s", f"{peer}, torch {torch.__version__}")  # fmt: skip


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
