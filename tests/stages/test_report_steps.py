"""The steps of the slider: they are the boxes and the IoUs that the pipeline computes."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest

from pipeline.ops.iou import best_iou
from pipeline.segmenter.grabcut import GrabCut
from pipeline.segmenter.threshold import Threshold
from pipeline.stages.report.causes import CODES, NO_CODE, Cause, find_causes
from pipeline.stages.report.steps import (
    COUNT,
    FULL,
    MAX_BOXES,
    STEPS,
    count_causes,
    explain_no_steps,
    measure_steps,
    segment_at_steps,
)
from pipeline.types import SaliencyMap

pytestmark = pytest.mark.usefixtures("shared_results")

CODES_OF: dict[str, Cause | None] = {NO_CODE: None, **{code: key for key, code in CODES.items()}}
TRUE = np.array([[30, 20, 90, 80], [100, 90, 130, 110]], np.float32)


def draw_map(seed: int) -> SaliencyMap:
    """Draw a smooth map, one of another resolution, or one with plateaus and equal peaks."""
    rng = np.random.default_rng(seed)
    side = int(rng.integers(3, 30))
    values: np.ndarray = rng.random((side, side + seed % 3)).astype(np.float32)
    if seed % 4 == 1:
        values = cv2.GaussianBlur(values, (0, 0), 1.5)
    if seed % 4 == 2:
        values = np.round(values * 4) / 4
    if seed % 97 == 0:
        values[:] = 1
    size = (int(rng.integers(40, 300)), int(rng.integers(40, 300)))
    return SaliencyMap(f"{seed}.png", 0, 0, 0.9, values.astype(np.float16), 1.0, size)


@pytest.mark.parametrize(
    ("segmenter", "count"),
    [
        (Threshold(), 500),
        (Threshold(connectivity=4), 40),
        (Threshold(components="all"), 60),
        (Threshold(components="all", share=0.3, merge=0.5), 40),
        (Threshold(components="all", parts="peaks"), 10),
    ],
    ids=["largest", "four", "all", "merged", "parts"],
)
def test_steps_are_the_boxes_of_the_segmenter(segmenter: Threshold, count: int) -> None:
    for seed in range(count):
        saliency = draw_map(seed)
        steps = segment_at_steps(segmenter, saliency, TRUE)
        chosen = range(COUNT) if seed % 20 == 0 else [seed % COUNT, (7 * seed) % COUNT]
        for step in chosen:
            boxes = segmenter.with_threshold(STEPS[step])(saliency).boxes
            np.testing.assert_array_equal(steps.boxes[step], boxes)
            assert steps.ious is not None
            assert steps.ious[step] == pytest.approx(best_iou(boxes[0], TRUE), abs=1e-12)


def test_the_page_has_them_within_a_65535th_of_the_image() -> None:
    noise = np.random.default_rng(0).random((30, 40)).astype(np.float16)
    saliency = SaliencyMap("noise.png", 0, 0, 0.9, noise, 1.0, (300, 400))
    segmenter = Threshold(components="all")
    steps = segment_at_steps(segmenter, saliency, TRUE)
    packed = steps.pack(saliency.size)
    counts = np.frombuffer(base64.b64decode(packed["counts"]), "<u2")
    assert counts.tolist() == [len(boxes) for boxes in steps.boxes]
    assert counts.max() > MAX_BOXES, "some are counted and not drawn"
    height, width = saliency.size
    corners = np.frombuffer(base64.b64decode(packed["boxes"]), "<u2").reshape(-1, 4) / FULL
    shown = np.concatenate([boxes[:MAX_BOXES] for boxes in steps.boxes])
    assert (
        np.abs(corners * [width, height, width, height] - shown).max() < max(saliency.size) / FULL
    )
    ious = np.frombuffer(base64.b64decode(packed["iou"]), "<u2") / 10_000
    np.testing.assert_allclose(ious, steps.ious, atol=1.01e-4)
    assert steps.ious is not None
    assert (ious <= steps.ious + 1e-9).all(), "rounded down"


def test_shares_of_right_images_are_counted_over_scored_ones() -> None:
    scored = [segment_at_steps(Threshold(), draw_map(seed), TRUE) for seed in range(8)]
    unscored = segment_at_steps(Threshold(), draw_map(9), None)
    accuracy = measure_steps([*scored, unscored], (0.3, 0.5))
    assert accuracy is not None
    expected = np.mean([each.ious >= 0.3 for each in scored], axis=0)
    np.testing.assert_allclose(accuracy["0.3"], expected, atol=5.1e-5)
    assert measure_steps([unscored], (0.5,)) is None
    assert unscored.pack((40, 40))["iou"].startswith("////")  # 65535: not scored


def test_an_improbable_class_has_no_box_at_any_step() -> None:
    steps = segment_at_steps(Threshold(probability=0.95), draw_map(1), TRUE)
    assert {len(boxes) for boxes in steps.boxes} == {0}
    assert steps.ious is not None
    assert not steps.ious.any()


def test_other_segmenters_have_no_slider_and_the_page_says_why() -> None:
    assert explain_no_steps(Threshold(), "threshold") is None
    assert "grabcut" in str(explain_no_steps(GrabCut(), "grabcut"))
    assert "at=otsu" in str(explain_no_steps(Threshold(at="otsu"), "threshold"))


@pytest.mark.parametrize(
    "segmenter",
    [Threshold(), Threshold(components="all", share=0.3), Threshold(probability=0.95)],
    ids=["largest", "all", "improbable"],
)
@pytest.mark.parametrize("is_class_right", [True, False])
def test_causes_are_those_of_predictions_made_at_each_threshold(
    segmenter: Threshold, is_class_right: bool
) -> None:
    seen = set()
    for seed in range(12):
        saliency = draw_map(seed)
        steps = segment_at_steps(segmenter, saliency, TRUE, is_class_right=is_class_right)
        records = []
        for step in range(COUNT):
            boxes = segmenter.with_threshold(STEPS[step])(saliency).boxes
            iou = best_iou(boxes[0] if len(boxes) else None, TRUE)
            records.append(
                {"position": step, "class": 0, "predicted": 0 if is_class_right else 1,
                 "iou": iou, "true": TRUE.tolist(), "found": np.round(boxes, 2).tolist()}
            )  # fmt: skip
        expected = find_causes(records, is_multi_label=False)
        assert steps.causes == [expected.get((step, 0)) for step in range(COUNT)]
        packed = steps.pack(saliency.size)["causes"]
        assert [CODES_OF[code] for code in packed] == steps.causes
        seen |= set(steps.causes)
    assert len(seen) > 2 or seen == {"no_box"}


def test_causes_are_counted_over_scored_images() -> None:
    scored = [segment_at_steps(Threshold(), draw_map(seed), TRUE) for seed in range(8)]
    unscored = segment_at_steps(Threshold(), draw_map(9), None)
    assert unscored.pack((40, 40))["causes"] == ""
    counts = count_causes([*scored, unscored])
    assert {cause for each in scored for cause in each.causes or () if cause} == set(counts)
    for cause, by_step in counts.items():
        assert by_step == [
            sum(each.causes is not None and each.causes[step] == cause for each in scored)
            for step in range(COUNT)
        ]
    right = np.array([len(scored)] * COUNT) - np.sum([*counts.values()], axis=0)
    met = [sum(each.causes is not None and each.causes[n] is None for each in scored)
           for n in range(COUNT)]  # fmt: skip
    assert right.tolist() == met
