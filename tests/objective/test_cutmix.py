"""CutMix: where the box is, and how labels are mixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.objective import cutmix
from pipeline.objective.cross_entropy import CrossEntropy
from pipeline.objective.cutmix import CutMix, compute_box
from pipeline.types import NetworkOutput


def test_the_box_has_its_area_and_is_clipped() -> None:
    # sqrt(1 - 0.75) = 1/2: a box of 20 by 40 in an image of 40 by 80
    assert compute_box((40, 80), (20, 40), 0.75) == (10, 20, 30, 60)
    assert compute_box((40, 80), (0, 79), 0.75) == (0, 59, 10, 80)
    assert compute_box((40, 80), (20, 40), 1.0) == (20, 40, 20, 40), "nothing is pasted"
    assert compute_box((40, 80), (20, 40), 0.0) == (0, 0, 40, 80), "everything is"


def test_the_label_is_mixed_by_the_area_that_was_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutmix, "compute_box", lambda *_: (0, 0, 4, 2))  # 8 of 64 pixels
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, 8, 8) + 1
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    scores = torch.randn(6, 3, requires_grad=True)
    got: list[Tensor] = []

    def network(inputs: Tensor) -> NetworkOutput:
        got.append(inputs)
        return NetworkOutput(scores)

    torch.manual_seed(0)
    loss, _ = CutMix(label_smoothing=0)(network, images, labels)
    (given,) = got
    other = given[:, 0, 0, 0].long() - 1  # which image was pasted
    assert sorted(other.tolist()) == list(range(6))
    assert other.tolist() != list(range(6))
    for n in range(6):
        assert (given[n, :, :4, :2] == other[n] + 1).all()
        assert (given[n].sum() == 3 * (56 * (n + 1) + 8 * (other[n] + 1))).all()
    wanted = (7 / 8) * functional.one_hot(labels, 3) + (1 / 8) * functional.one_hot(
        labels[other], 3
    )
    torch.testing.assert_close(loss, -(wanted * scores.log_softmax(1)).sum(1).mean())
    loss.backward()  # reaches the network
    assert scores.grad is not None
    assert images[0, 0, 0, 0] == 1, "the images of the batch are as they were"


def test_no_batch_is_mixed_at_probability_zero(network: Any, batch: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(
        CutMix(mixed=0.0)(network.eval(), *batch), CrossEntropy()(network.eval(), *batch)
    )


def test_the_shares_are_uniform_at_beta_one() -> None:
    """The deviation of the shares is that of Beta(beta, beta), for beta = 1 and a large one."""
    torch.manual_seed(0)
    for beta, spread in ((1.0, 12**-0.5), (50.0, (4 * 101) ** -0.5)):
        drawn = torch.distributions.Beta(beta, beta).sample((4000,))
        assert drawn.std().item() == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"beta": 0.0}, "beta=0.0: expected a number above 0"),
        ({"mixed": -0.1}, "mixed=-0.1: expected a share"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CutMix(**wrong)
