"""The typed skeleton of the configuration, and the checks that refuse a wrong one at start.

Stages, runtime and loop knobs are dataclasses, which Hydra checks itself. The families are chosen
by `_target_`; an argument of a choice is checked here against the target's own annotations, so its
default stands in one place, the class, and a YAML need not repeat it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.choices import list_choices
from pipeline.errors import UserError, suggest_choices

FAMILIES = ("data", "model", "objective", "saliency", "segmenter")
STAGES = ("train", "refine", "explain", "picture", "calibrate", "localize", "evaluate", "compare",
          "draw", "audit", "inspect", "report")  # fmt: skip

MAKES_BOXES = {"train", "explain", "localize"}

NESTED_CHOICES = {"refine.teacher": "saliency", "refine.cut": "segmenter"}
"""Where a stage has a choice of a family of its own, as in saliency@refine.teacher=ddt."""


@dataclass
class Train:
    """None leaves a knob to the recipe: scratch, head or finetune
    (pipeline/stages/train/stage.py)."""

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


AUDIT_TESTS = ("faithfulness", "sanity", "input_shift", "fragility")


@dataclass
class Audit:
    tests: list[str] = field(default_factory=lambda: list(AUDIT_TESTS))
    images: int = 32  # chosen evenly from the split
    few: int = 8  # of these, for sanity and fragility, which take tens of passes an image
    steps: int = 10  # of insertion and deletion: each changes as many pixels
    layers: int = 8  # parts of the network that are made random, the head one of them
    shift: float = -1.0  # added to the pixels, which are from 0 to 1, for the input shift
    epsilon: float = 8 / 255  # how far fragility may change a pixel from 0 to 1
    attack_steps: int = 10  # of fragility


INSPECT_VIEWS = ("classes", "channels", "features", "first_order", "filters", "top5", "dream")


@dataclass
class Inspect:
    views: list[str] = field(default_factory=lambda: list(INSPECT_VIEWS[:-1]))  # or dream, as well
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


# -- the configuration, once composed ------------------------------------------------------------


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse values that no type can tell apart: unknown stages, choices, ranges."""
    for stage in config["stages"]:
        if stage not in STAGES:
            raise UserError(
                f"stages: unknown stage {stage!r}; {suggest_choices(str(stage), STAGES)}"
            )
    if not config["stages"]:
        names = ", ".join(list_choices("experiment"))
        raise UserError(
            "nothing to do: name an experiment, as in +experiment=cam, or stages=[...]; "
            f"experiments: {names}; stages: {', '.join(STAGES)}"
        )
    for key in ("boxes", "annotations", "maps", "metadata", "against"):
        stages = set(config["stages"])
        # A run that makes maps and boxes scores its own.
        is_read = "evaluate" in stages and (key == "against" or not stages & MAKES_BOXES)
        if (
            config[key] is not None
            and not is_read
            and not (key == "against" and "compare" in stages)
        ):
            raise UserError(
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
                raise UserError(f"{key} is missing: give {key}=..., as in {key}={example}")
    for key, choices in CHOICES.items():
        value = get_value(config, key)
        if value is not None and value not in choices:
            raise UserError(
                f"{key}={value}: no such choice; {suggest_choices(str(value), choices)}"
            )
    for key, (low, high) in RANGES.items():
        value = get_value(config, key)
        if value is not None and not low <= value <= high:
            raise UserError(f"{key}={value}: expected a number from {low} to {high}")
    if not FREEZE.fullmatch(str(config["train"]["freeze"])):
        raise UserError(
            f"train.freeze={config['train']['freeze']}: choices: auto, backbone, none, stages:N "
            "(the first N stages, as stages:3)"
        )
    loggers = config["train"]["loggers"]
    if len(set(loggers)) != len(loggers):
        raise UserError(f"train.loggers={loggers}: each logger once")
    for logger in loggers:
        if logger not in LOGGERS:
            raise UserError(
                f"train.loggers: no such logger {logger!r}; {suggest_choices(str(logger), LOGGERS)}"
            )
    ious = config["evaluate"]["ious"]
    if not ious or not all(0 < iou <= 1 for iou in ious):
        raise UserError(
            f"evaluate.ious={ious}: expected fractions between 0 and 1, as [0.3,0.5,0.7]"
        )
    for key, family in {**{name: name for name in FAMILIES}, **NESTED_CHOICES}.items():
        node = get_value(config, key)
        if not isinstance(node, Mapping) or "_target_" not in node:
            named = family if key == family else f"{family}@{key}"
            raise UserError(
                f"{named}={node}: expected one of its choices; choices: "
                f"{', '.join(list_choices(family))}"
            )
    for test in config["audit"]["tests"]:
        if test not in AUDIT_TESTS:
            raise UserError(
                f"audit.tests: no such test {test!r}; {suggest_choices(str(test), AUDIT_TESTS)}"
            )
    if not config["audit"]["tests"]:
        raise UserError(f"audit.tests=[]: name at least one; choices: {', '.join(AUDIT_TESTS)}")
    views = config["inspect"]["views"]
    for view in views:
        if view not in INSPECT_VIEWS:
            raise UserError(
                f"inspect.views: no such view {view!r}; {suggest_choices(str(view), INSPECT_VIEWS)}"
            )
    if not views or len(set(views)) != len(views):
        raise UserError(
            f"inspect.views={views}: each once, one at least, of {', '.join(INSPECT_VIEWS)}"
        )
    methods = config["explain"]["methods"]
    if len(set(methods)) != len(methods):
        raise UserError(f"explain.methods={methods}: each method once")
    for method in methods:
        if method not in list_choices("saliency"):
            known = suggest_choices(str(method), list_choices("saliency"))
            raise UserError(f"explain.methods: no such method {method!r}; {known}")


def get_value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
