"""targets: what is explained in images without a label, and where a class has no object."""

from __future__ import annotations

import torch

from pipeline.saliency.targets import class_selector

CLASSES = ["cat", "empty", "dog"]
LOGITS = torch.tensor([[1.0, 5.0, 2.0], [3.0, 0.0, 1.0], [1.0, 0.0, 2.0]])


def test_without_label_the_predicted_class_is_explained() -> None:
    choose = class_selector(["true", "predicted"], CLASSES, torch.tensor([0, -1, -1]))
    assert choose(LOGITS).tolist() == [[0, 1], [0, 0], [2, 2]]


def test_no_rule_selects_a_class_without_an_object() -> None:
    labels = torch.tensor([1, -1, 0])
    choose = class_selector(["true", "predicted", "top5"], CLASSES, labels, {1})
    assert choose(LOGITS).tolist() == [[2, 2, 2, 0], [0, 0, 0, 2], [0, 2, 2, 0]]
    assert LOGITS[0, 1] == 5, "the logits stay as they were"
    by_name = class_selector(["empty"], CLASSES, labels, {1})
    assert by_name(LOGITS).tolist() == [[1], [1], [1]]
