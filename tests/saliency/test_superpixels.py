"""SLIC against scikit-image's, on a drawn image; cells of a grid; segments are connected."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import adapted_rand_error
from skimage.segmentation import slic

from pipeline.saliency.superpixels import build_grid, segment_superpixels


def draw_image(height=96, width=128):
    """Draw an ellipse and a rectangle on a ramp, with noise; return also the region of pixels."""
    image = np.zeros((height, width, 3))
    image[..., 0] = np.linspace(0.2, 0.5, width)
    image[..., 1:] = 0.4
    regions = np.zeros((height, width), np.uint8)
    cv2.ellipse(regions, (40, 45), (24, 33), 20, 0, 360, 1, -1)
    cv2.rectangle(regions, (83, 20), (111, 74), 2, -1)
    image[regions == 1] = (0.9, 0.7, 0.1)
    image[regions == 2] = (0.1, 0.2, 0.8)
    image += np.random.default_rng(0).normal(0, 0.03, image.shape)
    return image.clip(0, 1), regions


def segment(image, segments=60, compactness=1.0):
    return segment_superpixels(
        torch.from_numpy(image).permute(2, 0, 1), "slic", segments, compactness
    )


def count_outside(labels, regions):
    """Return the share of pixels outside the region that most of their superpixel lies in."""
    inside = sum(np.bincount(regions[labels == n]).max() for n in range(labels.max() + 1))
    return 1 - inside / regions.size


def explain_variance(labels, image):
    """Return the share of the variance of colours that the mean colours of superpixels explain."""
    means = np.stack([image[labels == n].mean(0) for n in range(labels.max() + 1)])
    spread = ((image - image.mean((0, 1))) ** 2).sum()
    return 1 - ((image - means[labels]) ** 2).sum() / spread


def test_slic_keeps_to_the_borders_as_skimages_does():
    image, regions = draw_image()
    ours = segment(image)
    peer = slic(image, 60, compactness=10, start_label=0, convert2lab=True)
    grid = build_grid(regions.shape, 60)
    assert count_outside(ours, regions) < 0.01
    assert count_outside(ours, regions) <= count_outside(peer, regions) + 0.002
    assert count_outside(grid, regions) > 0.05
    assert explain_variance(ours, image) >= explain_variance(peer, image) - 0.01
    assert explain_variance(ours, image) > explain_variance(grid, image) + 0.1


@pytest.mark.parametrize(("segments", "error"), [(20, 0.1), (60, 0.2)])
@pytest.mark.parametrize("compactness", [1.0, 3.0])
def test_slic_is_skimages_where_colours_and_distances_are_the_same(segments, error, compactness):
    """Compare the partitions: no CIELAB; skimage scales colours by their range, ours by spread."""
    image, _ = draw_image()
    scaled = compactness * np.sqrt(image.var((0, 1)).mean()) / (image.max() - image.min())
    peer = slic(image, segments, compactness=scaled, start_label=0, convert2lab=False,
                enforce_connectivity=False)  # fmt: skip
    assert adapted_rand_error(peer, segment(image, segments, compactness))[0] < error
    assert adapted_rand_error(peer, build_grid(image.shape[:2], segments))[0] > 0.3


@pytest.mark.parametrize("compactness", [0.0, 0.3, 1.0, 10.0])
def test_segments_are_connected_numbered_and_not_too_many(compactness):
    image, _ = draw_image()
    noise = np.random.default_rng(1).random((33, 47, 3))
    for colours in (image, noise, np.zeros((20, 30, 3))):
        labels = segment(colours, 40, compactness)
        names = np.unique(labels)
        assert 2 <= len(names) <= 48
        assert names.tolist() == list(range(len(names)))
        for name in names:
            count, _ = cv2.connectedComponents((labels == name).astype(np.uint8), connectivity=8)
            assert count == 2


def test_normalization_does_not_change_the_segments():
    image, _ = draw_image()
    wanted = segment(image)
    assert np.array_equal(segment((image - [0.5, 0.4, 0.4]) / 0.22), wanted)
    assert np.array_equal(segment(image * 255), wanted)


def test_compact_segments_are_the_grid_nearly():
    image, _ = draw_image()
    grid = build_grid(image.shape[:2], 48)
    assert np.mean(segment(image, 48, 1e4) == grid) > 0.99


@pytest.mark.parametrize(
    ("size", "segments", "rows", "columns"),
    [((224, 224), 49, 7, 7), ((30, 60), 8, 2, 4), ((5, 50), 10, 1, 10), ((4, 4), 100, 4, 4),
     ((32, 32), 1, 1, 1)],
)  # fmt: skip
def test_grid(size, segments, rows, columns):
    labels = build_grid(size, segments)
    assert labels.shape == size
    assert np.array_equal(np.unique(labels), np.arange(rows * columns))
    assert (labels[:, 0] // columns).max() == rows - 1
    sizes = np.bincount(labels.ravel())
    assert sizes.max() <= np.ceil(size[0] / rows) * np.ceil(size[1] / columns)
    assert sizes.min() >= (size[0] // rows) * (size[1] // columns)
