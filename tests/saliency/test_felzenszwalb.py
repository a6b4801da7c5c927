"""Felzenszwalb's segmentation equals scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error
from skimage.segmentation import felzenszwalb

from pipeline.saliency.felzenszwalb import segment_felzenszwalb
from tests.saliency.test_superpixels import draw_image

SCALES = (30.0, 100.0, 400.0)


@pytest.mark.parametrize(("sigma", "smallest"), [(0.8, 20), (0.0, 1), (1.5, 60)])
def test_equals_skimage(sigma, smallest):
    image, _ = draw_image()
    ours = segment_felzenszwalb(image, tuple(scale / 255 for scale in SCALES), sigma, smallest)
    for labels, scale in zip(ours, SCALES, strict=True):
        peer = felzenszwalb(image, scale, sigma, smallest)
        assert adapted_rand_error(peer, labels)[0] < 0.02
        assert labels.max() == pytest.approx(peer.max(), rel=0.05, abs=2)
        assert np.bincount(labels.ravel()).min() >= smallest
        assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


def test_larger_scales_make_larger_segments_and_regions_of_one_colour_are_segments():
    image, _ = draw_image()
    counts = [labels.max() for labels in segment_felzenszwalb(image, (0.1, 0.5, 3), 0.8, 1)]
    assert counts[0] > counts[1] > counts[2]
    regions = np.zeros((20, 30, 1))
    regions[5:12, 7:20] = 1
    regions[15:, 25:] = 2
    (labels,) = segment_felzenszwalb(regions, (0.01,), 0, 1)
    assert np.array_equal(labels, regions[..., 0].astype(int))
