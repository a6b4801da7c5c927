"""AP50 of a detector, of what it finds beside true boxes; its training on a body."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.engine.checkpoint import Checkpoint
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.small import Small
from scripts.measure.detector import SIDE, Annotated, build_detector, fit, measure_ap50

BOX = np.array([[10, 12, 40, 50]], np.float32)


class Oracle(nn.Module):
    """Finds a box of a class and a score in images whose first pixel is bright."""

    def __init__(self, box: np.ndarray, label: int) -> None:
        super().__init__()
        self.box, self.label = torch.from_numpy(box), label

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = self.box[: int(images[0][0, 0, 0] > 0.5)]
        count = len(found)
        return [{"boxes": found, "labels": torch.full((count,), self.label),
                 "scores": torch.full((count,), 0.9)}]  # fmt: skip


def images(bright: list[bool]) -> list[Annotated]:
    return [Annotated(np.full((SIDE, SIDE, 3), 255 * one, np.uint8), 2, BOX) for one in bright]


@pytest.mark.parametrize(
    ("shift", "label", "expected"), [(0, 2, 1.0), (5, 2, 1.0), (20, 2, 0.0), (0, 3, 0.0)]
)
def test_a_box_counts_by_iou_and_class(shift: float, label: int, expected: float) -> None:
    moved = BOX + np.array([shift, 0, shift, 0], np.float32)
    assert measure_ap50(Oracle(moved, label), images([True, True])) == pytest.approx(expected)


def test_half_of_the_objects_found_is_half_the_precision() -> None:
    ap = measure_ap50(Oracle(BOX, 2), images([True, False]))
    assert ap == pytest.approx(51 / 101), "precision 1 up to a recall of 0.5, of 101 recalls"
    assert measure_ap50(Oracle(BOX, 2), images([False])) == 0


def test_a_detector_learns_on_a_copy_of_the_body() -> None:
    torch.manual_seed(0)
    builder = Small(width=8)
    body, channels = builder.body()
    network = Classifier(body, MeanLinear(channels, 3), ("a", "b", "c"))
    trained = Checkpoint(network, (SIDE, SIDE), builder.mean, builder.std, {})
    before = [weights.clone() for weights in network.parameters()]
    detector = fit(trained, images([True, False] * 8), 1, 0)
    assert not detector.training
    after = list(network.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    found = build_detector(trained).eval()([torch.rand(3, SIDE, SIDE)])[0]
    assert set(found) == {"boxes", "scores", "labels"}
    assert found["boxes"].shape[1] == 4
