"""Views: their parts by hand, mirrored back and averaged; the classes are chosen once."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.saliency.cam import CAM
from pipeline.saliency.views import Views
from pipeline.types import Explanation


def top(count):
    return lambda logits: logits.topk(count, dim=1).indices


def network():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
    )  # fmt: skip
    return Classifier(body, MeanLinear(8, 6), "abcdef").eval().requires_grad_(False)


def min_max(values):
    return (values - values.min()) / (values.max() - values.min())


def by_hand(net, x, classes, views):
    """Average CAMs over views (size, mirrored), map by map."""
    weights, finest = net.class_weights, None
    maps = []
    for size, mirrored in views:
        view = F.interpolate(x, size, mode="bilinear", antialias=True) if size else x
        features = net.features(view.flip(3) if mirrored else view)
        view_maps = torch.einsum("btk,bkhw->bthw", weights[classes], features)
        maps.append(view_maps.flip(3) if mirrored else view_maps)
    finest = max((view_maps.shape[2:] for view_maps in maps), key=lambda size: size[0] * size[1])
    average = torch.zeros(*classes.shape, *finest)
    for view_maps in maps:
        large = F.interpolate(view_maps, finest, mode="bilinear")
        for n, t in np.ndindex(*classes.shape):
            average[n, t] += min_max(large[n, t]) / len(maps)
    return average


def test_flips():
    net, x = network(), torch.randn(2, 3, 24, 40)
    explanation = Views(CAM())(net, x, top(2))
    assert explanation.maps.shape == (2, 2, 6, 10)
    wanted = by_hand(net, x, explanation.classes, [(None, False), (None, True)])
    torch.testing.assert_close(explanation.maps, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(explanation.logits, net(x).logits)


@pytest.mark.parametrize("flips", [True, False])
def test_scales_are_brought_to_the_finest(flips):
    net, x = network(), torch.randn(2, 3, 24, 40)
    explanation = Views(CAM(), flips, (1, 0.5, 1.75))(net, x, top(2))
    sizes = (None, (12, 20), (42, 70))
    mirrored = (False, True) if flips else (False,)
    wanted = by_hand(net, x, explanation.classes, [(s, m) for s in sizes for m in mirrored])
    assert explanation.maps.shape == (2, 2, 11, 18)
    torch.testing.assert_close(explanation.maps, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(explanation.logits, net(x).logits)


def test_alternate_views_are_mirrored_in_turn():
    net, x = network(), torch.randn(3, 3, 24, 40)
    explanation = Views(CAM(), "alternate", (1, 0.5, 1.75))(net, x, top(2))
    views = [(None, False), ((12, 20), True), ((42, 70), False)]
    wanted = by_hand(net, x, explanation.classes, views)
    torch.testing.assert_close(explanation.maps, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(explanation.logits, net(x).logits)


def test_a_pass_has_at_most_as_many_pixels_as_the_images():
    net, x, seen = network(), torch.randn(6, 3, 24, 40), []
    net.body.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    explanation = Views(CAM(), False, (1, 1.5, 2, 0.5, 3))(net, x, top(2))
    assert seen == [
        (6, 3, 24, 40),
        *[(2, 3, 36, 60)] * 3,
        *[(1, 3, 48, 80)] * 6,
        (6, 3, 12, 20),
        *[(1, 3, 72, 120)] * 6,
    ]
    sizes = (None, (36, 60), (48, 80), (12, 20), (72, 120))
    wanted = by_hand(net, x, explanation.classes, [(size, False) for size in sizes])
    torch.testing.assert_close(explanation.maps, wanted, rtol=1e-5, atol=1e-6)


def test_without_the_plain_size_the_classes_are_still_those_of_the_plain_image():
    net, x = network(), torch.randn(2, 3, 24, 40)
    sizes = []
    net.body.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    explanation = Views(CAM(), False, (2.0, 1.5))(net, x, top(2))
    assert list(dict.fromkeys(sizes)) == [(24, 40), (48, 80), (36, 60)]
    assert sizes.count((24, 40)) == 1
    sizes.clear()
    assert torch.equal(explanation.logits, net(x).logits)
    assert torch.equal(explanation.classes, explanation.logits.topk(2, dim=1).indices)
    wanted = by_hand(net, x, explanation.classes, [((48, 80), False), ((36, 60), False)])
    torch.testing.assert_close(explanation.maps, wanted, rtol=1e-5, atol=1e-6)


def test_the_classes_are_asked_for_once():
    net, x, asked = network(), torch.randn(2, 3, 24, 40), []

    def choose(logits):
        asked.append(logits)
        return logits.argmax(1, keepdim=True)

    Views(CAM(), True, (1, 2))(net, x, choose)
    assert len(asked) == 1
    assert torch.equal(asked[0], net(x).logits)


def test_the_map_of_a_mirrored_image_is_the_mirrored_map():
    net, x = network(), torch.randn(2, 3, 25, 41)  # odd: the strides fall on the same pixels
    chosen = torch.tensor([[0, 3], [2, 1]])
    maps = Views(CAM())(net, x, lambda logits: chosen).maps
    again = Views(CAM())(net, x.flip(3), lambda logits: chosen).maps
    torch.testing.assert_close(again.flip(3), maps, rtol=1e-5, atol=1e-6)


class Colours:
    """A method whose maps and colours are the image itself."""

    def __init__(self, small=False):
        self.small = small

    def __call__(self, network, images, choose):
        logits = network(images).logits
        classes = choose(logits)
        colour = images[:, None].expand(-1, classes.shape[1], -1, -1, -1)
        if self.small:
            colour = colour[..., ::2, ::2]
        return Explanation(colour.sum(2), classes, logits, colour)


def test_colours_are_mirrored_back_where_they_cover_the_image():
    net, x = network(), torch.randn(2, 3, 24, 40)
    explanation = Views(Colours())(net, x, top(2))
    torch.testing.assert_close(explanation.colour, x[:, None].expand(-1, 2, -1, -1, -1))
    assert Views(Colours(), True, (1, 2))(net, x, top(2)).colour is None
    assert Views(Colours(small=True))(net, x, top(2)).colour is None
    assert Views(CAM())(net, x, top(2)).colour is None
    larger = Views(Colours(), False, (2,))._explain_view(
        net, x, torch.tensor([[0], [1]]), (48, 80), True
    )
    assert larger.colour.shape == (2, 1, 3, 48, 80)  # of two passes


def test_batch_of_one_gives_the_same_maps():
    net, x = network(), torch.randn(4, 3, 24, 40)
    together = Views(CAM(), True, (1, 1.5))(net, x, top(2))
    for n in range(4):
        alone = Views(CAM(), True, (1, 1.5))(net, x[n : n + 1], top(2))
        torch.testing.assert_close(alone.maps[0], together.maps[n], rtol=1e-5, atol=1e-5)


def test_views_of_views():
    net, x = network(), torch.randn(1, 3, 24, 40)
    explanation = Views(Views(CAM()), False, (1, 2))(net, x, top(1))
    assert explanation.maps.shape == (1, 1, 12, 20)


@pytest.mark.parametrize("scales", [(), (0.0,), (1, -2.0), (float("inf"),)])
def test_wrong_scales(scales):
    with pytest.raises(UserError, match=r"saliency\.scales"):
        Views(CAM(), True, scales)
