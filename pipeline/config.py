"""The typed skeleton of the configuration, and the checks that refuse a wrong one at start.

Stages, runtime and loop knobs are dataclasses, which Hydra checks itself. The families are chosen
by `_target_`; an argument of a choice is checked here against the target's own annotations, so its
default stands in one place, the class, and a YAML need not repeat it.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.records import Problem, SaliencyMethod, Segmenter, near

FAMILIES = ("data", "model", "objective", "saliency", "segmenter")
STAGES = ("train", "refine", "explain", "picture", "calibrate", "localize", "evaluate", "compare",
          "score", "draw", "audit", "inspect", "report")  # fmt: skip

PLACES = {"refine.teacher": "saliency", "refine.cut": "segmenter"}
"""Where a stage has a choice of a family of its own, as in saliency@refine.teacher=ddt."""


def conf_folder() -> Path:
    """`conf/` of the checkout, or its copy in an installed wheel."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@dataclass
class Train:
    """None leaves a knob to the recipe: scratch, head or finetune (pipeline/stages/train.py)."""

    freeze: str = "auto"  # auto | backbone | none | stages:N, the first N stages
    head: str = "auto"  # auto | own | new
    epochs: int | None = None
    batch: int | None = None
    optimizer: str | None = None  # sgd | adamw
    lr: float | None = None
    weight_decay: float | None = None
    momentum: float = 0.9
    warmup: float | None = None  # epochs
    crop: float | None = None  # the smallest part of the area that a random crop keeps; 1: none
    flip: bool = True
    accumulate: int = 1  # batches whose gradients make one step
    ema: float | None = None  # judge and keep a moving average of the weights, as 0.999; null: no
    patience: int | None = None  # epochs to wait for a better one, then stop; null: to the end
    balanced: bool = False  # draw every class equally often
    loggers: list[str] = field(default_factory=lambda: ["csv"])  # csv | tensorboard | wandb


@dataclass
class Refine:
    """How a small head learns where objects are, from well-cut maps of the training images."""

    teacher: Any = None  # saliency@refine.teacher=...: whose maps
    cut: Any = None  # segmenter@refine.cut=...: what cuts them; only one that refines
    images: int = 3000  # of the training images at most, evenly of all classes
    steps: int = 400  # that the head learns for, however many images there are
    batch: int = 32
    lr: float = 0.002
    width: int = 64  # channels of the head
    map_share: float | None = None  # of the map in targets; None: by whether masks can be foretold
    object_class: bool = True  # learn the classes by what is on the object, too


@dataclass
class Explain:
    # true | predicted | topK | a class name, or a list of these
    target: Any = "true"
    methods: list[str] = field(default_factory=list)  # empty: the one of saliency=
    split: str = "val"  # val | train | all: which images get maps and boxes
    flips: bool = False  # average over the image and its mirror image
    scales: list[float] = field(default_factory=lambda: [1.0])  # and over these input sizes
    colour: bool = False  # keep gradients in red, green and blue too, to look at


@dataclass
class Picture:
    side: int = 512  # the longer side of a picture, in pixels
    panel: int = 224  # and of one on a sheet
    columns: int = 8  # side by side on a sheet at most; more go on below
    clip: float = 99.0  # the percentile of a map that is the brightest; 100: its maximum
    images: int | None = None  # at most, evenly chosen, get pictures; null: all
    # map | over | grey | signed | signed_over | colour: which files to write; empty: sheets alone
    kinds: list[str] = field(default_factory=lambda: ["map", "over", "grey", "signed", "colour"])
    # on sheets: auto | map | over | grey | signed | signed_over | colour
    shown: str = "auto"
    overview: int = 12  # images at most on the one sheet of several


@dataclass
class Calibrate:
    boxes: str | None = None  # COCO JSON of a few images that you drew boxes on


@dataclass
class Evaluate:
    ious: list[float] = field(default_factory=lambda: [0.3, 0.5, 0.7])


AUDITS = ("faithfulness", "sanity", "input_shift", "fragility")


@dataclass
class Audit:
    tests: list[str] = field(default_factory=lambda: list(AUDITS))
    images: int = 32  # chosen evenly from the split
    few: int = 8  # of these, for sanity and fragility, which take tens of passes an image
    steps: int = 10  # of insertion and deletion: each changes as many pixels
    layers: int = 8  # parts of the network that are made random, the head one of them
    shift: float = -1.0  # added to the pixels, which are from 0 to 1, for the input shift
    epsilon: float = 8 / 255  # how far fragility may change a pixel from 0 to 1
    attack_steps: int = 10  # of fragility


INSPECTS = ("classes", "channels", "features", "first_order", "filters", "top5", "dream")


@dataclass
class Inspect:
    views: list[str] = field(default_factory=lambda: list(INSPECTS[:-1]))  # or dream, as well
    classes: list[Any] = field(default_factory=list)  # by name; empty: nine, evenly of all
    layer: str = "last"  # last | below | a path: whose feature maps
    channels: list[int] = field(default_factory=list)  # of them; empty: the strongest
    maps: int = 6  # so many of the strongest
    images: int = 256  # of the split, evenly, which the strongest patches are looked for in
    few: int = 4  # of these, for first_order, top5 and dream
    style: str = "plain"  # plain: the paper's L2 alone | pretty: jitter, blur, variation as well
    steps: int = 200  # of the ascent
    rate: float = 0.1  # its first step, a root mean square in standard deviations of pixels
    noise: float = 0.0  # that the ascent starts from, in the same unit; 0: the mean image
    penalty: float | None = None  # lambda of the L2 form; null: what suits the style
    jitter: int | None = None  # pixels, for pretty; null: a sixteenth of the side
    blur: float | None = None  # its standard deviation in pixels at first, for pretty
    variation: float | None = None  # how much total variation costs, for pretty
    directions: int = 4  # random ones of first_order
    side: int = 512  # the longer side of a dream, in pixels
    octaves: int = 5  # of a dream, each 1.4 times as large as the one before
    dream_steps: int = 20  # of each octave
    dream_rate: float = 0.06  # its first step, in the unit of rate


@dataclass
class Draw:
    side: int = 1024  # the longer side of a picture at most, in pixels


@dataclass
class Report:
    images: int = 12  # in each row of the gallery: best, median, worst


@dataclass
class Runtime:
    """How work is spread, never what it computes: no result's name depends on it."""

    device: str = "auto"  # auto | cpu | cuda | cuda:N | mps
    workers: int | None = None  # threads that decode; None: one for each core
    batch: int | None = None  # images in one forward pass; None: what suits the device
    shard: int = 256  # images in one shard
    devices: int = 1  # processes that train, explain and localize, each with a GPU of its own
    deterministic: bool = False  # the same boxes twice; refuse what cannot give them


@dataclass
class Skeleton:
    data: Any = None
    model: Any = None
    objective: Any = None
    saliency: Any = None
    segmenter: Any = None
    name: str = "run"
    checkpoint: str | None = None  # a run, a train folder: what to explain without training
    images: Any = None  # for explain and predict: a file, a folder, a glob, or a list of these
    boxes: str | None = None  # for evaluate: a COCO results file, whoever made it
    annotations: str | None = None  # what those are scored against: a COCO data set
    maps: str | None = None  # for evaluate: a folder of .npy maps, whoever made them
    metadata: str | None = None  # what those are scored against; None: it lies with the maps
    against: str | None = None  # a run to compare with; for evaluate: others' boxes or maps
    protocol: str = "default"  # default | wsolevaluation: how maps are measured
    stages: list[str] = field(default_factory=list)
    train: Train = field(default_factory=Train)
    refine: Refine = field(default_factory=Refine)
    explain: Explain = field(default_factory=Explain)
    picture: Picture = field(default_factory=Picture)
    calibrate: Calibrate = field(default_factory=Calibrate)
    evaluate: Evaluate = field(default_factory=Evaluate)
    draw: Draw = field(default_factory=Draw)
    audit: Audit = field(default_factory=Audit)
    inspect: Inspect = field(default_factory=Inspect)
    report: Report = field(default_factory=Report)
    runtime: Runtime = field(default_factory=Runtime)
    precision: str = "auto"  # auto | float32 | bf16
    seed: int = 0
    outputs: str = "outputs"


CHOICES: dict[str, tuple[str, ...]] = {
    "train.head": ("auto", "own", "new"),
    "train.optimizer": ("sgd", "adamw"),
    "explain.split": ("val", "train", "all"),
    "picture.shown": ("auto", "map", "over", "grey", "signed", "signed_over", "colour"),
    "inspect.style": ("plain", "pretty"),
    "precision": ("auto", "float32", "bf16"),
    "protocol": ("default", "wsolevaluation"),
}
FREEZE = re.compile(r"auto|backbone|none|stages:[1-9][0-9]*")
LOGGERS = ("csv", "tensorboard", "wandb")
RANGES: dict[str, tuple[float, float]] = {
    "train.epochs": (0, 100_000),
    "train.batch": (1, 1_000_000),
    "train.lr": (1e-12, 1000),
    "train.weight_decay": (0, 1000),
    "train.momentum": (0, 1),
    "train.warmup": (0, 100_000),
    "train.crop": (0.01, 1),
    "train.accumulate": (1, 100_000),
    "train.ema": (0, 0.9999999),
    "train.patience": (1, 100_000),
    "refine.images": (1, 10_000_000),
    "refine.steps": (1, 10_000_000),
    "refine.batch": (1, 1_000_000),
    "refine.lr": (1e-12, 1000),
    "refine.width": (1, 10_000),
    "refine.map_share": (0, 1),
    "picture.side": (32, 16_384),
    "picture.panel": (32, 4096),
    "picture.columns": (2, 1000),
    "picture.clip": (50, 100),
    "picture.overview": (0, 1000),
    "picture.images": (1, 1_000_000),
    "draw.side": (32, 16_384),
    "audit.images": (1, 1_000_000),
    "audit.few": (1, 1_000_000),
    "audit.steps": (1, 100_000),
    "audit.layers": (2, 1000),
    "audit.shift": (-10, 10),
    "audit.epsilon": (0, 1),
    "audit.attack_steps": (1, 10_000),
    "inspect.maps": (1, 1000),
    "inspect.images": (1, 10_000_000),
    "inspect.few": (1, 1000),
    "inspect.steps": (1, 100_000),
    "inspect.rate": (1e-6, 1000),
    "inspect.noise": (0, 100),
    "inspect.penalty": (0, 1000),
    "inspect.jitter": (0, 1000),
    "inspect.blur": (0, 100),
    "inspect.variation": (0, 1000),
    "inspect.directions": (1, 1000),
    "inspect.side": (32, 16_384),
    "inspect.octaves": (1, 20),
    "inspect.dream_steps": (1, 100_000),
    "inspect.dream_rate": (1e-6, 1000),
    "report.images": (0, 10_000),
    "runtime.workers": (0, 1024),
    "runtime.batch": (1, 100_000),
    "runtime.shard": (1, 1_000_000),
    "runtime.devices": (1, 1024),
    "seed": (0, 2**32 - 1),
}


def options(group: str) -> list[str]:
    """The choices of a config group."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


# -- the command line, before Hydra sees it ------------------------------------------------------


def prepare(arguments: Sequence[str]) -> list[str]:
    """Check the overrides, and let an argument of a choice through as Hydra's `++key=value`.

    Raises Problem with the key, the value and the choices.
    """
    checked = [a if _is_flag(a, i, arguments) else _override(a) for i, a in enumerate(arguments)]
    keys = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    # An experiment's own list of methods is not meant for who names one.
    named = "saliency" in keys and "explain.methods" not in keys
    return [*checked, "++explain.methods=[]"] if named else checked


VALUE_FLAGS = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package",
               "-p", "--info", "-i", "--cfg", "-c", "--experimental-rerun"}  # fmt: skip


def _is_flag(argument: str, place: int, arguments: Sequence[str]) -> bool:
    return argument.startswith("-") or (place > 0 and arguments[place - 1] in VALUE_FLAGS)


def _override(argument: str) -> str:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    text, equals, value = argument.partition("=")
    key = text.lstrip("+~")
    try:
        parsed = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        if not equals and not argument.startswith("~"):
            raise Problem(
                f"{argument!r}: expected key=value, as in segmenter.threshold=0.3"
            ) from None
        raise Problem(
            f"{key}: Hydra's grammar cannot read the value {value!r} ({first_line(error)}).\n"
            f"Text with = , : brackets, braces, quotes or spaces is quoted twice, "
            f"once for the shell and once for Hydra:\n"
            f"    {shell_quoted(key, value)}"
        ) from None
    group = key.split("@")[0]
    if group in (*FAMILIES, "experiment") and not parsed.is_delete():
        _check_group(group, text, parsed)
        return argument
    head = key.split(".")[0]
    if head == "hydra" or parsed.is_delete():
        return argument
    if head in FAMILIES or any(key.startswith(f"{place}.") for place in PLACES):
        return argument if text.startswith("+") else f"++{argument}"
    check_key(key)
    return f"++{argument.lstrip('+')}" if text.startswith("+") else argument


def _check_group(group: str, text: str, parsed: Any) -> None:
    from hydra.core.override_parser.types import Glob

    values = parsed.value()
    if isinstance(values, Glob):
        return
    if isinstance(values, list):
        remedy = (
            "explain.methods=[...] runs several methods"
            if group == "saliency"
            else f"a sweep is -m {group}={','.join(map(str, values))}"
        )
        raise Problem(f"{group}={values}: one choice is expected, not a list; {remedy}")
    chosen = values.list if parsed.is_choice_sweep() else [values]
    for choice in chosen:
        if str(choice) not in options(group):
            raise Problem(f"{group}={choice}: no such choice; {near(str(choice), options(group))}")
    if group == "experiment" and not text.startswith("+"):
        raise Problem(f"experiment is added with a plus: +experiment={chosen[0]}")


def shell_quoted(key: str, value: str) -> str:
    escaped = value.strip("'\"").replace("\\", "\\\\").replace("'", "\\'")
    inner = f"{key}='{escaped}'"
    for mark in ("\\", '"', "$", "`"):
        inner = inner.replace(mark, "\\" + mark)
    return f'"{inner}"'


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def explained(error: Exception) -> str:
    """What Hydra or OmegaConf found wrong, as key, value and reason."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).split("\n") if line.strip()]
    override = re.search(r"override (\S+)", str(error))
    if override and "is not a ListConfig, list or tuple" in lines[0]:
        key, _, value = override.group(1).lstrip("+").partition("=")
        return f"{key}={value}: a list is expected, as in '{key}=[{value}]'"
    if override and isinstance(cause, Exception) and cause is not error:
        return f"{override.group(1).lstrip('+')}: {lines[0]}"
    told = ("full_key:", "reference_type=", "object_type=", "Config search path", "provider=")
    return "\n".join(line for line in lines if not line.startswith(told))


def check_key(key: str) -> None:
    """Refuse a key that the skeleton does not have."""
    node: Any = Skeleton
    path: list[str] = []
    for part in key.split("."):
        names = [f.name for f in fields(node)] if is_dataclass(node) else []
        if part not in names:
            where = ".".join(path) or "the configuration"
            if not names:
                raise Problem(f"{key}: {where} is a value, it has no {part!r}")
            whole = [".".join([*path, name]) for name in names]
            raise Problem(f"{key}: no such key; {near('.'.join([*path, part]), whole)}")
        path.append(part)
        node = typing.get_type_hints(node)[part]


# -- the configuration, once composed ------------------------------------------------------------


def check(config: Mapping[str, Any]) -> None:
    """Refuse values that no type can tell apart: unknown stages, choices, ranges."""
    for stage in config["stages"]:
        if stage not in STAGES:
            raise Problem(f"stages: unknown stage {stage!r}; {near(str(stage), STAGES)}")
    if not config["stages"]:
        names = ", ".join(options("experiment"))
        raise Problem(
            "nothing to do: name an experiment, as in +experiment=cam, or stages=[...]; "
            f"experiments: {names}; stages: {', '.join(STAGES)}"
        )
    for key in ("boxes", "annotations", "maps", "metadata", "against"):
        readers = {"score", "evaluate", "compare"} if key == "against" else {"score"}
        if config[key] is not None and not readers & set(config["stages"]):
            raise Problem(
                f"{key}={config[key]}: none of stages={list(config['stages'])} reads it; "
                "+experiment=evaluate scores boxes and maps that others made"
            )
    if "paths" in config["data"]:  # unlabelled images: nothing to train on
        own = config["train"]["head"] == "own"
        needed = (
            {"images": "photos/"} if own else {"checkpoint": "outputs/latest", "images": "photos/"}
        )
        for key, example in needed.items():
            if config[key] is None and config["data"]["paths"] == config["images"]:
                raise Problem(f"{key} is missing: give {key}=..., as in {key}={example}")
    for key, choices in CHOICES.items():
        value = value_at(config, key)
        if value is not None and value not in choices:
            raise Problem(f"{key}={value}: no such choice; {near(str(value), choices)}")
    for key, (low, high) in RANGES.items():
        value = value_at(config, key)
        if value is not None and not low <= value <= high:
            raise Problem(f"{key}={value}: expected a number from {low} to {high}")
    if not FREEZE.fullmatch(str(config["train"]["freeze"])):
        raise Problem(
            f"train.freeze={config['train']['freeze']}: choices: auto, backbone, none, stages:N "
            "(the first N stages, as stages:3)"
        )
    loggers = config["train"]["loggers"]
    if len(set(loggers)) != len(loggers):
        raise Problem(f"train.loggers={loggers}: each logger once")
    for logger in loggers:
        if logger not in LOGGERS:
            raise Problem(f"train.loggers: no such logger {logger!r}; {near(str(logger), LOGGERS)}")
    ious = config["evaluate"]["ious"]
    if not ious or not all(0 < iou <= 1 for iou in ious):
        raise Problem(f"evaluate.ious={ious}: expected fractions between 0 and 1, as [0.3,0.5,0.7]")
    for key, family in {**{name: name for name in FAMILIES}, **PLACES}.items():
        node = value_at(config, key)
        if not isinstance(node, Mapping) or "_target_" not in node:
            named = family if key == family else f"{family}@{key}"
            raise Problem(
                f"{named}={node}: expected one of its choices; choices: "
                f"{', '.join(options(family))}"
            )
    for test in config["audit"]["tests"]:
        if test not in AUDITS:
            raise Problem(f"audit.tests: no such test {test!r}; {near(str(test), AUDITS)}")
    if not config["audit"]["tests"]:
        raise Problem(f"audit.tests=[]: name at least one; choices: {', '.join(AUDITS)}")
    views = config["inspect"]["views"]
    for view in views:
        if view not in INSPECTS:
            raise Problem(f"inspect.views: no such view {view!r}; {near(str(view), INSPECTS)}")
    if not views or len(set(views)) != len(views):
        raise Problem(f"inspect.views={views}: each once, one at least, of {', '.join(INSPECTS)}")
    methods = config["explain"]["methods"]
    if len(set(methods)) != len(methods):
        raise Problem(f"explain.methods={methods}: each method once")
    for method in methods:
        if method not in options("saliency"):
            known = near(str(method), options("saliency"))
            raise Problem(f"explain.methods: no such method {method!r}; {known}")


def value_at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


@cache
def read_choice(group: str, name: str) -> Mapping[str, Any]:
    """One choice of a group, as its YAML has it (for explain.methods)."""
    found = yaml.safe_load((conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return dict(found)


def instantiate(where: str, node: Mapping[str, Any], within: str = "") -> Any:
    """Build what `_target_` names, its arguments checked against the target's annotations.

    `within` restricts the targets, for nodes that come from a file and not from the user (a
    checkpoint's card). Raises Problem with the key, the value and what the target takes.
    """
    name = str(node["_target_"])
    if within and not name.startswith(within):
        raise Problem(
            f"{where}: {name!r} is not one of {within}*: refused, a card must not run code"
        )
    target = _locate(where, name)
    given = {key: value for key, value in node.items() if key != "_target_"}
    parts = {
        key: _each(value, lambda n, one: instantiate(n, one, within), f"{where}.{key}")
        for key, value in _parts(where, target, given).items()
    }
    plain_ones = {key: value for key, value in given.items() if key not in parts}
    arguments = {**check_arguments(where, target, plain_ones, parts), **parts}
    try:
        return target(**arguments)
    except (ValueError, TypeError) as error:
        raise Problem(f"{where}: {error}") from error


def _locate(where: str, name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise Problem(f"{where}._target_={name}: cannot be imported ({error})") from error


PARTS = {SaliencyMethod: "saliency", Segmenter: "segmenter"}
"""What an argument may be annotated as to take a choice of that family, by name or as a node."""


def _parts(where: str, target: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are choices of a family themselves, completed: a node or a tuple."""
    subject = target if inspect.isfunction(target) else target.__init__
    found: dict[str, Any] = {}
    for key, hint in typing.get_type_hints(subject).items():
        several = typing.get_origin(hint) is tuple
        family = PARTS.get(typing.get_args(hint)[0] if several else hint)
        if family is None or key not in given:
            continue
        value = given[key]
        if several and not isinstance(value, list | tuple):
            raise Problem(f"{where}.{key}={value}: a list of choices of {family} is expected")
        nodes = [_part(f"{where}.{key}", family, one) for one in (value if several else [value])]
        found[key] = tuple(nodes) if several else nodes[0]
    return found


def _part(where: str, family: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        if value not in options(family):
            raise Problem(f"{where}={value}: no such choice; {near(value, options(family))}")
        value = read_choice(family, value)
    if not isinstance(value, Mapping) or "_target_" not in value:
        raise Problem(
            f"{where}={value}: expected a choice of {family}; choices: {', '.join(options(family))}"
        )
    return completed(where, value)


def _each(value: Any, change: Callable[[str, Any], Any], where: str) -> Any:
    return (
        tuple(change(where, v) for v in value) if isinstance(value, tuple) else change(where, value)
    )


def targets_of(node: Any) -> list[str]:
    """Every `_target_` in a node, those of its parts too."""
    if isinstance(node, Mapping):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [name for value in node.values() for name in targets_of(value)]
    if isinstance(node, list | tuple):
        return [name for value in node for name in targets_of(value)]
    return []


def check_arguments(
    where: str, target: Any, given: Mapping[str, Any], checked_before: Iterable[str] = ()
) -> dict[str, Any]:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    parameters = inspect.signature(target).parameters
    subject = target if inspect.isfunction(target) else target.__init__
    hints = typing.get_type_hints(subject)
    checked = {}
    for key, value in given.items():
        if key not in parameters:
            takes = near(key, parameters) if parameters else "it takes no arguments"
            raise Problem(f"{where}.{key}={value}: {target.__name__} has no {key!r}; {takes}")
        hint = hints.get(key, Any)
        try:
            adapter = TypeAdapter(hint, config=ConfigDict(coerce_numbers_to_str=True))
            checked[key] = adapter.validate_python(value)
        except ValidationError as error:
            reasons = "; ".join(dict.fromkeys(one["msg"] for one in error.errors()))
            raise Problem(
                f"{where}.{key}={value}: {reasons} (expected {describe(hint)})"
            ) from error
    for key, parameter in parameters.items():
        absent = key not in checked and key not in checked_before
        if parameter.default is inspect.Parameter.empty and absent:
            raise Problem(
                f"{where}.{key} is missing: give {where}.{key}=... ({describe(hints[key])})"
            )
    return checked


def describe(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def completed(where: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The node with every default of its target filled in, as config.yaml and keys have it."""
    target = _locate(where, str(node["_target_"]))
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(target).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    node = {**plain(defaults), **node}
    return {**node, **plain(_parts(where, target, node))}


def plain(value: Any) -> Any:
    """Tuples as lists and paths as text, so that a value is the same before and after YAML."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
