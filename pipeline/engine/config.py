"""The typed skeleton of the configuration, and its checks at start.

The options of a stage are declared by the stage (config.py beside its stage.py), all others here.
The arguments of a family's choice are checked by pipeline/engine/choices.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Any

from pipeline.engine.choices import list_choices
from pipeline.engine.options import check_options, option, rules_of, walk_options
from pipeline.engine.runtime import PRECISIONS
from pipeline.engine.sizes import SIZE_EXPECTED, SIZE_PATTERN
from pipeline.engine.stage import all_stages, find_stage, list_stages
from pipeline.errors import UserError
from pipeline.model.backends import BACKENDS

FAMILIES = ("data", "model", "objective", "saliency", "segmenter")
"""The families of which each run has a choice that can change its results."""

RUNNER = "runner"
"""The family of which each run has a choice that cannot."""


@dataclass
class RuntimeOptions:
    """How work is distributed, never what it computes: it is no part of any cache key."""

    device: str = option("auto", "auto | cpu | cuda | cuda:N | mps")
    workers: int | None = option(
        None, "threads that decode; null: one for each core", low=0, high=1024
    )
    batch: int | None = option(
        None, "images in one forward pass; null: what suits the device", low=1, high=100_000
    )
    shard: int = option(256, "images in one shard", low=1, high=1_000_000)
    devices: int = option(
        1, "processes that train, explain and localize, each with a GPU", low=1, high=1024
    )
    backend: str = option(
        "auto",
        "auto | torch | onnxruntime | openvino: what needs no gradients; auto: what is installed",
        choices=("auto", *BACKENDS),
    )
    deterministic: bool = option(False, "the same boxes twice; refuse what cannot give them")


@dataclass
class StoreOptions:
    """What is kept of the results of stages: it is no part of any cache key."""

    limit: str | None = option(
        None,
        "room for results, as 20G: after a run, the least recently used that no run links to go",
        pattern=SIZE_PATTERN,
        expected=SIZE_EXPECTED,
    )
    working_folder: str | None = option(
        None, "for outputs=s3://...: where results are made; null: in ~/.cache/label2box"
    )
    cache_images: bool = option(
        False, "keep images that are read at addresses, up to store.cache_limit"
    )
    cache_limit: str | None = option(
        "20G",
        "room for copies of what object stores have: the least recently used go",
        pattern=SIZE_PATTERN,
        expected=SIZE_EXPECTED,
    )


@dataclass
class Base:
    """The keys at the top of the configuration besides the options of stages."""

    data: Any = None
    model: Any = None
    objective: Any = None
    saliency: Any = None
    segmenter: Any = None
    runner: Any = None
    name: str = option("run", "the folder of outputs/runs that the run lies in")
    checkpoint: str | None = option(None, "a run, a train folder: what to explain without training")
    images: Any = option(
        None, "for explain and predict: a file, a folder, a glob, or a list of these"
    )
    boxes: str | None = option(None, "for evaluate: a COCO results file, whoever made it")
    annotations: str | None = option(None, "what those are scored against: a COCO data set")
    maps: str | None = option(None, "for evaluate: a folder of .npy maps, whoever made them")
    metadata: str | None = option(
        None, "what those are scored against; null: it lies with the maps"
    )
    run: str | None = option(None, "for export and ingest: the run whose boxes are meant")
    runs: list[str] = option([], "for compare: runs to put side by side, the first one as the base")
    corrections: str | None = option(None, "for ingest: what an annotation tool wrote")
    human_boxes: str = option(
        "auto", "auto | none | FILE: boxes of a person; auto: human_boxes.json in outputs"
    )
    against: str | None = option(None, "a run to compare with; for evaluate: others' boxes or maps")
    missing: str = option(
        "not_found",
        "not_found | skip: annotated images without a box or a usable map",
        choices=("not_found", "skip"),
    )
    protocol: str = option(
        "default",
        "default | wsolevaluation: how maps are measured",
        choices=("default", "wsolevaluation"),
    )
    stages: list[str] = field(default_factory=list)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    store: StoreOptions = field(default_factory=StoreOptions)
    precision: str = option(
        "auto",
        "auto | float32 | bf16; auto: bf16 on a GPU that multiplies it, else float32",
        choices=("auto", *PRECISIONS),
    )
    seed: int = option(0, "of every random choice", low=0, high=2**32 - 1)
    outputs: str = option(
        "outputs", "the folder that everything is written to, or an address as s3://bucket/outputs"
    )


def skeleton() -> type[Any]:
    """Return the dataclass of the configuration, with the options of all stages."""
    return _skeleton(list_stages())


@cache
def _skeleton(stages: tuple[str, ...]) -> type[Any]:
    """Build the dataclass once for each tuple of stages."""
    options = [(stage.name, stage.options) for stage in all_stages() if stage.options is not None]
    members: list[Any] = [(name, kind, field(default_factory=kind)) for name, kind in options]
    made = make_dataclass("Skeleton", members, bases=(Base,))
    made.__module__ = __name__  # where `__getattr__` finds it: launchers pickle it by its name
    return made


def __getattr__(name: str) -> Any:
    """Return the dataclass of the configuration under the name by which it is pickled."""
    if name == "Skeleton":
        return skeleton()
    raise AttributeError(name)


def nested_choices() -> dict[str, str]:
    """Return the family of each option of a stage that takes a choice of a family.

    An example is refine.teacher, which `saliency@refine.teacher=ddt` sets.
    """
    return {
        key: family
        for key, declared in walk_options(skeleton())
        if (family := rules_of(declared).family) is not None
    }


def check_config(config: Mapping[str, Any]) -> None:
    """Check what types cannot express: names of stages, choices, ranges, keys that nothing reads.

    Raises:
        UserError: names the key, the value and what is allowed.
    """
    if not config["stages"]:
        raise UserError(
            "nothing to do: name an experiment, as in +experiment=cam, or stages=[...]; "
            f"experiments: {', '.join(list_choices('experiment'))}; "
            f"stages: {', '.join(list_stages())}"
        )
    for name in config["stages"]:
        find_stage(str(name))
    _check_all_read(config)
    _check_unlabelled(config)
    check_options(skeleton(), config)
    own = {name: name for name in (*FAMILIES, RUNNER)}
    for key, family in {**own, **nested_choices()}.items():
        node = get_value(config, key)
        if not isinstance(node, Mapping) or "_target_" not in node:
            group = family if key == family else f"{family}@{key}"
            raise UserError(
                f"{group}={node}: expected one of its choices; choices: "
                f"{', '.join(list_choices(family))}"
            )


def _check_all_read(config: Mapping[str, Any]) -> None:
    """Raise UserError if a key is given that none of the run's stages reads."""
    for key in dict.fromkeys(key for stage in all_stages() for key in stage.reads):
        if config[key] in (None, []):
            continue
        stages = config["stages"]
        if not any(find_stage(name).reads_key(key, stages) for name in stages):
            raise UserError(
                f"{key}={config[key]}: none of stages={list(config['stages'])} reads it; "
                "+experiment=evaluate scores boxes and maps that others made, "
                "+experiment=compare puts runs side by side"
            )


def _check_unlabelled(config: Mapping[str, Any]) -> None:
    """Raise UserError if unlabelled images are given without a trained network."""
    if "paths" not in config["data"]:
        return
    examples = {"checkpoint": "outputs/latest", "images": "photos/"}
    if config["train"]["head"] == "own":  # the pretrained network with its head
        del examples["checkpoint"]
    for key, example in examples.items():
        if config[key] is None and config["data"]["paths"] == config["images"]:
            other = "; or train.head=own, for a pretrained network with its head"
            raise UserError(
                f"{key} is missing: give {key}=..., as in {key}={example}"
                f"{other if key == 'checkpoint' else ''}"
            )


def get_value(config: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
