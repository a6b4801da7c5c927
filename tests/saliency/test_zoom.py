"""The second pass: the box around the foreground, and the image cropped to it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.protocols import Network
from pipeline.saliency.foreground import Foreground
from pipeline.saliency.zoom import crop_to_boxes, find_foreground_boxes, widen_boxes
from pipeline.types import NetworkOutput


def test_boxes_are_half_open_around_all_that_is_foreground() -> None:
    maps = torch.zeros(3, 1, 4, 8)
    maps[0, 0, 1, 2] = maps[0, 0, 2, 5] = 0.9
    maps[1, 0, 3, 7] = 0.5
    expected = [[2 / 8, 1 / 4, 6 / 8, 3 / 4], [7 / 8, 3 / 4, 1, 1], [0, 0, 1, 1]]
    assert find_foreground_boxes(maps).tolist() == expected  # the last: nothing is, so that all is
    wide = widen_boxes(torch.tensor([[0.2, 0.0, 0.4, 0.5]]))
    assert torch.allclose(wide, torch.tensor([[0.18, 0.0, 0.42, 0.55]]))


def test_a_crop_is_resized_to_the_size_of_the_image() -> None:
    images = torch.randn(2, 3, 16, 24)
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]])
    crops = crop_to_boxes(images, boxes)
    part = F.interpolate(images[:1, :, 8:, 6:18], (16, 24), mode="bilinear")
    assert torch.allclose(crops[0, :, 2:-2, 2:-2], part[0, :, 2:-2, 2:-2], atol=1e-5)
    assert torch.allclose(crops[1], images[1], atol=1e-5)


class Undecided:
    """A network that is sure of the first image, and of the second only in its crop."""

    stands_alone, tells_objects = True, True
    classes = ("a", "b", "c")

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, images: torch.Tensor, at: tuple[str, ...] = ()) -> NetworkOutput:
        self.seen.append(len(images))
        maps = torch.zeros(len(images), 1, 4, 4)
        maps[:, :, 1:3, 1:3] = 1
        logits = torch.tensor([[9.0, 0, 0], [1.0, 1.1, 0]])
        if len(images) == 1:
            logits = torch.tensor([[3.0, 0, 0]])
        return NetworkOutput(logits, {"foreground": maps, "object_class": logits})


@pytest.mark.parametrize(("margin", "seen", "second"), [(0.1, [2, 1], 0), (0.0, [2], 1)])
def test_only_images_whose_class_is_open_get_a_second_pass(
    margin: float, seen: list[int], second: int
) -> None:
    network = Undecided()
    asked: Network = network  # type: ignore[assignment]
    explanation = Foreground(second_pass_margin=margin)(
        asked, torch.randn(2, 3, 8, 8), lambda logits: logits.argmax(1, keepdim=True)
    )
    assert network.seen == seen
    assert explanation.classes.flatten().tolist() == [0, second]
    assert torch.allclose(
        explanation.logits[0], torch.tensor([9.0, 0, 0]).log_softmax(0), atol=1e-5
    )
