import numpy as np
import pytest

from pipeline.metric import pxap as pxap_module
from pipeline.metric.pxap import BINS, PxAP, histograms, pxap

from . import reference


@reference.needed
def test_equals_the_reference() -> None:
    metric = PxAP()
    arrays = reference.arrays()
    for values, mask in zip(arrays["mask_maps"], arrays["masks"], strict=True):
        metric.add(values, mask)
    score = metric.compute()[0]
    assert score.name == "pxap"
    assert score.n == 10
    assert score.value * 100 == pytest.approx(reference.answers()["pxap"], abs=1e-9)
    assert score.interval is not None
    assert score.interval[0] < score.value < score.interval[1]


def slow_pxap(values: np.ndarray, mask: np.ndarray) -> float:
    total, before = 0.0, 0.0
    for threshold in BINS[::-1]:
        kept = values >= threshold
        tp, fp = (kept & (mask == 1)).sum(), (kept & (mask == 0)).sum()
        if tp + fp:
            recall = tp / (mask == 1).sum()
            total += tp / (tp + fp) * (recall - before)
            before = recall
    return total


def test_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.random((20, 30)), rng.choice([0, 1, 255], (20, 30)).astype(np.uint8)
    values[0, :5] = 1.0
    assert float(pxap(histograms(values, mask))) == pytest.approx(
        slow_pxap(values, mask), abs=1e-12
    )


def test_by_hand_with_ignored_pixels() -> None:
    values = np.array([[1.0, 0.8, 0.5, 0.2]])
    mask = np.array([[1, 255, 0, 1]], np.uint8)
    metric = PxAP(threshold={"kind": "fixed", "value": 0.4})
    assert metric.compute() == []
    metric.add(values, mask)
    ap, best, given = metric.compute()
    assert ap.value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert best.value == pytest.approx(2 / 3)
    assert best.threshold is not None
    assert best.threshold["kind"] == "oracle"
    assert given.value == pytest.approx(1 / 3)  # one of two found, one too many
    assert given.threshold == {"kind": "fixed", "value": 0.4}


def test_histogram_bins_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.random(3000), BINS]).astype(np.float32)[None]
    mask = rng.integers(0, 2, values.shape).astype(np.uint8)
    edges = np.append(BINS, [2.0])
    for kind in (0, 1):
        expected, _ = np.histogram(values[mask == kind].astype(np.float64), edges)
        np.testing.assert_array_equal(histograms(values, mask)[kind], expected)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\[2, 2\] and \[2, 3\]"):
        histograms(np.zeros((2, 2)), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="got \\[7\\]"):
        histograms(np.zeros((1, 2)), np.array([[0, 7]], np.uint8))


def test_nothing_to_find() -> None:
    metric = PxAP()
    metric.add(np.ones((2, 2)), np.zeros((2, 2), np.uint8))
    assert metric.compute() == []


def test_resamples_in_blocks_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    means = rng.random((100, pxap_module.COLUMNS)) * rng.integers(0, 2, (100, 1))
    in_blocks = pxap_module._of_resamples(means, 200)
    monkeypatch.setattr(pxap_module, "BLOCK", 1000)
    assert np.array_equal(in_blocks, pxap_module._of_resamples(means, 200))
