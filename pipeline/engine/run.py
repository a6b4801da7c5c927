"""One run: its configuration, what that names, and where each stage's result is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.engine import checkpoint, ranks, runtime, store, terminal
from pipeline.engine.checkpoint import Checkpoint
from pipeline.engine.choices import choice_name, instantiate, list_targets
from pipeline.engine.completion import complete_config
from pipeline.engine.compute import Compute, batch_size
from pipeline.engine.config import get_value
from pipeline.engine.images import SplitImages
from pipeline.engine.methods import (
    fit_method,
    needs_fitting,
    over_views,
    parse_targets,
    try_on_shapes,
    untrained_network,
)
from pipeline.engine.sources import hash_sources
from pipeline.engine.stage import find_stage, stages_between
from pipeline.errors import UserError
from pipeline.ops.hashing import hash_of, to_plain
from pipeline.protocols import (
    DataSet,
    Network,
    NetworkBuilder,
    Objective,
    RefiningSegmenter,
    SaliencyMethod,
    Segmenter,
)
from pipeline.results.thresholds import (
    find_thresholds,
    load_thresholds,
    select_thresholds,
    too_few_boxes_error,
)
from pipeline.types import CocoIds, Size, Split

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Run:
    """The configuration, complete; for one saliency method of those that it names."""

    config: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]  # name -> completed node, the first is the main one
    method: str
    data: DataSet  # opened once for all methods
    _keys: dict[tuple[str, str, str], dict[str, Any]]  # computed once, as the same for all methods

    @classmethod
    def of(
        cls, config: Mapping[str, Any], chosen: Mapping[str, str], named: Collection[str] = ()
    ) -> Run:
        """Return the run of a composed configuration (see `complete_config`)."""
        complete, methods = complete_config(config, chosen, named)
        return cls.complete(complete, methods, next(iter(methods)))

    @classmethod
    def complete(
        cls, config: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], method: str
    ) -> Run:
        """Return the run of a complete configuration, its data set opened."""
        return cls(config, methods, method, cast(DataSet, instantiate("data", config["data"])), {})

    def for_method(self, name: str) -> Run:
        """Return the same run for another of its saliency methods."""
        return replace(self, method=name)

    def for_split(self, split: Split) -> Run:
        """Return the same run over other images: calibrate wants maps of the held-back ones."""
        explain = {**self.config["explain"], "split": split}
        return replace(self, config={**self.config, "explain": explain})

    def for_teacher(self) -> Run:
        """Return the run whose maps refine learns from: the teacher's, of the classifier before,
        on the training images, for their labels."""
        plain = {"split": "train", "target": "true", "flips": False, "scales": [1.0]}
        explain = {**self.config["explain"], **plain, "colour": False}
        stages = [stage for stage in self.config["stages"] if stage != "refine"]
        config = {**self.config, "explain": explain, "stages": stages}
        methods = {"teacher": self.config["refine"]["teacher"]}
        return replace(self, config=config, methods=methods, method="teacher")

    def check_stages(self, stages: Sequence[str]) -> None:
        """Refuse at start what a stage could only refuse later, hours into a run."""
        _ = self.precision
        ranks.check_devices(self.config["runtime"], self.device)
        runtime.set_deterministic(self.config["runtime"]["deterministic"])
        for stage in stages:
            find_stage(stage).check(self)

    # -- what the configuration names

    def model(self) -> NetworkBuilder:
        """Build what builds the network."""
        return cast(NetworkBuilder, instantiate("model", self.config["model"]))

    def objective(self) -> Objective:
        """Build what the classifier is trained to do."""
        return cast(Objective, instantiate("objective", self.config["objective"]))

    def saliency(self) -> SaliencyMethod:
        """Build the saliency method, averaged over the views that explain.flips and scales name."""
        method = cast(SaliencyMethod, instantiate("saliency", self.methods[self.method]))
        return over_views(method, self.config["explain"]["flips"], self.config["explain"]["scales"])

    def segmenter(self) -> Segmenter:
        """Build the segmenter."""
        return cast(Segmenter, instantiate("segmenter", self.config["segmenter"]))

    def options(self, stage: str) -> Any:
        """Return the options of a stage, as its own dataclass."""
        kind = find_stage(stage).options
        assert kind is not None, f"stage {stage} declares no options"
        return kind(**self.config[stage])

    def images(self, split: Split | None = None) -> SplitImages:
        """Return the images of a split; of the one that is explained where none is named."""
        return SplitImages(self.data, split or self.split)

    def targets(self) -> list[str]:
        """Return the classes to explain, as rules and names (see `parse_targets`)."""
        labelled = not bool((self.data.labels(self.split) < 0).any())
        return parse_targets(self.config["explain"]["target"], self.classes, labelled)

    def fitting_images(self) -> SplitImages:
        """Return what a method is fitted to: the training images; those to explain themselves
        where there are no others."""
        return self.images("train" if len(self.data.ids("train")) else None)

    def prepared_method(self, trained: Checkpoint) -> SaliencyMethod:
        """Return the saliency method, fitted to the training images where it wants to be."""
        method = self.saliency()
        if not needs_fitting(method):
            return method
        names = ("source", "checkpoint", "saliency", "fitted_on", "size", "precision")
        images, explained = self.fitting_images(), self.cache_key("explain")
        key = {"split": images.split, **{name: explained[name] for name in names}}
        return fit_method(method, images, self.compute, trained, self.store, key)

    def check_methods(self) -> None:
        """Refuse targets that the data set cannot have, and, before hours of training, a method
        that the network to be trained cannot have."""
        self.targets()
        for name in self.methods:
            method = self.for_method(name).saliency()
            if "train" not in self.config["stages"] or needs_fitting(method):
                continue
            if not store.is_done(self.store.folder("train", self.cache_key("train"))):
                try_on_shapes(method, self._untrained_network, self.size)

    def _untrained_network(self) -> Network:
        refines = "refine" in self.config["stages"]
        own_head = self.config["train"]["head"] == "own"
        return untrained_network(
            self.model(), self.objective(), self.classes, own_head, self.size if refines else None
        )

    @property
    def split(self) -> Split:
        return cast(Split, self.config["explain"]["split"])

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Of the data set; of the checkpoint where one is given; of the pretrained network where
        images have no labels. Raises UserError if data set and checkpoint differ."""
        if self.config["checkpoint"] is None:
            return self.data.classes or self.model().known
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
        """The threads of this process: runtime.workers, or its share of the machine's cores."""
        wanted = self.config["runtime"]["workers"]
        if wanted is not None:
            return runtime.count_workers(wanted)
        return max(1, runtime.count_workers(None) // ranks.current_world().local_size)

    @property
    def compute(self) -> Compute:
        """How this process computes."""
        options = self.config["runtime"]
        batch = batch_size(options["batch"], self.device)
        return Compute(self.device, self.precision, self.workers, batch, options["shard"])

    # -- where results are

    @property
    def outputs(self) -> Path:
        """The folder that everything is written to."""
        return Path(self.config["outputs"])

    @property
    def store(self) -> store.Store:
        """Where the results of stages lie."""
        return store.Store(self.outputs)

    def sources(self, module: str, *families: str, drawing: bool = False) -> dict[str, str]:
        """Hash the source of a module and of what it instantiates.

        Args:
            module: full name.
            families: the parts of the configuration whose targets count, by dotted name.
            drawing: whether the result is a drawing: what draws counts, too.
        """
        nodes = [
            self.methods[self.method] if family == "saliency" else get_value(self.config, family)
            for family in families
        ]
        targets = [name.rpartition(".")[0] for node in nodes for name in list_targets(node)]
        return hash_sources([module, *targets], drawing)

    def cache_key(self, stage: str) -> dict[str, Any]:
        """All that can change a stage's result."""
        place = (stage, self.method if find_stage(stage).per_method else "", self.split)
        if place not in self._keys:
            self._keys[place] = to_plain(find_stage(stage).cache_key(self))
        return self._keys[place]

    # -- the threshold that stage calibrate chooses

    @property
    def uses_validation_threshold(self) -> bool:
        """Whether maps are segmented at the threshold that stage calibrate chooses."""
        return str(self.segmenter().threshold_info["kind"]) == "validation"

    def chooses_own_threshold(self) -> bool:
        """Whether this run's stage calibrate chooses it, and not the run that checkpoint= names."""
        if self.config["checkpoint"] is None or "calibrate" in self.config["stages"]:
            return True
        folder = self.store.folder("calibrate", self.cache_key("calibrate"))
        return store.is_done(folder) and load_thresholds(folder)["source"] is not None

    def chosen_thresholds(self) -> dict[str, Any]:
        """Return what boxes are segmented at: `source`, the `images` that are not to be scored,
        `thresholds` by IoU.

        Raises:
            UserError: where nothing was chosen.
        """
        refines = isinstance(self.segmenter(), RefiningSegmenter)
        if self.chooses_own_threshold():
            chosen = select_thresholds(load_thresholds(self.folder("calibrate")), refines)
            if chosen["source"] is None:
                raise too_few_boxes_error(chosen["n"])
            return chosen
        chosen = select_thresholds(load_thresholds(self.checkpoint_thresholds_folder()), refines)
        thresholds = {iou: [value] for iou, value in chosen["elsewhere"].items()}
        return {**chosen, "source": "checkpoint", "thresholds": thresholds}

    def checkpoint_thresholds_folder(self) -> Path:
        """Return the folder of stage calibrate of the run that checkpoint= names."""
        views = [self.config["explain"][name] for name in ("flips", "scales")]
        refines = isinstance(self.segmenter(), RefiningSegmenter)
        node = self.config["segmenter"] if refines else None
        checkpoint_run = Path(self.config["checkpoint"])
        return find_thresholds(checkpoint_run, self.methods[self.method], views, node)

    # -- the network

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
        model = card["model"].get("name") or choice_name("model", str(card["model"]["_target_"]))
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

    def network_name(self) -> str:
        """Return the name of the network that is explained, or that of its kind."""
        model = checkpoint.read_card(self.checkpoint)["model"]
        return str(model.get("name", choice_name("model", str(model["_target_"]))))

    def key(self, stage: str) -> str:
        return hash_of(self.cache_key(stage))

    def folder(self, stage: str) -> Path:
        """The folder of a result that is whole. Raises UserError where it is not."""
        folder = self.store.folder(stage, self.cache_key(stage))
        if not store.is_done(folder):
            wanted = [*self.config["stages"]]
            raise UserError(
                f"stage {stage} has no result for this configuration under {self.outputs}/, and "
                f"is not among stages={wanted}: run it first, with "
                f"'stages=[{','.join(stages_between(stage, wanted))}]', or leave stages= away"
            )
        return folder

    def get_or_create(self, stage: str) -> tuple[Path, bool]:
        """Make a stage's result, or find it made."""
        return self.store.get_or_create(
            stage,
            self.cache_key(stage),
            lambda folder: self._make(stage, folder),
            lambda folder: terminal.print_line(
                f"{stage}: another run is making {folder}, waiting for it"
            ),
            spread=find_stage(stage).distributed,
        )

    def _make(self, stage: str, folder: Path) -> None:
        devices = self.config["runtime"]["devices"]
        if find_stage(stage).distributed and devices > 1 and ranks.launched_world().size == 1:
            parts = (self.config, self.methods, self.method)
            ranks.spawn_ranks(devices, _make_in_rank, parts, stage, folder)
            return
        with runtime.explain_nondeterminism():
            find_stage(stage).run(self, folder)


def _make_in_rank(parts: tuple[Any, Any, str], stage: str, folder: Path) -> None:
    """What each of the processes of runtime.devices does: data and keys are read anew in it."""
    run = Run.complete(*parts)
    runtime.set_deterministic(run.config["runtime"]["deterministic"])
    run._make(stage, folder)
