"""XRAI against its definition, written out with masks; integrated gradients are captum's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from skimage.morphology import dilation, disk
from skimage.segmentation import felzenszwalb

from pipeline.errors import UserError
from pipeline.saliency.xrai import XRAI, rank_regions
from pipeline.types import NetworkOutput
from tests.saliency.networks import KINDS, SIDE, build_network
from tests.saliency.test_superpixels import draw_image

CHOSEN = [2, 0]


def choose(logits):
    return torch.tensor(CHOSEN).expand(len(logits), -1)


def rank(attribution, segments, fewest):
    """Rank regions by the definition: in each round, the mean over the new pixels of each."""
    taken = np.zeros(attribution.shape, bool)
    ranked = np.full(attribution.shape, np.nan)
    while True:
        gains = []
        for number, segment in enumerate(segments):
            added = segment & ~taken
            if added.sum() >= fewest:
                gains.append((attribution[added].mean(), -number))
        if not gains:
            break
        best = segments[-max(gains)[1]]
        ranked[best & ~taken] = max(gains)[0]
        taken |= best
    if not taken.all():
        ranked[~taken] = attribution[~taken].mean()
    return ranked


@pytest.mark.parametrize("fewest", [1, 6, 40])
@pytest.mark.parametrize("seed", range(3))
def test_regions_are_ranked_by_the_definition(seed, fewest):
    random = np.random.default_rng(seed)
    attribution = random.normal(size=(14, 18))
    segments = np.zeros((25, 14, 18), bool)
    for segment in segments:
        top, left = random.integers(0, 12, 2)
        height, width = random.integers(2, 9, 2)
        segment[top : top + height, left : left + width] = True
    ours = rank_regions(attribution, segments, fewest)
    np.testing.assert_allclose(ours, rank(attribution, segments, fewest), rtol=1e-9, atol=1e-12)
    assert ours.mean() == pytest.approx(attribution.mean())  # each pixel is counted once


@pytest.mark.parametrize("channels", ["max", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_definition(kind, channels):
    net = build_network(kind)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    method = XRAI(steps=8, channels=channels, smallest_segment=500)
    maps = method(net, images, choose).maps
    peer = CaptumIntegratedGradients(lambda x: net(x).logits)
    for n in range(2):
        image = images[n : n + 1]
        segments = method.list_segments(image[0])
        for column, label in enumerate(CHOSEN):
            colour = sum(
                peer.attribute(image, value.expand_as(image), target=label, n_steps=8)
                for value in (image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True))
            ) / 2  # fmt: skip
            reduced = colour[0].amax(0) if channels == "max" else colour[0].sum(0)
            wanted = rank(reduced.double().numpy(), segments, 1)
            close = 0.01 * np.abs(wanted).max()
            np.testing.assert_allclose(maps[n, column], wanted, rtol=0, atol=close)


def test_segments_are_skimages_at_all_scales():
    image, _ = draw_image(112, 112)
    normalized = torch.from_numpy((image - 0.4) / 0.25).permute(2, 0, 1)
    ours = XRAI(segment_scales=(400, 4000)).list_segments(normalized)
    scaled = 2 * (image - image.min()) / (image.max() - image.min()) - 1
    wanted = []
    for scale in (400, 4000):  # a quarter of 224 x 224 pixels
        labels = felzenszwalb(scaled, scale / 4, 0.8, 38)
        wanted += [dilation(labels == n, disk(2)) for n in range(labels.max() + 1)]
    assert len(ours) == pytest.approx(len(wanted), abs=4)
    shares = [max((a & b).sum() / (a | b).sum() for b in ours) for a in wanted]
    assert np.median(shares) > 0.98


def test_marks_the_region_that_the_score_reads():
    image, regions = draw_image()

    class Ellipse(torch.nn.Module):
        classes = ("red",)

        def forward(self, images, at=()):
            with torch.set_grad_enabled("input" in at):
                shown = images.detach().requires_grad_() if "input" in at else images
                weights = torch.from_numpy(regions == 1).float()
                logits = (shown[:, 0] * weights).sum((1, 2))[:, None] / 100
            return NetworkOutput(logits, {"input": shown} if "input" in at else {})

    net: Any = Ellipse()
    images = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    ranked = XRAI(baselines=((0.0, 0.0, 0.0),))(net, images, lambda x: x.argmax(1)[:, None])
    ranked_map = ranked.maps[0, 0].numpy()
    marked = ranked_map >= np.quantile(ranked_map, 1 - (regions == 1).mean())
    assert (marked & (regions == 1)).sum() / (marked | (regions == 1)).sum() > 0.7


def test_baselines():
    net = build_network("plain")
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    low, high = image.amin((2, 3))[0], image.amax((2, 3))[0]
    named: Any = (tuple(low.tolist()), tuple(high.tolist()))
    torch.testing.assert_close(
        XRAI(steps=4, baselines=named)(net, image, choose).maps,
        XRAI(steps=4)(net, image, choose).maps,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "saliency.steps=0"),
        ({"smallest_segment": 0}, "saliency.smallest_segment=0"),
        ({"smallest_addition": 0}, "saliency.smallest_addition=0"),
        ({"dilation": -1}, "saliency.dilation=-1"),
        ({"segment_scales": ()}, r"saliency.segment_scales=\[\]"),
        ({"segment_scales": (50, 0)}, r"saliency.segment_scales=\[50, 0\]"),
        ({"baselines": ()}, r"saliency.baselines=\[\]"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        XRAI(**arguments)
