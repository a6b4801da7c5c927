"""What a saliency method, as DDT, was fitted to: kept with the maps, and frozen on request.

A result of stage explain has statistics.safetensors: the sums over the images that the method was
fitted to. With annotate.retrain=never they are taken from the run that trained the network.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.methods import STATISTICS, fit_method, load_fitted, needs_fitting
from pipeline.engine.recorded import find_recorded
from pipeline.errors import UserError
from pipeline.formats.files import atomic_write, read_json
from pipeline.ops.hashing import to_plain

if TYPE_CHECKING:
    from pipeline.engine.checkpoint import Checkpoint
    from pipeline.engine.compute import Compute
    from pipeline.engine.images import SplitImages
    from pipeline.engine.store import Store
    from pipeline.protocols import SaliencyMethod

OF_FIT = ("source", "checkpoint", "saliency", "fitted_on", "negatives", "size", "precision")
"""The parts of the key of stage explain that can change what a method is fitted to."""


@dataclass(frozen=True, kw_only=True)
class MethodFit:
    """A saliency method, and what it is fitted to if it needs fitting.

    Attributes:
        method: not fitted.
        name: of the method.
        node: its configuration.
        images: that it is fitted to, unless it stays as it was fitted.
        store: where statistics are kept.
        frozen_in: the run whose fit stays; None: it is fitted to the images.
    """

    method: SaliencyMethod
    name: str
    node: Mapping[str, Any]
    images: SplitImages
    store: Store
    frozen_in: str | None

    @property
    def is_needed(self) -> bool:
        """Whether the method needs fitting."""
        return needs_fitting(self.method)

    def fingerprint(self) -> str | None:
        """Return a hash of the images that the method is fitted to; None where it needs none.

        Raises:
            UserError: the fit is to stay, and the run keeps none.
        """
        if not self.is_needed:
            return None
        if self.frozen_in is not None:
            return str(_read_key(self._find_frozen(self.frozen_in))["fitted_on"])
        return self.images.fingerprint()

    def fit(
        self,
        compute: Compute,
        trained: Checkpoint,
        explained: Mapping[str, Any],
        negatives: Collection[int],
    ) -> SaliencyMethod:
        """Return the method, fitted if it needs fitting.

        Args:
            compute: device, threads, batch.
            trained: the network.
            explained: the cache key of stage explain.
            negatives: classes without an object: their images are left out.

        Raises:
            UserError: no image could be read; or the fit is to stay, and the run keeps none.
        """
        if not self.is_needed:
            return self.method
        if self.frozen_in is not None:
            return load_fitted(self.method, self._find_frozen(self.frozen_in))
        key = self._key(explained)
        folder = fit_method(self.method, self.images, compute, trained, self.store, key, negatives)
        return load_fitted(self.method, folder)

    def keep(self, explained: Mapping[str, Any], folder: Path) -> None:
        """Keep what the method was fitted to in a result of stage explain.

        Args:
            explained: the cache key of the result.
            folder: of the result.
        """
        if not self.is_needed:
            return
        if self.frozen_in is not None:
            source = self._find_frozen(self.frozen_in)
        else:
            source = self.store.folder("statistics", self._key(explained))
        (folder / STATISTICS).unlink(missing_ok=True)
        try:
            os.link(source / STATISTICS, folder / STATISTICS)
        except OSError:
            with atomic_write(folder / STATISTICS) as temporary:
                shutil.copyfile(source / STATISTICS, temporary)

    def _key(self, explained: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that can change the statistics."""
        return {"split": self.images.split, **{name: explained[name] for name in OF_FIT}}

    def _find_frozen(self, run: str) -> Path:
        """Return the result of stage explain in a run that has the statistics of this method."""
        for method in (self.name, None):
            folder = find_recorded(run, "explain", method)
            if (
                folder is not None
                and (folder / STATISTICS).is_file()
                and _read_key(folder)["saliency"] == to_plain(self.node)
            ):
                return folder
        raise UserError(
            f"annotate.retrain=never: {run} keeps no statistics of images that saliency={self.name}"
            " was fitted to; leave annotate.retrain=never away, and it is fitted to the folder as "
            "it is now"
        )


def _read_key(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / "cache_key.json"))
