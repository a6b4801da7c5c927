"""Exchange between the threads that compute the parts of a batch: each gives a value and waits.

All parts give their values under the same key, and get what is computed from all of them, in the
order of the parts: the result does not depend on which thread is first. Of more parts than cores
only as many compute at a time as there are cores: a part that waits lets another compute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


class ExchangeEnded(Exception):
    """Another part has failed, so that its value will not come."""


class PartExchange:
    """Where the parts of a batch meet.

    Args:
        parts: number of the parts.
        cores: how many of them compute at a time.
    """

    def __init__(self, parts: int, cores: int) -> None:
        self.parts = parts
        self._turns = threading.Semaphore(cores) if cores < parts else None
        self._condition = threading.Condition()
        self._keys: dict[int, Any] = {}
        self._values: dict[int, Any] = {}
        self._round = 0
        self._result: Any = None
        self._has_ended = False

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Wait until a core is free, and take it within the context; a failure ends all parts."""
        if self._turns is not None:
            self._turns.acquire()
        try:
            yield
        except BaseException:
            with self._condition:
                self._has_ended = True
                self._condition.notify_all()
            raise
        finally:
            if self._turns is not None:
                self._turns.release()

    def combine(
        self, part: int, key: object, value: Value, merge: Callable[[Sequence[Value]], Result]
    ) -> Result:
        """Give the value of a part, wait for those of the others, and return what they make.

        Args:
            part: its number.
            key: what the value is of; all parts give the same.
            value: of this part.
            merge: is called once, in the thread that comes last, with the values in the order of
                the parts.

        Raises:
            ExchangeEnded: another part has failed.
            RuntimeError: the parts give values of different things.
        """
        with self._condition:
            self._keys[part], self._values[part] = key, value
            if len(self._values) == self.parts:
                self._complete(merge)
                return self._result  # type: ignore[no-any-return]
            current = self._round
        if self._turns is not None:
            self._turns.release()
        try:
            with self._condition:
                self._condition.wait_for(lambda: self._has_ended or self._round > current)
                if self._round == current:
                    raise ExchangeEnded
                # The next round needs a value of this part, so that the result is still this one's.
                result: Result = self._result
        finally:
            if self._turns is not None:
                self._turns.acquire()
        return result

    def _complete(self, merge: Callable[[Sequence[Any]], Any]) -> None:
        """Compute the result of a round, and wake the parts that wait for it."""
        if len(set(self._keys.values())) > 1:
            raise RuntimeError("the parts of a batch run different layers")
        self._result = merge([self._values[n] for n in range(self.parts)])
        self._keys, self._values = {}, {}
        self._round += 1
        self._condition.notify_all()
