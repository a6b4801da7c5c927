"""What runners have in common that leave the shards to the processes of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pipeline.protocols.runner import Watch
    from pipeline.types.jobs import Work


class InRanks:
    """Each process of the run computes its part of the shards (pipeline/engine/ranks.py)."""

    spreads = False
    writes_in_workers = False

    def map(self, work: Work, watch: Watch) -> NoReturn:
        """Raise RuntimeError: the processes compute the shards without it."""
        raise RuntimeError("this runner hands no job to others")

    def close(self) -> None:
        """Do nothing: it has no workers."""
