"""Evaluation mode for the time of a call, and the mode that was there before it afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

# torch numbers hooks by a counter, which two threads could read at the same time.
HOOKS_LOCK = threading.Lock()


@dataclass
class _Users:
    """How many calls need a network in evaluation mode, and the modules that were in train mode."""

    count: int = 0
    training: list[nn.Module] = field(default_factory=list)


_USERS: WeakKeyDictionary[nn.Module, _Users] = WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; each module has its own mode again afterwards.

    Calls of several threads may overlap: the first puts the network into evaluation mode, the last
    puts it back.

    Args:
        network: dropout and batch norm use the statistics of training meanwhile.
    """
    with _LOCK:
        users = _USERS.setdefault(network, _Users())
        if users.count == 0:
            users.training = [module for module in network.modules() if module.training]
            for module in users.training:
                module.training = False
        users.count += 1
    try:
        yield
    finally:
        with _LOCK:
            users.count -= 1
            if users.count == 0:
                for module in users.training:
                    module.training = True
                users.training = []
