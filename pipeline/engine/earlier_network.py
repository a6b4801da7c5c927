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
from pipeline.engine.choices import fill_defaults
from pipeline.engine.completion import read_run_config
from pipeline.errors import UserError
from pipeline.formats.files import find_below
from pipeline.ops.hashing import to_plain

RECIPE = ("data", "model", "objective", "train", "refine", "seed", "precision")
"""The parts of the configuration that make a network."""
NEVER, ALWAYS = "never", "always"
SHOWN = 3


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
    left_out = ["train", "refine"]
    if complete["annotate"]["retrain"] == NEVER:
        _check_same_boxes(complete, network)
        left_out.append("calibrate")
    stages = [stage for stage in config["stages"] if stage not in left_out]
    return {**config, "checkpoint": str(network), "stages": stages}, why


def _check_same_boxes(config: Mapping[str, Any], network: Path) -> None:
    """Raise UserError where other boxes are given to choose a threshold than the network's run had.

    Args:
        config: complete, of this run.
        network: the run that annotate.retrain=never keeps all of.
    """
    boxes = config["calibrate"]["boxes"]
    if boxes not in (None, read_run_config(network)["calibrate"]["boxes"]):
        raise UserError(
            f"calibrate.boxes={boxes}: annotate.retrain=never keeps the threshold of {network}; "
            "annotate.retrain=auto chooses another on these boxes, and keeps the network as well"
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
        find_below(Path(config["outputs"]), f"runs/{config['name']}/[!.]*/"),
        key=lambda path: -_changed(path),
    )
    for run in runs:
        recorded = read_run_config(run)
        if not recorded or recorded.get("checkpoint") is not None:
            continue  # with a checkpoint, the run that trained its network is another of these
        trained = run / "stages" / ("refine" if "refine" in config["stages"] else "train")
        if not (trained / "DONE").is_file():
            continue
        if find_source(config["data"]) != find_source(recorded["data"]):
            continue  # another folder
        # Options that are newer than the run stood at their defaults.
        recorded["data"] = fill_defaults("data", recorded["data"])
        differing = _list_differing(config, recorded)
        card = read_card(trained)
        known = tuple(card["classes"])
        stays = retrain == NEVER and teaching is not None  # whatever boxes it learned from
        if card.get("human", {}).get("key") != teaching and not stays:
            differing.append("other boxes of a person teach (annotate.learn_from_human)")
        if known == tuple(classes) and not differing:
            return run, (
                f"annotate: the network of {run} is used again, as its classes and recipe are "
                "these; annotate.retrain=always trains again"
            )
        why = _join_some(differing) if differing else _describe_classes(known, classes)
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


def find_source(data: Mapping[str, Any]) -> tuple[Any, Path | None]:
    """Return the kind of a data set, and the folder where it is.

    Args:
        data: the completed node of the data set.
    """
    root = data.get("root")
    return data["_target_"], None if root is None else Path(root).resolve()


def _list_differences(name: str, now: Any, then: Any) -> list[str]:
    """Describe each option below a name that differs; the folder of the data set is no option."""
    if now == then or name == "data.root":
        return []
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        keys = sorted({*now, *then})
        return [
            line
            for key in keys
            for line in _list_differences(f"{name}.{key}", now.get(key), then.get(key))
        ]
    return [f"{name} is {now!r} and was {then!r}"]


def _join_some(parts: Sequence[str]) -> str:
    return f"{'; '.join(parts[:SHOWN])}{'; ...' if len(parts) > SHOWN else ''}"


def _changed(path: Path) -> int:
    """Return when a folder was changed, in ns; 0 where it was deleted meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _list_differing(config: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """Return what of the recipe differs from that of an earlier run.

    Options of stage refine make no difference where the stage does not run.
    """
    made = [name for name in RECIPE if name != "refine" or name in config["stages"]]
    folds = config["annotate"]["folds"], recorded.get("annotate", {}).get("folds", 1)
    recipe = [
        line
        for name in made
        for line in _list_differences(
            name, to_plain(config.get(name)), to_plain(recorded.get(name))
        )
    ]
    return [*recipe, *_list_differences("annotate.folds", *folds)]


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
