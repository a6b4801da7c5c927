"""The ranks that torchrun started compute the shards, and train together."""

from __future__ import annotations

import os

from pipeline.errors import UserError
from pipeline.runner.in_ranks import InRanks


class Torchrun(InRanks):
    """The ranks of torchrun, on as many machines as there are."""

    def check(self) -> None:
        """Check that torchrun started this process.

        Raises:
            UserError: it did not.
        """
        if "TORCHELASTIC_RUN_ID" not in os.environ and "WORLD_SIZE" not in os.environ:
            raise UserError(
                "runner=torchrun: torchrun did not start this process; use "
                "torchrun --nproc-per-node=N -m pipeline ..., or runner=local with "
                "runtime.devices=N"
            )
