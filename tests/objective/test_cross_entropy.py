"""Cross-entropy, and the smoothed labels of all objectives."""

from __future__ import annotations

import pytest
import torch

from pipeline.objective.cross_entropy import CrossEntropy
from pipeline.types import NetworkOutput


def test_it_is_the_formula_of_its_docstring() -> None:
    scores = torch.tensor([[2.0, 0.0, -1.0]])
    loss, logits = CrossEntropy(0.3)(lambda x: NetworkOutput(x), scores, torch.tensor([1]))
    logs = scores - torch.logsumexp(scores, 1, keepdim=True)
    torch.testing.assert_close(loss, -(torch.tensor([[0.1, 0.8, 0.1]]) * logs).sum())
    assert torch.equal(logits, scores)


def test_a_wrong_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing=1.0: expected a share"):
        CrossEntropy(1.0)
