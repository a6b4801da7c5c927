"""Find the network that an earlier run of stage annotate trained on the same folder.

New images among many need no training: the network, its localization head, and the ranges of
images of more than 8 bits stay as they are. Only a threshold that boxes of a person choose, and
the confidences that these calibrate, follow what is known now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.engine.checkpoint import read_card
from pipeline.engine.completion import read_run_config
from pipeline.errors import UserError
from pipeline.ops.hashing import to_plain

RECIPE = ("data", "model", "objective", "train", "refine", "seed", "precision")
"""The parts of the configuration that make a network."""
NEVER, ALWAYS = "never", "always"


def use_earlier_network(
    config: Mapping[str, Any],
    complete: Mapping[str, Any],
    classes: Sequence[str],
    teaching: str | None = None,
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the configuration with an earlier network as its checkpoint, and a line about it.

    Args:
        config: as it was composed.
        complete: the same with all defaults.
        classes: of the data set as it is now.
        teaching: hash of the boxes of a person that teach; None: none do.

    Returns:
        The configuration; None where a network is to be trained. And the line; None where there is
        nothing to say.

    Raises:
        UserError: annotate.retrain=never, and no network fits.
    """
    network, why = find_earlier_network(complete, classes, teaching)
    if network is None:
        return None, why or None
    stages = [stage for stage in config["stages"] if stage not in ("train", "refine")]
    return {**config, "checkpoint": str(network), "stages": stages}, why


def find_earlier_network(
    config: Mapping[str, Any], classes: Sequence[str], teaching: str | None = None
) -> tuple[Path | None, str]:
    """Return the run whose network is used again, and a line that says why.

    Args:
        config: complete, of this run.
        classes: of the data set as it is now.
        teaching: hash of the boxes of a person that teach; None: none do.

    Returns:
        The folder of a run; None where a network is to be trained. The line is empty where there is
        no earlier run.

    Raises:
        UserError: annotate.retrain=never, and no network fits.
    """
    retrain = config["annotate"]["retrain"]
    if retrain == ALWAYS:
        return None, ""
    runs = sorted(
        Path(config["outputs"]).glob(f"runs/{config['name']}/[!.]*/"),
        key=lambda path: -_changed(path),
    )
    for run in runs:
        recorded = read_run_config(run)
        if not recorded or recorded.get("checkpoint") is not None:
            continue  # with a checkpoint, the run that trained its network is another of these
        trained = run / "stages" / ("refine" if "refine" in config["stages"] else "train")
        if not (trained / "DONE").is_file():
            continue
        differing = _list_differing(config, recorded)
        if "data" in differing:
            continue  # another folder
        card = read_card(trained)
        known = tuple(card["classes"])
        stays = retrain == NEVER and teaching is not None  # whatever boxes it learned from
        if card.get("human", {}).get("key") != teaching and not stays:
            differing.append("the boxes of a person that teach (annotate.learn_from_human)")
        if known == tuple(classes) and not differing:
            return run, (
                f"annotate: the network of {run} is used again, as its classes and recipe are "
                "these; annotate.retrain=always trains again"
            )
        why = f"{', '.join(differing)} differ" if differing else _describe_classes(known, classes)
        if retrain == NEVER:
            raise UserError(
                f"annotate.retrain=never: the network of {run} does not fit, as {why}; leave "
                "annotate.retrain=never away, and a network is trained for the folder as it is now"
            )
        return None, f"annotate: a network is trained again, as {why} since {run}"
    if retrain == NEVER:
        raise UserError(
            f"annotate.retrain=never: no run under {config['outputs']}/runs/{config['name']}/ "
            "trained a network for this folder; leave it away, and one is trained"
        )
    return None, ""


def _changed(path: Path) -> int:
    """Return when a folder was changed, in ns; 0 where it was deleted meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _list_differing(config: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """Return the parts of the recipe that differ from those of an earlier run."""
    names = [name for name in RECIPE if _plain(config, name) != _plain(recorded, name)]
    if config["annotate"]["folds"] != recorded.get("annotate", {}).get("folds", 1):
        names.append("annotate.folds")
    return names


def _plain(config: Mapping[str, Any], name: str) -> Any:
    return to_plain(config.get(name))


def _describe_classes(known: Sequence[str], classes: Sequence[str]) -> str:
    """Return which classes are new and which are gone."""
    new = [name for name in classes if name not in known]
    gone = [name for name in known if name not in classes]
    parts = [
        f"{what} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("new:", new), ("gone:", gone))
        if names
    ]
    return f"classes changed ({'; '.join(parts) or 'their order'})"
