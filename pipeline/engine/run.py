"""One run: its configuration, what that names, and where each stage's result is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from pipeline.engine import checkpoint, ranks, runtime, store, terminal
from pipeline.engine.choices import (
    conf_folder,
    fill_defaults,
    instantiate,
    list_targets,
    read_choice,
)
from pipeline.engine.config import FAMILIES, NESTED_CHOICES, STAGES, check_config, get_value
from pipeline.engine.sources import hash_sources
from pipeline.errors import UserError
from pipeline.ops.hashing import hash_of, to_plain
from pipeline.protocols import DataSet, SaliencyMethod, Segmenter
from pipeline.types import CocoIds, Size, Split

if TYPE_CHECKING:
    import torch
from typing import TYPE_CHECKING

STAGE_ORDER = STAGES
REQUIRED_STAGES = ("train", "explain", "localize", "evaluate")
DISTRIBUTED_STAGES = ("train", "explain", "localize")  # all processes make them, each its part
PREDICT_EXPERIMENT = (
    "predict"  # the experiment that does with other images what the checkpoint's run did
)
PER_METHOD_STAGES = ("explain", "calibrate", "localize", "evaluate", "draw", "audit")


@dataclass(frozen=True)
class Run:
    """The configuration, complete; for one saliency method of those that it names."""

    config: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]  # name -> completed node, the first is the main one
    method: str
    shared: dict[str, Any]  # made once for all methods: data, keys

    @classmethod
    def of(
        cls, config: Mapping[str, Any], chosen: Mapping[str, str], named: Collection[str] = ()
    ) -> Run:
        """Check a composed configuration and fill in every default. `chosen`: group -> choice;
        `named`: the keys that the user gave."""
        check_config(config)
        config = {**to_plain(config)}
        if config["checkpoint"] is not None:
            if chosen.get("experiment") == PREDICT_EXPERIMENT:
                config, chosen = _with_checkpoint_settings(config, chosen, named)
            config = _without_training(config)
        for family in FAMILIES:
            config[family] = fill_defaults(family, config[family])
        for place in NESTED_CHOICES:
            stage, _, name = place.partition(".")
            config[stage] = {**config[stage], name: fill_defaults(place, get_value(config, place))}
        main = chosen.get("saliency", "saliency")
        names = config["explain"]["methods"] or [main]
        if main not in names:
            _check_options_used(main, names, config["saliency"])
        methods = {
            name: config["saliency"]
            if name == main
            else fill_defaults(f"saliency {name}", read_choice("saliency", name))
            for name in names
        }
        scores_others = config["boxes"] is not None or config["maps"] is not None
        if (
            "evaluate" in config["stages"]
            and not scores_others
            and (config["against"] is not None or len(names) > 1)
        ):
            config["stages"] = list(dict.fromkeys([*config["stages"], "compare"]))
        run = cls(config, methods, names[0], {})
        # Built once here, so that a wrong argument is refused before anything is computed.
        for family in ("model", "objective", "segmenter"):
            instantiate(family, config[family])
        for name, node in methods.items():
            instantiate(f"saliency {name}" if len(methods) > 1 else "saliency", node)
        _ = run.data
        return run

    def for_method(self, name: str) -> Run:
        return Run(self.config, self.methods, name, self.shared)

    def for_split(self, split: Split) -> Run:
        """The same run over other images: for calibrate, which wants maps of the held-back ones."""
        explain = {**self.config["explain"], "split": split}
        return Run({**self.config, "explain": explain}, self.methods, self.method, self.shared)

    def for_teacher(self) -> Run:
        """The same run as refine asks its teacher: of the network before, on what it learns from,
        for the labels."""
        plainly = {"split": "train", "target": "true", "flips": False, "scales": [1.0]}
        explain = {**self.config["explain"], **plainly, "colour": False}
        stages = [stage for stage in self.config["stages"] if stage != "refine"]
        config = {**self.config, "explain": explain, "stages": stages}
        return Run(config, {"teacher": self.config["refine"]["teacher"]}, "teacher", self.shared)

    def check_stages(self, stages: Sequence[str]) -> None:
        """Refuse at start what a stage could only refuse later, hours into a run."""
        _ = self.precision
        ranks.check_devices(self.config["runtime"], self.device)
        runtime.set_deterministic(self.config["runtime"]["deterministic"])
        for stage in stages:
            refuse = getattr(import_module(f"pipeline.stages.{stage}.stage"), "check", None)
            if refuse is not None:
                refuse(self)

    # -- what the configuration names

    @property
    def data(self) -> DataSet:
        if "data" not in self.shared:
            self.shared["data"] = instantiate("data", self.config["data"])
        return cast(DataSet, self.shared["data"])

    def model(self) -> Any:
        return instantiate("model", self.config["model"])

    def objective(self) -> Any:
        return instantiate("objective", self.config["objective"])

    def saliency(self) -> SaliencyMethod:
        return cast(SaliencyMethod, instantiate("saliency", self.methods[self.method]))

    def segmenter(self) -> Segmenter:
        return cast(Segmenter, instantiate("segmenter", self.config["segmenter"]))

    @property
    def split(self) -> Split:
        return cast(Split, self.config["explain"]["split"])

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Of the data set; of the checkpoint where one is given; of the pretrained network where
        images have no labels. Raises UserError if data set and checkpoint differ."""
        if self.config["checkpoint"] is None:
            return self.data.classes or getattr(self.model(), "known", ())
        known = tuple(checkpoint.read_card(self.classifier)["classes"])
        if self.data.classes not in ((), known):
            raise UserError(
                f"checkpoint={self.config['checkpoint']}: it knows the classes "
                f"{', '.join(known[:5])} ...; the data set has {', '.join(self.data.classes[:5])} "
                "...; they must be the same, in the same order (classes.txt gives folders names)"
            )
        return known

    @property
    def size(self) -> Size:
        """What images are scaled to for the network."""
        return self.data.size

    def coco_names(self) -> CocoIds:
        names = self.data.coco_names(self.split)
        if self.data.classes:
            return names
        return replace(names, category_ids=range(1, len(self.classes) + 1))

    # -- how it is computed

    @cached_property
    def device(self) -> torch.device:
        return ranks.device_for_rank(runtime.select_device(self.config["runtime"]["device"]))

    @cached_property
    def precision(self) -> runtime.Precision:
        return runtime.select_precision(self.config["precision"], self.device)

    @property
    def workers(self) -> int:
        wanted = self.config["runtime"]["workers"]
        if wanted is not None:
            return runtime.count_workers(wanted)
        return max(1, runtime.count_workers(None) // ranks.current_world().local_size)

    # -- where results are

    @property
    def outputs(self) -> Path:
        return Path(self.config["outputs"])

    def sources(self, module: str, *families: str) -> dict[str, str]:
        """Hashes of the source of a module and of what it instantiates."""
        nodes = [
            self.methods[self.method] if family == "saliency" else get_value(self.config, family)
            for family in families
        ]
        targets = [name.rpartition(".")[0] for node in nodes for name in list_targets(node)]
        return hash_sources([module, *targets])

    def cache_key(self, stage: str) -> dict[str, Any]:
        """All that can change a stage's result."""
        place = (stage, self.method if stage in PER_METHOD_STAGES else "", self.split)
        kept = self.shared.setdefault("cache_key", {})
        if place not in kept:
            kept[place] = to_plain(import_module(f"pipeline.stages.{stage}.stage").cache_key(self))
        return cast(dict[str, Any], kept[place])

    @property
    def classifier(self) -> Path:
        """The folder of the classifier: the one that was given, or what stage train made."""
        if self.config["checkpoint"] is not None:
            return checkpoint.find(Path(self.config["checkpoint"]))
        return self.folder("train")

    def of_checkpoint(self) -> str:
        """Which network the checkpoint is, and what is done with it, in one line: `outputs/latest`
        is soon another run's."""
        card, cut = checkpoint.read_card(self.classifier), self.config["segmenter"]
        model = card["model"].get("name") or str(card["model"]["_target_"]).split(".")[-2]
        where = Path(self.config["checkpoint"]).resolve()
        shown = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where
        at = f", boxes cut at {cut['threshold']}" if "threshold" in cut else ""
        return (
            f"{'checkpoint':<10} {shown}: {model}, {len(card['classes'])} classes; "
            f"maps of {', '.join(self.methods)}{at}"
        )

    @property
    def checkpoint(self) -> Path:
        """The folder of what is explained: the classifier, or what stage refine made of it."""
        return self.folder("refine") if "refine" in self.config["stages"] else self.classifier

    def key(self, stage: str) -> str:
        return hash_of(self.cache_key(stage))

    def folder(self, stage: str) -> Path:
        """The folder of a result that is whole. Raises UserError where it is not."""
        folder = store.Store(self.outputs).folder(stage, self.cache_key(stage))
        if not store.is_done(folder):
            wanted = [*self.config["stages"]]
            raise UserError(
                f"stage {stage} has no result for this configuration under {self.outputs}/, and "
                f"is not among stages={wanted}: run it first, with "
                f"'stages={_stages_to_run(stage, wanted)}', or leave stages= away"
            )
        return folder

    def get_or_create(self, stage: str) -> tuple[Path, bool]:
        """Make a stage's result, or find it made."""
        return store.Store(self.outputs).get_or_create(
            stage,
            self.cache_key(stage),
            lambda folder: self._make(stage, folder),
            lambda folder: terminal.print_line(
                f"{stage}: another run is making {folder}, waiting for it"
            ),
            spread=stage in DISTRIBUTED_STAGES,
        )

    def _make(self, stage: str, folder: Path) -> None:
        devices = self.config["runtime"]["devices"]
        if stage in DISTRIBUTED_STAGES and devices > 1 and ranks.launched_world().size == 1:
            parts = (self.config, self.methods, self.method)
            ranks.spawn_ranks(devices, _make_in_rank, parts, stage, folder)
            return
        with runtime.explain_nondeterminism():
            import_module(f"pipeline.stages.{stage}.stage").make(self, folder)


def _make_in_rank(parts: tuple[Any, Any, str], stage: str, folder: Path) -> None:
    """What each of the processes of runtime.devices does: data and keys are read anew in it."""
    run = Run(*parts, {})
    runtime.set_deterministic(run.config["runtime"]["deterministic"])
    run._make(stage, folder)


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
            if not target.startswith(f"pipeline.{family}."):
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
    for path in sorted((conf_folder() / family).glob("*.yaml")):
        plainly = read_choice(family, path.stem)
        if plainly["_target_"] == node["_target_"] and fill_defaults(family, plainly) == node:
            return path.stem
    return str(node["_target_"]).split(".")[-2]


def _without_training(config: dict[str, Any]) -> dict[str, Any]:
    """Nothing to train, and images at the size that the checkpoint was trained at, unless
    data.size says another."""
    stages = [stage for stage in config["stages"] if stage != "train"]
    card = checkpoint.read_card(checkpoint.find(Path(config["checkpoint"])))
    data = {"size": card["size"], **config["data"]}
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


def _stages_to_run(stage: str, stages: Sequence[str]) -> str:
    """The stages from the missing one on that the wanted ones stand on."""
    last = max(STAGE_ORDER.index(name) for name in stages)
    chosen = [
        name
        for n, name in enumerate(STAGE_ORDER)
        if STAGE_ORDER.index(stage) <= n <= last and (name in stages or name in REQUIRED_STAGES)
    ]
    return f"[{','.join(chosen)}]"


def network_name(run: Run) -> str:
    model = checkpoint.read_card(run.checkpoint)["model"]
    return str(model.get("name", str(model["_target_"]).split(".")[-2]))
