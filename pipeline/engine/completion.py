"""From a composed configuration to a complete one: defaults filled in, choices checked."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.engine import checkpoint
from pipeline.engine.choices import (
    choice_name,
    fill_defaults,
    instantiate,
    list_choices,
    list_targets,
    locate,
    may_be_named,
    read_choice,
)
from pipeline.engine.config import FAMILIES, check_config, get_value, nested_choices
from pipeline.errors import UserError
from pipeline.ops.hashing import to_plain

PREDICT_EXPERIMENT = "predict"  # does with other images what the checkpoint's run did


def complete_config(
    config: Mapping[str, Any], chosen: Mapping[str, str], named: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """Check a composed configuration and fill in every default.

    Args:
        config: what Hydra composed, as plain values.
        chosen: the choice of each group, as `saliency: cam`.
        named: the keys that the user gave.

    Returns:
        The configuration, complete; and the completed node of each saliency method by name, the
        main one first.

    Raises:
        UserError: with the key, the value and what is allowed.
    """
    check_config(config)
    config = {**to_plain(config)}
    if config["checkpoint"] is not None:
        if chosen.get("experiment") == PREDICT_EXPERIMENT:
            config, chosen = _with_checkpoint_settings(config, chosen, named)
        config = _without_training(config)
    for family in FAMILIES:
        config[family] = fill_defaults(family, config[family])
    for key in nested_choices():
        stage, _, name = key.partition(".")
        config[stage] = {**config[stage], name: fill_defaults(key, get_value(config, key))}
    methods = _complete_methods(config, _main_method(config, chosen))
    scores_others = config["boxes"] is not None or config["maps"] is not None
    several = config["against"] is not None or len(methods) > 1
    if "evaluate" in config["stages"] and several and not scores_others:
        config["stages"] = list(dict.fromkeys([*config["stages"], "compare"]))
    # Built once here, so that a wrong argument is refused before anything is computed.
    for family in ("model", "objective", "segmenter"):
        instantiate(family, config[family])
    if "train" in config["stages"]:
        _check_named_in_checkpoint(config)
    for name, node in methods.items():
        instantiate(f"saliency {name}" if len(methods) > 1 else "saliency", node)
    return config, methods


def _main_method(config: Mapping[str, Any], chosen: Mapping[str, str]) -> str:
    """Return the name of the method that saliency= chose, or saliency._target_= put in its place.

    Raises:
        UserError: explain.methods lists methods, and saliency._target_ is of none of them.
    """
    name, target = chosen.get("saliency", "saliency"), str(config["saliency"]["_target_"])
    if name not in list_choices("saliency") or read_choice("saliency", name)["_target_"] == target:
        return name
    if config["explain"]["methods"]:
        raise UserError(
            f"saliency._target_={target}: explain.methods={config['explain']['methods']} names "
            "choices; give explain.methods=[], or a YAML with this _target_ in saliency/ of the "
            "folder of --config-dir, whose name explain.methods can have"
        )
    return choice_name("saliency", target)


def _check_named_in_checkpoint(config: Mapping[str, Any]) -> None:
    """Refuse to train what the checkpoint could not be built again from.

    Raises:
        UserError: A checkpoint's card may name classes of this project and of choices alone.
    """
    for family in ("model", "objective"):
        target = str(config[family]["_target_"])
        if not may_be_named(family, target):
            raise UserError(
                f"{family}._target_={target}: a checkpoint names its {family}, and is opened only "
                f"where a choice has that _target_; write it into {family}/NAME.yaml of a folder, "
                f"and give --config-dir FOLDER {family}=NAME"
            )


def _complete_methods(config: Mapping[str, Any], main: str) -> dict[str, Mapping[str, Any]]:
    """Return the completed node of each saliency method; `main` is what saliency= chose."""
    names = config["explain"]["methods"] or [main]
    if main not in names:
        _check_options_used(main, names, config["saliency"])
    return {
        name: config["saliency"]
        if name == main
        else fill_defaults(f"saliency {name}", read_choice("saliency", name))
        for name in names
    }


def _with_checkpoint_settings(
    config: dict[str, Any], chosen: Mapping[str, str], named: Collection[str]
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """What the user did not name as the checkpoint's run has it: how maps are made and cut. For
    who names other maps, that run's threshold means nothing.

    Raises UserError where that run's configuration names what is not of this project.
    """
    place = Path(config["checkpoint"]) / "config.yaml"
    if "saliency" in named or "explain.methods" in named or not place.is_file():
        return config, chosen
    own = yaml.safe_load(place.read_text(encoding="utf-8"))
    config, chosen = {**config, "explain": {**config["explain"]}}, {**chosen}
    for family in ("saliency", "segmenter"):
        if family in named:
            continue
        for target in list_targets(own[family]):
            if not may_be_named(family, target):
                raise UserError(
                    f"{place}: {family}: {target!r} is refused, a file must not run code"
                )
        given = [key.split(".")[1] for key in named if key.startswith(f"{family}.")]
        config[family] = {**own[family], **{key: config[family][key] for key in given}}
        chosen[family] = _choice_name(family, own[family])
    for view in ("flips", "scales"):
        if f"explain.{view}" not in named:
            config["explain"][view] = own["explain"][view]
    return config, chosen


def _choice_name(family: str, node: Mapping[str, Any]) -> str:
    """The name of the choice that a completed node is; that of its file where options differ."""
    for choice in list_choices(family):
        plainly = read_choice(family, choice)
        if plainly["_target_"] == node["_target_"] and fill_defaults(family, plainly) == node:
            return choice
    return choice_name(family, str(node["_target_"]))


def _without_training(config: dict[str, Any]) -> dict[str, Any]:
    """Nothing to train, and images at the size that the checkpoint was trained at, unless
    data.size says another."""
    stages = [stage for stage in config["stages"] if stage != "train"]
    card = checkpoint.read_card(checkpoint.find(Path(config["checkpoint"])))
    data = dict(config["data"])
    if "size" in inspect.signature(locate("data", str(data["_target_"]))).parameters:
        data = {"size": card["size"], **data}
    return {**config, "data": data, "stages": stages}


def _check_options_used(main: str, names: Sequence[str], node: Mapping[str, Any]) -> None:
    """Options of `saliency.` reach the method of `saliency=` alone; refuse them where it is not
    among those that run."""
    plainly = fill_defaults("saliency", read_choice("saliency", main))
    options = [f"saliency.{key}={node[key]}" for key in node if node[key] != plainly.get(key)]
    if options:
        raise UserError(
            f"{' '.join(options)}: an option of saliency={main}, which is not among "
            f"explain.methods={list(names)}; options reach the method of saliency= alone, as in "
            f"saliency={names[0]} {options[0]}"
        )
