"""The moving average of weights, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.stages.train.average import Average


def test_it_follows_the_formula_and_goes_in_and_out() -> None:
    linear, norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
    network = nn.Sequential(linear, norm)
    average = Average(network, 0.5)
    expected = linear.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            linear.weight += step
            norm.num_batches_tracked += 1
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * linear.weight.detach()
    learned = linear.weight.detach().clone()
    with average.swapped_in():
        torch.testing.assert_close(linear.weight.detach(), expected)
        assert norm.num_batches_tracked == 29
    assert torch.equal(linear.weight, learned)


def test_without_a_decay_it_is_the_network_itself() -> None:
    network = nn.Linear(2, 2)
    average = Average(network, None)
    average.update(1)
    assert average.state == {}
    with average.swapped_in():
        assert network.weight.requires_grad


def test_what_does_not_change_stays_to_the_bit() -> None:
    network = nn.Linear(50, 50)
    average = Average(network, 0.999)
    for step in range(1, 100):
        average.update(step)
    assert torch.equal(average.state["weight"], network.weight)


def test_what_is_judged_is_put_back_when_judging_fails() -> None:
    network = nn.Linear(2, 2)
    average = Average(network, 0.9)
    with torch.no_grad():
        network.weight += 1
    learned = network.weight.detach().clone()
    with pytest.raises(ValueError, match="failed"), average.swapped_in():
        raise ValueError("failed")
    assert torch.equal(network.weight, learned)
