"""Complete a composed configuration: defaults filled in, choices checked."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

try:  # several times as fast, where PyYAML was built with libyaml
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

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
from pipeline.engine.config import FAMILIES, RUNNER, check_config, get_value, nested_choices
from pipeline.engine.latest import find_newest_run, find_outputs
from pipeline.engine.named_functions import allow_named, names_function
from pipeline.errors import UserError
from pipeline.ops.hashing import to_plain
from pipeline.ops.renamed import rename_keys

CONFIG_FILE = "config.yaml"  # of a run's folder
DEFAULT_OUTPUTS = "outputs"
PREDICT_EXPERIMENT = "predict"  # computes maps and boxes as the checkpoint's run did


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
    allow_named(config["model"])  # as it was composed: no file of a run has a say in it
    config["run"] = _find_first_run(config)
    if config["run"] is not None:
        config, chosen = use_run_settings(config, named)
    if config["checkpoint"] is not None:
        if chosen.get("experiment") == PREDICT_EXPERIMENT:
            config, chosen = _use_checkpoint_settings(config, chosen, named)
        _check_same_function(config)
        config = _drop_training(config)
    config = _use_model_size(config)
    for family in (*FAMILIES, RUNNER):
        config[family] = fill_defaults(family, config[family])
    for key in nested_choices():
        stage, _, name = key.partition(".")
        config[stage] = {**config[stage], name: fill_defaults(key, get_value(config, key))}
    methods = _complete_methods(config, _main_method(config, chosen))
    evaluates_files = config["boxes"] is not None or config["maps"] is not None
    compares = config["against"] is not None or len(methods) > 1
    if "evaluate" in config["stages"] and compares and not evaluates_files:
        config["stages"] = list(dict.fromkeys([*config["stages"], "compare"]))
    # Built here so that a wrong argument is refused before anything is computed.
    for family in ("model", "objective", "segmenter", RUNNER):
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


def _use_checkpoint_settings(
    config: dict[str, Any], chosen: Mapping[str, str], named: Collection[str]
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Take over how the checkpoint's run computes and segments maps, where the user named nothing.

    Where the user names a saliency method, nothing is taken over: the run's threshold was chosen
    for the maps of the run.

    Raises:
        UserError: that run's configuration names a class from outside this project.
    """
    folder = Path(config["checkpoint"])
    if "saliency" in named or "explain.methods" in named:
        return config, chosen
    run_config = read_run_config(folder)
    if not run_config:
        return config, chosen
    config, chosen = {**config, "explain": {**config["explain"]}}, {**chosen}
    for family in ("saliency", "segmenter"):
        if family in named:
            continue
        _refuse_foreign_targets(folder, family, run_config[family])
        given = [key.split(".")[1] for key in named if key.startswith(f"{family}.")]
        config[family] = {**run_config[family], **{key: config[family][key] for key in given}}
        chosen[family] = _find_choice_name(family, run_config[family])
    for view in ("flips", "scales"):
        if f"explain.{view}" not in named:
            config["explain"][view] = run_config["explain"][view]
    return config, chosen


def use_run_settings(
    config: Mapping[str, Any], named: Collection[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the configuration of the run that run= names, with the stages of this one.

    Options of stages that are named, options of the data set (`data.root=` where the images were
    moved) and `runtime` are those of this run. So is `outputs` where it is given: else it is the
    folder of outputs that the run lies in, which has the reviews of its images.

    Args:
        config: of this run.
        named: the keys that the user gave.

    Returns:
        The configuration, and the choice of each family.

    Raises:
        UserError: there is no such run, it names a class from outside this project, or a choice is
            given that the run has made.
    """
    folder = Path(config["run"])
    recorded = read_run_config(folder)
    is_given = "outputs" in named or config["outputs"] != DEFAULT_OUTPUTS
    if not is_given and (outputs := find_outputs(folder)) is not None:
        config = {**config, "outputs": str(outputs)}
    if recorded.get("run") is not None:  # of stage export itself; its run is resolved already
        folder = Path(recorded["run"])
        recorded = read_run_config(folder)
    if not recorded:
        near = (folder, Path(config["outputs"]))
        newest = next(filter(None, (find_newest_run(path, [CONFIG_FILE]) for path in near)), None)
        hint = "" if newest is None else f"; the newest run is {newest}"
        raise UserError(f"run={folder}: no folder of a run, which has {CONFIG_FILE}{hint}")
    allowed = {"model"} if names_function(recorded["model"]) else set()
    _refuse_choices(named, folder, {*config["stages"], *allowed})
    for family in FAMILIES:
        _refuse_foreign_targets(folder, family, recorded[family])
    kept = (
        "stages",
        "name",
        "run",
        "runs",
        "corrections",
        "human_boxes",
        "outputs",
        "runtime",
        RUNNER,
        "store",
    )
    merged = {**config, **recorded, **{key: config[key] for key in kept}}
    merged["run"] = str(folder.resolve())
    given = [key.partition(".")[2] for key in named if key.startswith("data.")]
    merged["data"] = {**merged["data"], **{key: config["data"][key] for key in given}}
    merged |= {name: config[name] for name in config["stages"] if name in config}
    for name, options in config.items():  # options that are newer than the run
        if isinstance(options, Mapping) and name not in (*FAMILIES, RUNNER):
            merged[name] = {**options, **merged[name]}
    chosen = {family: _find_choice_name(family, recorded[family]) for family in FAMILIES}
    return merged, chosen


def _find_first_run(config: Mapping[str, Any]) -> str | None:
    """Return run=, or the first of the runs that are put side by side, whose images are shown.

    Raises:
        UserError: run= is given as well, or a run twice.
    """
    if not config["runs"]:
        return None if config["run"] is None else str(config["run"])
    runs = [str(Path(run).resolve()) for run in config["runs"]]
    if config["run"] not in (None, config["runs"][0], runs[0]):
        raise UserError(
            f"run={config['run']} runs={config['runs']}: run= is for export and ingest; leave it "
            "away"
        )
    if len(set(runs)) < len(runs):
        raise UserError(f"runs={config['runs']}: a run is named twice; name each once")
    return runs[0]


def _refuse_foreign_targets(run: Path, family: str, node: Mapping[str, Any]) -> None:
    """Refuse a class from outside this project that a run's configuration names.

    Raises:
        UserError: the node names such a class, which no choice has.
    """
    for target in list_targets(node):
        if not may_be_named(family, target):
            raise UserError(
                f"{run / CONFIG_FILE}: {family}: {target!r} is refused, a file must not run code"
            )


def _refuse_choices(named: Collection[str], run: Path, stages: Collection[str]) -> None:
    """Refuse what the run that run= names has chosen already.

    Raises:
        UserError: a key is given that is neither an option of the stages nor of the data set.
    """
    own = {"run", "runs", "corrections", "human_boxes", "name", "stages", "outputs", "runtime",
           "data", "experiment", "store", RUNNER, *stages}  # fmt: skip
    for key in named:
        if key == "data" or key.partition(".")[0] not in own:
            raise UserError(
                f"{key}=: run={run} has its own; leave it away, or compute another run "
                "(data.root=FOLDER is allowed, where the images were moved)"
            )


def read_run_config(run: Path) -> dict[str, Any]:
    """Read the configuration in a run's folder; return an empty one where there is none.

    Keys that an earlier version had under another name have their present names.
    """
    path = (run / CONFIG_FILE).absolute()
    if not path.is_file():
        return {}
    stat = path.stat()
    return copy.deepcopy(_read_config(path, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=128)
def _read_config(path: Path, size: int, changed: int) -> dict[str, Any]:
    """Read the configuration of a run once: each later run looks at those before it.

    Args:
        path: of the file, absolute.
        size: of the file, in bytes.
        changed: its st_mtime_ns.
    """
    config = dict(yaml.load(path.read_text(encoding="utf-8"), SafeLoader))
    rename_keys(config)
    return config


def _find_choice_name(family: str, node: Mapping[str, Any]) -> str:
    """Return the name of the choice that equals a completed node.

    Where its options differ from those of all choices, return the name of its class's choice or
    module.
    """
    for name in list_choices(family):
        choice = read_choice(family, name)
        if choice["_target_"] == node["_target_"] and fill_defaults(family, choice) == node:
            return name
    return choice_name(family, str(node["_target_"]))


def _drop_training(config: dict[str, Any]) -> dict[str, Any]:
    """Drop stage train, and scale size and pixels of images as the checkpoint's were.

    Options of the data set that the user gives stay as they are: data.size, data.range.
    """
    stages = [stage for stage in config["stages"] if stage != "train"]
    card = checkpoint.read_card(checkpoint.find(Path(config["checkpoint"])))
    data = dict(config["data"])
    parameters = inspect.signature(locate("data", str(data["_target_"]))).parameters
    if "size" in parameters:
        data = {"size": card["size"], **data}
    if {"range", "no_data"} <= {*parameters} and "range" not in data:
        data = {**card.get(checkpoint.INTENSITY, {}), **data}
    return {**config, "data": data, "stages": stages}


def _check_same_function(config: Mapping[str, Any]) -> None:
    """Raise UserError where model.of names another function than the checkpoint."""
    folder = checkpoint.find(Path(config["checkpoint"]), Path(config["outputs"]))
    card = checkpoint.read_card(folder)["model"]
    given, known = config["model"], card.get("of")
    if names_function(given) and names_function(card) and given["of"] != known:
        raise UserError(
            f"model.of={given['of']}: the network of checkpoint={config['checkpoint']} is that of "
            f"model.of={known}"
        )


def _use_model_size(config: dict[str, Any]) -> dict[str, Any]:
    """Scale images to the size that a network of the user's reads, unless data.size is given.

    A run or a checkpoint has its own.
    """
    if config["run"] or config["checkpoint"] or not names_function(config["model"]):
        return config
    parameters = inspect.signature(locate("data", str(config["data"]["_target_"]))).parameters
    if "size" not in parameters:
        return config
    size = instantiate("model", config["model"]).size
    return config if size is None else {**config, "data": {"size": size, **config["data"]}}


def _check_options_used(main: str, names: Sequence[str], node: Mapping[str, Any]) -> None:
    """Refuse options of the method of `saliency=` where that method does not run."""
    defaults = fill_defaults("saliency", read_choice("saliency", main))
    options = [f"saliency.{key}={node[key]}" for key in node if node[key] != defaults.get(key)]
    if options:
        raise UserError(
            f"{' '.join(options)}: an option of saliency={main}, which is not among "
            f"explain.methods={list(names)}; options reach the method of saliency= alone, as in "
            f"saliency={names[0]} {options[0]}"
        )
