"""Mean average precision of classes, against scikit-learn, and what does not count."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipeline.metric.multi_label import MultiLabelClassification, class_precisions
from pipeline.types import EvaluationSettings, Evidence, LabelScores


def metric_of(images: list[LabelScores]) -> MultiLabelClassification:
    settings = EvaluationSettings(classes=["a", "b", "c"], is_multi_label=True)
    metric = MultiLabelClassification().with_settings(settings)
    for n, image in enumerate(images):
        metric.update(Evidence(id=str(n), image=str(n), label_scores=image))
    return metric


def images_of(count: int) -> list[LabelScores]:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        present = rng.random(3) < (0.5, 0.3, 0)
        ignored = ~present & (rng.random(3) < 0.3)
        scores = (rng.random(3) + 0.4 * present).astype(np.float32)
        images.append(LabelScores(scores, present, ignored))
    return images


def test_the_mean_is_over_classes_that_an_image_has_and_ignored_ones_do_not_count() -> None:
    images = images_of(80)
    metric = metric_of(images)
    expected = {}
    for n, name in enumerate("ab"):
        counted = [one for one in images if not one.ignored[n]]
        right = np.array([one.present[n] for one in counted])
        scores = np.array([one.probabilities[n] for one in counted])
        expected[name] = average_precision_score(right, scores)
    each = metric.compute_classes()
    assert {score.label: score.value for score in each} == pytest.approx(expected)
    assert {score.n for score in each} < {*range(80)}
    mean, likely = metric.compute()
    assert mean.value == pytest.approx(np.mean([*expected.values()]))
    assert (mean.n, mean.interval) == (80, None)
    labelled = [one for one in images if one.present.any()]
    hits = [one.present[one.probabilities.argmax()] for one in labelled]
    assert likely.value == pytest.approx(np.mean(hits))
    assert likely.n == len(labelled) < 80


def test_images_without_any_class_alone_have_no_number() -> None:
    nothing = np.zeros(3, bool)
    assert metric_of([LabelScores(np.ones(3, np.float32), nothing, nothing)]).compute() == []
    assert class_precisions(np.zeros((0, 3)), np.zeros((0, 3), bool)) == {}
