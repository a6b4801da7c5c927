"""What a saliency method, as DDT, was fitted to: kept with the maps, and frozen on request.

A result of stage explain has statistics.safetensors: the sums over the images that the method was
fitted to. With annotate.retrain=never they are taken from the run that trained the network.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint
from pipeline.engine.earlier_network import NEVER
from pipeline.engine.methods import STATISTICS, fit_method, load_fitted, needs_fitting
from pipeline.engine.recorded import find_recorded
from pipeline.errors import UserError
from pipeline.formats.files import atomic_write, read_json
from pipeline.ops.hashing import to_plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.engine.run import Run
    from pipeline.protocols import SaliencyMethod

OF_FIT = ("source", "checkpoint", "saliency", "fitted_on", "negatives", "size", "precision")
"""The parts of the key of stage explain that can change what a method is fitted to."""


def fingerprint_fit(run: Run) -> str | None:
    """Return a hash of the images that the method of a run is fitted to; None where it needs none.

    Raises:
        UserError: it is to stay as it was fitted, and no such fit is kept.
    """
    if not needs_fitting(run.saliency()):
        return None
    frozen = find_frozen_fit(run)
    if frozen is not None:
        return str(_read_key(frozen)["fitted_on"])
    return run.fitting_images().fingerprint()


def fit_for_run(run: Run, trained: checkpoint.Checkpoint) -> SaliencyMethod:
    """Return the method of a run, fitted to `run.fitting_images()` if it needs fitting.

    Args:
        run: the run.
        trained: the network.

    Raises:
        UserError: no image could be read, or it is to stay as it was fitted, and no fit is kept.
    """
    method = run.saliency()
    if not needs_fitting(method):
        return method
    frozen = find_frozen_fit(run)
    if frozen is not None:
        return load_fitted(method, frozen)
    images = run.fitting_images()
    fitted_to = fit_method(
        method, images, run.compute, trained, run.store, _fit_key(run), run.negatives
    )
    return load_fitted(method, fitted_to)


def keep_fit(run: Run, folder: Path) -> None:
    """Keep what the method of a run was fitted to in its result of stage explain.

    Args:
        run: the run.
        folder: of the result.
    """
    if not needs_fitting(run.saliency()):
        return
    source = find_frozen_fit(run) or run.store.folder("statistics", _fit_key(run))
    (folder / STATISTICS).unlink(missing_ok=True)
    try:
        os.link(source / STATISTICS, folder / STATISTICS)
    except OSError:
        with atomic_write(folder / STATISTICS) as temporary:
            shutil.copyfile(source / STATISTICS, temporary)


def find_frozen_fit(run: Run) -> Path | None:
    """Return the result that has the fit that annotate.retrain=never keeps; None without it.

    Raises:
        UserError: the run of the checkpoint keeps no fit of this method.
    """
    if not is_frozen(run.config):
        return None
    named = str(run.config["checkpoint"])
    for method in (run.method, None):
        folder = find_recorded(named, "explain", method)
        if (
            folder is not None
            and (folder / STATISTICS).is_file()
            and _read_key(folder)["saliency"] == to_plain(run.methods[run.method])
        ):
            return folder
    raise UserError(
        f"annotate.retrain=never: {named} keeps no statistics of images that saliency="
        f"{run.method} was fitted to; leave annotate.retrain=never away, and it is fitted to the "
        "folder as it is now"
    )


def is_frozen(config: Mapping[str, Any]) -> bool:
    """Return whether all that was fitted to the set of an earlier run stays as it was.

    Args:
        config: complete, of the run.
    """
    return (
        "annotate" in config["stages"]
        and config["annotate"]["retrain"] == NEVER
        and config["checkpoint"] is not None
    )


def describe_frozen(run: Run) -> str:
    """Return which parts annotate.retrain=never keeps as an earlier run fitted them.

    Args:
        run: for which `is_frozen` holds.
    """
    card = checkpoint.read_card(run.checkpoint)
    parts = ["the network"]
    if card.get("branches"):
        parts.append("its localization head")
    if card.get(checkpoint.INTENSITY):
        parts.append("the ranges that images of more than 8 bits are scaled from")
    fitted = [name for name in run.methods if needs_fitting(run.for_method(name).saliency())]
    if fitted:
        parts.append(f"the components of saliency={', '.join(fitted)}")
    if "calibrate" not in run.config["stages"]:
        if run.uses_validation_threshold:
            parts.append("the threshold that boxes chose")
        parts.append("the confidences")
    return (
        f"annotate.retrain=never: as fitted in {run.config['checkpoint']} stay "
        f"{', '.join(parts[:-1])} and {parts[-1]}: images and boxes of a person that came since "
        "change none of them; with annotate.retrain=auto all but the network follow them"
    )


def _fit_key(run: Run) -> dict[str, Any]:
    explained = run.cache_key("explain")
    return {
        "split": run.fitting_images().split,
        **{name: explained[name] for name in OF_FIT},
    }


def _read_key(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / "cache_key.json"))
