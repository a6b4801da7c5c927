"""Parts of a batch exchange values: in the order of parts, never waiting for one that failed."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.model.part_exchange import ExchangeEnded, PartExchange


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_all_get_what_is_merged_in_the_order_of_the_parts(cores: int) -> None:
    exchange = PartExchange(4, cores)
    computing = most = 0

    def work(part: int) -> list[str]:
        nonlocal computing, most
        merged = []
        with exchange.computing():
            for n in range(20):
                computing += 1
                most = max(most, computing)
                time.sleep(random.random() / 1e4)
                computing -= 1
                merged.append(exchange.combine(part, n, f"{part}.{n}", " ".join))
        return merged

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    assert results == [[f"0.{n} 1.{n} 2.{n} 3.{n}" for n in range(20)]] * 4
    assert most <= cores


@pytest.mark.parametrize("cores", [1, 3])
def test_a_part_that_fails_ends_those_that_wait(cores: int) -> None:
    exchange = PartExchange(3, cores)

    def work(part: int) -> None:
        with exchange.computing():
            if part == 1:
                raise ValueError("broken")
            exchange.combine(part, "layer", part, sum)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(work, part) for part in range(3)]
    kinds = [type(future.exception()) for future in futures]
    assert kinds == [ExchangeEnded, ValueError, ExchangeEnded]


def test_values_of_different_layers_are_not_merged() -> None:
    exchange = PartExchange(2, 2)

    def work(part: int) -> None:
        with exchange.computing():
            exchange.combine(part, f"layer {part}", part, sum)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(work, part) for part in range(2)]
    kinds = {type(future.exception()) for future in futures}
    assert kinds == {RuntimeError, ExchangeEnded}
