"""A second look: the box of what was found, and the image cut there."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.protocols import Network
from pipeline.saliency.foreground import Foreground
from pipeline.saliency.zoom import boxes_of, widened, zoomed
from pipeline.types import NetworkOutput


def test_boxes_are_half_open_around_all_that_is_foreground() -> None:
    maps = torch.zeros(3, 1, 4, 8)
    maps[0, 0, 1, 2] = maps[0, 0, 2, 5] = 0.9
    maps[1, 0, 3, 7] = 0.5
    expected = [[2 / 8, 1 / 4, 6 / 8, 3 / 4], [7 / 8, 3 / 4, 1, 1], [0, 0, 1, 1]]
    assert boxes_of(maps).tolist() == expected  # the last: nothing is, so that all is
    wide = widened(torch.tensor([[0.2, 0.0, 0.4, 0.5]]))
    assert torch.allclose(wide, torch.tensor([[0.18, 0.0, 0.42, 0.55]]))


def test_a_cut_is_what_lies_in_the_box_in_the_images_size() -> None:
    images = torch.randn(2, 3, 16, 24)
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]])
    found = zoomed(images, boxes)
    part = F.interpolate(images[:1, :, 8:, 6:18], (16, 24), mode="bilinear")
    assert torch.allclose(found[0, :, 2:-2, 2:-2], part[0, :, 2:-2, 2:-2], atol=1e-5)
    assert torch.allclose(found[1], images[1], atol=1e-5)


class Undecided:
    """Sure of the first image, torn about the second until it sees it near."""

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
def test_only_what_is_left_open_is_looked_at_again(
    margin: float, seen: list[int], second: int
) -> None:
    network = Undecided()
    asked: Network = network  # type: ignore[assignment]
    found = Foreground(look_again=margin)(
        asked, torch.randn(2, 3, 8, 8), lambda logits: logits.argmax(1, keepdim=True)
    )
    assert network.seen == seen
    assert found.classes.flatten().tolist() == [0, second]
    assert torch.allclose(found.logits[0], torch.tensor([9.0, 0, 0]).log_softmax(0), atol=1e-5)
