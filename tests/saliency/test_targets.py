"""targets: what is explained in images without a label, and where a class has no object."""

from __future__ import annotations

import torch

from pipeline.saliency.targets import class_selector, count_labels

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


def test_an_image_may_have_several_classes() -> None:
    """Its own, the most probable first; without any those that are predicted; the first fills."""
    sets = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    choose = class_selector(["true"], CLASSES, sets, least_logit=0.5)
    assert choose(LOGITS).tolist() == [[2, 0], [1, 1], [2, 0]]
    predicted = class_selector(["predicted"], CLASSES, sets, least_logit=1.0)
    assert predicted(LOGITS).tolist() == [[1, 2, 0], [0, 2, 0], [2, 0, 2]]
    alone = class_selector(["predicted", "true"], CLASSES, sets, least_logit=9.0)
    assert alone(LOGITS).tolist() == [[1, 2, 0], [0, 1, 1], [2, 2, 2]]
    exclusive = class_selector(["true", "predicted", "top2"], CLASSES, sets)
    assert exclusive(LOGITS).tolist() == [[2, 0, 1, 1, 2], [1, 1, 0, 0, 2], [2, 2, 2, 2, 0]]
    without = class_selector(["true"], CLASSES, sets, {2}, least_logit=0.5)
    assert without(LOGITS).tolist() == [[0], [1], [0]]
    named = class_selector(["dog", "true"], CLASSES, sets)
    assert named(LOGITS).tolist() == [[2, 2, 0], [2, 1, 1], [2, 2, 2]]


def test_a_class_by_name_or_index_where_an_image_may_have_several() -> None:
    sets = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    by_name = class_selector(["dog", "0"], CLASSES, sets, least_logit=0.5)
    assert by_name(LOGITS).tolist() == [[2, 0]] * 3
    with_labels = class_selector(["true", "empty"], CLASSES, sets, least_logit=0.5)
    assert with_labels(LOGITS).tolist() == [[2, 0, 1], [1, 1, 1], [2, 0, 1]]


def test_true_asks_for_no_class_of_an_image_that_shows_none() -> None:
    """The class of another target fills its row, so that each of its own is selected once."""
    sets = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    background = torch.tensor([False, False, True])

    def choose(*targets: str) -> list[list[int]]:
        selector = class_selector(targets, CLASSES, sets, least_logit=0.5, backgrounds=background)
        return [[*dict.fromkeys(row)] for row in selector(LOGITS).tolist()]

    assert choose("true", "empty") == [[2, 0, 1], [1], [1]]
    assert choose("cat", "true") == [[0, 2], [0, 1], [0]]
    assert choose("true", "predicted") == [[2, 0, 1], [1, 0, 2], [2, 0]]
    assert choose("true") == [[2, 0], [1], [2]], "a row cannot be empty"
    counts = count_labels(["true"], sets, backgrounds=background)
    assert counts is not None
    assert counts.tolist() == [2, 1, 1]
    unlabelled = count_labels(["true"], sets)
    assert unlabelled is not None
    assert unlabelled.tolist() == [2, 1, 0]
