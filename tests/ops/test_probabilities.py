"""Probabilities: the softmax, the sigmoid of a single class, and scores as they are."""

import torch

from pipeline.ops.probabilities import compute_probabilities, predict_classes

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 3.0]])


def test_classes_exclude_each_other_or_are_independent() -> None:
    assert torch.equal(compute_probabilities(LOGITS), LOGITS.softmax(1))
    assert torch.equal(compute_probabilities(LOGITS, "independent"), LOGITS.sigmoid())
    assert torch.equal(compute_probabilities(LOGITS, "scores"), LOGITS)


def test_a_single_logit_is_that_of_the_positive_class_of_two() -> None:
    single = LOGITS[:, :1]
    both = torch.cat((single, torch.zeros_like(single)), 1).softmax(1)[:, :1]
    torch.testing.assert_close(compute_probabilities(single), both)


def test_a_single_class_is_predicted_where_its_logit_is_not_negative() -> None:
    assert predict_classes(LOGITS).tolist() == [0, 1]
    assert predict_classes(LOGITS[:, 1:2]).tolist() == [-1, 0]
