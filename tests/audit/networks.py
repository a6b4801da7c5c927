"""What tests of the audit share: a small network, and the real one on real photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.torchvision import MEAN, STD, Torchvision
from pipeline.types import AuditBatch

FOLDERS = ("n02102040", "n03028079", "n03445777", "n03394916")


def small(channels: int = 3, bias: bool = False, padding: int = 1) -> Classifier:
    torch.manual_seed(3)
    body = nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2, padding, bias=bias),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=padding),
        nn.ReLU6(inplace=True),
    )
    for module in body:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network = Classifier(body, MeanLinear(12, 5), list("abcde"))
    return network.eval().requires_grad_(False)


def batch_of(
    images: Tensor, classes: Tensor, maps_of: Callable[[Any, Tensor], Tensor], shown: int = 0
) -> AuditBatch:
    """A batch of a test of maps; the best box of a map is its left half."""
    count, _, height, width = images.shape

    def logits_of(network: Any, given: Tensor) -> Tensor:
        with torch.no_grad():
            return network(given).logits

    return AuditBatch(
        positions=range(count),
        pixels=np.zeros((count, height, width, 3), np.uint8),
        sizes=[(height, width)] * count,
        images=images,
        classes=classes,
        seeds=range(count),
        shown=shown,
        maps_of=maps_of,
        logits_of=logits_of,
        best_boxes=lambda maps: np.tile(
            np.array([0, 0, width // 2, height], np.float32), (len(maps), 1)
        ),
    )


def real(shared: Path, count: int, side: int) -> tuple[Classifier, Tensor, Tensor]:
    """MobileNetV2, photographs, the classes it takes them for."""
    import pytest

    weights = shared / "data/weights/mobilenet_v2_imagenet.pth"
    root = shared / "data/imagenette/val"
    if not weights.is_file() or not root.is_dir():
        pytest.skip("no MobileNetV2 weights or no photographs here")
    body, head, names = Torchvision("mobilenet_v2", weights=str(weights)).load()
    assert head is not None
    network = Classifier(body, head, names).eval().requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)
    images = []
    for folder in FOLDERS[:count]:
        photo = sorted((root / folder).iterdir())[2]
        pixels = np.asarray(Image.open(photo).convert("RGB").resize((side, side)), np.float32)
        scaled = (pixels / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        images.append(torch.from_numpy(scaled).permute(2, 0, 1))
    batch = torch.stack(images).to(memory_format=torch.channels_last)
    with torch.no_grad():
        return network, batch, network(batch).logits.argmax(1)
