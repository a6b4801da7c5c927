"""This process, and those that `runtime.devices` asks for, compute the shards."""

from __future__ import annotations

from pipeline.runner.in_ranks import InRanks


class Local(InRanks):
    """The processes of this run."""

    def check(self) -> None:
        """Check nothing: torchrun may have started this process, too."""
