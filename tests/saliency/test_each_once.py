"""Each class of each image has a map that is computed once, however many its neighbours have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.saliency.each_once import explain_each_once, select_before
from pipeline.saliency.targets import class_selector, count_labels
from pipeline.types import ClassSelector, Explanation
from tests.saliency.networks import SIDE
from tests.saliency.test_every_method import METHODS, build, fitted, network_for

SETS = [[True, False, True], [False, True, False], [False, False, False], [True, True, True],
        [False, False, True], [True, True, False]]  # fmt: skip


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def label_sets(classes: int, count: int = 6) -> Tensor:
    return torch.tensor(SETS[:count])[:, :classes]


def select_true(network: Any, sets: Tensor) -> Any:
    return lambda rows: class_selector(["true"], network.classes, sets[rows], (), 0.0)


@pytest.mark.parametrize("name", METHODS)
def test_maps_are_those_of_one_class_at_a_time(name: str) -> None:
    network = network_for(name)
    method, sets = fitted(build(name), network), label_sets(len(network.classes), 2)
    counts = count_labels(["true"], sets)
    assert counts is not None
    assert counts.tolist() == [1, 1] if len(network.classes) < 3 else [2, 1]
    found = explain_each_once(method, network, images(2), select_true(network, sets), counts)
    pairs = [(n, c) for n in range(2) for c in sets[n].nonzero()[:, 0].tolist()]
    assert sorted(zip(found.image.tolist(), found.classes.tolist(), strict=True)) == pairs
    for n, label, values in zip(found.image.tolist(), found.classes.tolist(), found.maps,
                                strict=True):  # fmt: skip

        def only(logits: Tensor, label: int = label) -> Tensor:
            return torch.full((len(logits), 1), label)

        alone = method(network, images(2)[n : n + 1], only).maps[0, 0]
        largest = float(alone.abs().max().clamp(min=1))
        torch.testing.assert_close(values, alone, rtol=1e-5, atol=1e-5 * largest)


class Counting:
    """A method whose map of a class in an image tells both, and that counts its maps."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, network: Any, images: Tensor, choose: ClassSelector) -> Explanation:
        logits = network(images).logits
        classes = choose(logits)
        self.calls.append(tuple(classes.shape))
        maps = images.mean((1, 2, 3))[:, None] + classes
        return Explanation(maps[..., None, None], classes, logits, maps[..., None, None, None])


def test_no_map_is_computed_in_vain() -> None:
    network, method, sets = network_for("cam"), Counting(), label_sets(3)
    assert len(network.classes) == 3
    logits = network(images()).logits
    select = select_true(network, sets)
    found = explain_each_once(method, network, images(), select, count_labels(["true"], sets))
    present = sets.clone()  # the predicted classes of an image without any
    present[2] = (logits[2] >= 0) | (logits[2] == logits[2].max())
    assert sum(rows * columns for rows, columns in method.calls) == present.sum()
    assert found.image.tolist() == sorted(found.image.tolist())
    torch.testing.assert_close(found.logits, logits)
    expected = images().mean((1, 2, 3))[found.image] + torch.from_numpy(found.classes)
    torch.testing.assert_close(found.maps[:, 0, 0], expected)
    assert found.colour is not None
    torch.testing.assert_close(found.colour[:, 0, 0, 0], expected)
    for n in range(len(sets)):  # the most probable first
        scores = logits[n][found.classes[found.image == n]].tolist()
        assert scores == sorted(scores, reverse=True)


def test_an_image_that_shows_no_class_costs_one_map_and_widens_no_row() -> None:
    network, method, sets = network_for("cam"), Counting(), label_sets(3)
    empty = ~sets.any(1)
    assert empty.tolist() == [False, False, True, False, False, False]

    def select(rows: Tensor) -> ClassSelector:
        return class_selector(["true"], network.classes, sets[rows], (), -99.0, empty[rows])

    counts = count_labels(["true"], sets, (), empty)
    found = explain_each_once(method, network, images(), select, counts)
    assert sum(rows * columns for rows, columns in method.calls) == sets.sum() + 1
    taken = found.take(~empty.numpy()[found.image])
    pairs = zip(taken.image.tolist(), taken.classes.tolist(), strict=True)
    assert sorted(pairs) == [tuple(pair) for pair in sets.nonzero().tolist()]
    assert len(taken.maps) == len(taken.image) == sets.sum()
    assert taken.logits is found.logits


def test_a_pass_before_tells_how_many_classes_there_are() -> None:
    """Rules that read logits: each class once, also where two rules name it."""
    network, method, sets = network_for("cam"), Counting(), label_sets(3)
    assert count_labels(["true", "top2"], sets) is None

    def select(rows: Tensor) -> ClassSelector:
        return class_selector(["true", "top2"], network.classes, sets[rows], (), 0.0)

    known, counts = select_before(network, images(), select)
    found = explain_each_once(method, network, images(), known, counts)
    assert sum(rows * columns for rows, columns in method.calls) == counts.sum() == len(found.image)
    plain = explain_each_once(Counting(), network, images(), select, None)
    assert plain.image.tolist() == found.image.tolist()
    assert plain.classes.tolist() == found.classes.tolist()
    torch.testing.assert_close(plain.maps, found.maps)


def test_images_of_one_class_are_explained_as_they_are() -> None:
    """The method gets the batch itself, so that no bit of its maps changes."""
    network = network_for("cam")
    given: list[Tensor] = []

    def method(network: Any, images: Tensor, choose: ClassSelector) -> Explanation:
        given.append(images)
        logits = network(images).logits
        classes = choose(logits)
        return Explanation(torch.zeros(*classes.shape, 2, 2), classes, logits)

    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    assert count_labels(["true"], labels) is None
    batch = images()
    found = explain_each_once(
        method, network, batch,
        lambda rows: class_selector(["true", "predicted"], network.classes, labels[rows]), None,
    )  # fmt: skip
    assert len(given) == 1
    assert given[0] is batch
    assert found.classes[found.image == 1][0] == 1
