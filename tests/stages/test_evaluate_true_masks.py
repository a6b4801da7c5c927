"""The outlines of annotated masks: filled, they are the masks; holes and ignored pixels stay so."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from pipeline.stages.evaluate.true_masks import MAX_TEXT, SIDE, trace_masks, trace_outline
from pipeline.types import Crowds, GroundTruth, Rle


def encode(mask: np.ndarray) -> Rle:
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def fill(outline: str, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels inside the outlines of an SVG path, by the rule evenodd."""
    parts = [
        np.array(re.findall(r"-?\d+", part), np.int32).reshape(-1, 2).cumsum(0, dtype=np.int32)
        for part in outline.split("z")[:-1]
    ]
    drawn = np.zeros(size, np.uint8)
    cv2.fillPoly(drawn, parts, 1)
    return drawn.astype(bool)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def draw(size: tuple[int, int], seed: int) -> np.ndarray:
    """Return some blobs, with a hole in the first."""
    rng, drawn = np.random.default_rng(seed), np.zeros(size, np.uint8)
    for _ in range(3):
        centre = (int(rng.uniform(40, size[1] - 40)), int(rng.uniform(40, size[0] - 40)))
        axes = (int(rng.uniform(20, 60)), int(rng.uniform(20, 60)))
        cv2.ellipse(drawn, centre, axes, int(rng.uniform(0, 180)), 0, 360, 1, -1)
    cv2.circle(drawn, centre, 12, 0, -1)
    return drawn.astype(bool)


@pytest.mark.parametrize("seed", range(8))
def test_a_filled_outline_is_the_mask(seed: int) -> None:
    mask = draw((240, 320), seed)
    assert overlap(fill(trace_outline(mask), mask.shape), mask) > 0.97


def test_of_the_own_class_at_the_size_of_the_pictures() -> None:
    size = (900, 1200)
    first, second, void = draw(size, 0), draw(size, 1), draw(size, 2)
    boxes = np.array([[0, 0, 10, 10], [5, 5, 20, 20]], np.float32)
    known = GroundTruth(
        "a", 1, size, boxes, np.array([1, 0]), masks=[encode(first), encode(second)],
        void=encode(void),
    )  # fmt: skip
    traced = trace_masks(known)
    assert traced is not None
    assert (traced["class"], traced["width"], traced["height"]) == (1, SIDE, 240)

    def shrink(mask: np.ndarray) -> np.ndarray:
        small = cv2.resize(mask.astype(np.uint8), (SIDE, 240), interpolation=cv2.INTER_NEAREST)
        return np.asarray(small > 0)

    small, ignored = shrink(first), shrink(void & ~first)
    assert overlap(fill(traced["object"], (240, SIDE)), small) > 0.9, "the other class is not in it"
    assert overlap(fill(traced["ignored"], (240, SIDE)), ignored) > 0.8
    assert len(traced["object"]) < 2000


def test_regions_of_the_class_where_nothing_counts_are_ignored() -> None:
    size = (60, 80)
    mask, crowd = np.zeros((2, *size), bool)
    mask[10:20, 10:30] = True
    crowd[40:50, 10:30] = True
    boxes = np.array([[10, 10, 30, 20]], np.float32)
    crowds = Crowds(np.array([[10, 40, 30, 50]], np.float32), np.array([0]), masks=[encode(crowd)])
    known = GroundTruth("a", 0, size, boxes, masks=[encode(mask)], crowds=crowds)
    traced = trace_masks(known)
    assert traced is not None
    assert traced["object"] == "M10 10l0 9 19 0 0-9z"
    assert traced["ignored"] == "M10 40l0 9 19 0 0-9z"


def test_a_ragged_outline_is_coarser_and_not_longer() -> None:
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:240, :320]
    noise = cv2.resize(rng.random((60, 80)).astype(np.float32), (320, 240))
    mask = ((x - 160) / 120) ** 2 + ((y - 120) / 90) ** 2 + 2 * noise < 2
    outline = trace_outline(mask)
    assert 500 < len(outline) <= MAX_TEXT
    assert overlap(fill(outline, mask.shape), mask) > 0.75


def test_without_a_mask_there_is_none() -> None:
    boxes = np.array([[10, 10, 30, 20]], np.float32)
    assert trace_masks(GroundTruth("a", 0, (60, 80), boxes)) is None
