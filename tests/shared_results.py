"""Results of stages that tests of one process share, as runs that share outputs/ do.

A result is named by all that can change it, so the training of one test is the training of another
that asks for the same. A test that asks for it gets a copy in its own outputs/, and its run says
`kept` where it would say `made`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.engine.store import USES, Store, is_done
from tests.process_state import WatchedNames

GetOrCreate = Callable[..., tuple[Path, bool]]

# Not those that compare, show or write for people: their tests count what is made.
SHARED = {"train", "statistics", "pseudo_labels", "object_views", "refine", "explain", "calibrate",
          "localize", "rank", "evaluate"}  # fmt: skip


def share_through(pool: Path, watched: WatchedNames) -> GetOrCreate:
    """Return a `Store.get_or_create` that takes complete results from a folder and leaves its own.

    What was computed while a test had replaced a function of the package is not left there.
    """
    get_or_create = Store.get_or_create

    def share(
        self: Store, stage: str, cache_key: Mapping[str, Any], *arguments: Any, **options: Any
    ) -> tuple[Path, bool]:
        folder = self.folder(stage, cache_key)
        if stage in SHARED:
            _take(pool, self.root, f"{stage}/{folder.name}")
        folder, kept = get_or_create(self, stage, cache_key, *arguments, **options)
        left = pool / stage / folder.name
        if stage in SHARED and not kept and not left.exists() and not watched.list_replaced():
            shutil.copytree(folder, left, symlinks=True)
        return folder, kept

    return share


def _take(pool: Path, root: Path, result: str) -> None:
    """Copy a result, if it is there, and those that were looked up while it was created."""
    if (root / result).exists() or not is_done(pool / result):
        return
    shutil.copytree(pool / result, root / result, symlinks=True)
    if (uses := pool / result / USES).is_file():
        for used in uses.read_text(encoding="utf-8").split():
            _take(pool, root, used)
