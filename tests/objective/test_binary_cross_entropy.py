"""Binary cross-entropy: the formula of its docstring, and what its minimum is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.objective.binary_cross_entropy import MIN_SHARE, BinaryCrossEntropy
from pipeline.protocols import LearnsLabelSets
from pipeline.types import NetworkOutput

SCORES = torch.tensor([[2.0, 0.0, -1.0], [0.5, -3.0, 1.0]])
SETS = torch.tensor([[True, False, True], [False, False, True]])


def test_it_is_the_formula_of_its_docstring() -> None:
    shares = np.array([0.25, 0.5, 0.001])
    objective = BinaryCrossEntropy().with_shares(shares.tolist())
    loss, logits = objective(lambda x: NetworkOutput(x), SCORES, SETS)
    p, y = np.maximum(shares, MIN_SHARE), SETS.numpy()
    z = SCORES.numpy() + np.log((1 - p) / p)
    sigmoid = 1 / (1 + np.exp(-z))
    terms = np.where(y, np.log(sigmoid) / (2 * p), np.log(1 - sigmoid) / (2 * (1 - p)))
    assert float(loss) == pytest.approx(-terms.sum(1).mean(), rel=1e-5)
    assert torch.equal(logits, SCORES)


def test_without_balance_it_is_the_sum_over_classes() -> None:
    objective = BinaryCrossEntropy(balanced=False)
    assert isinstance(objective, LearnsLabelSets)
    for each in (objective, objective.with_shares([0.1, 0.2, 0.3]), BinaryCrossEntropy()):
        loss, _ = each(lambda x: NetworkOutput(x), SCORES, SETS)
        wanted = functional.binary_cross_entropy_with_logits(SCORES, SETS.float())
        torch.testing.assert_close(loss, 3 * wanted)
    single, _ = objective(lambda x: NetworkOutput(x), SCORES, torch.tensor([0, 2]))
    assert torch.isfinite(single)


def test_the_sigmoid_of_its_minimum_is_the_probability() -> None:
    """Of images that cannot be told apart, a share of 0.1 and 0.6 have the classes."""
    sets = torch.zeros(10, 2)
    sets[0, 0], sets[:6, 1] = 1, 1
    objective = BinaryCrossEntropy().with_shares([0.1, 0.6])
    bias = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss, _ = objective(lambda x: NetworkOutput(bias.expand(len(x), 2)), sets, sets)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(bias.detach().sigmoid(), torch.tensor([0.1, 0.6]), atol=1e-3, rtol=0)
