"""A run: its configuration, what the configuration names, and where each stage's result is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.engine import checkpoint, memory_limit, ranks, runtime, store, terminal
from pipeline.engine.backends import BackendChoice, describe_runtime
from pipeline.engine.checkpoint import Checkpoint
from pipeline.engine.choices import complete_choice, instantiate, list_targets
from pipeline.engine.completion import complete_config
from pipeline.engine.compute import Compute, batch_size
from pipeline.engine.config import get_value
from pipeline.engine.earlier_network import is_frozen, use_earlier_network
from pipeline.engine.fitted import MethodFit
from pipeline.engine.human import Teaching, find_human_boxes, select_teaching
from pipeline.engine.images import SplitImages
from pipeline.engine.methods import (
    average_over_views,
    needs_fitting,
    parse_targets,
    try_on_shapes,
    untrained_network,
)
from pipeline.engine.named_functions import hash_function
from pipeline.engine.negatives import find_negatives
from pipeline.engine.objectives import build_objective
from pipeline.engine.progress import show_stage
from pipeline.engine.recorded import check_same_images, find_recorded
from pipeline.engine.sources import hash_sources
from pipeline.engine.spreading import find_spread, spread_shards
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
from pipeline.types import CocoIds, HumanBoxes, Note, Size, Split

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Run:
    """A complete configuration, for one of the saliency methods that it names.

    Attributes:
        config: the configuration with all defaults filled in.
        methods: the completed node of each saliency method by name, the main method first.
        method: the name of the method that this run is for.
        data: the data set, opened once for all methods.
        opened: the runs of other folders that were opened for this one, by folder.
    """

    config: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    method: str
    data: DataSet
    _keys: dict[tuple[str, str, str], dict[str, Any]]  # shared by the runs of all methods
    opened: dict[str, Run] = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: Mapping[str, Any], chosen: Mapping[str, str], named: Collection[str] = ()
    ) -> Run:
        """Return the run of a composed configuration; the arguments are those of complete_config.

        Raises:
            UserError: a value of the configuration is wrong.
        """
        complete, methods = complete_config(config, chosen, named)
        run = cls.complete(complete, methods, next(iter(methods)))
        if "annotate" not in complete["stages"] or complete["checkpoint"] is not None:
            return run
        again, why = use_earlier_network(config, complete, run.data.classes, run.teaching.key)
        ranks.print_once(why)
        return run if again is None else cls.of(again, chosen, named)

    @classmethod
    def complete(
        cls, config: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], method: str
    ) -> Run:
        """Return the run of a complete configuration, and open its data set.

        Raises:
            UserError: the data set cannot be opened.
        """
        return cls(config, methods, method, cast(DataSet, instantiate("data", config["data"])), {})

    def for_method(self, name: str) -> Run:
        """Return the same run for another of its saliency methods."""
        return replace(self, method=name)

    @property
    def noted_method(self) -> str | None:
        """The method that notes are about; None where the run scores what others made."""
        scores_others = any(self.config[key] is not None for key in ("boxes", "maps"))
        return None if scores_others else self.method

    def for_split(self, split: Split) -> Run:
        """Return the same run over the images of another split."""
        explain = {**self.config["explain"], "split": split}
        return replace(self, config={**self.config, "explain": explain})

    def for_segmenter(self, name: str) -> Run:
        """Return the same run with another segmenter.

        Args:
            name: a choice of conf/segmenter; its arguments are as there.
        """
        segmenter = complete_choice("segmenter", name, {})
        return replace(self, config={**self.config, "segmenter": segmenter}, _keys={})

    def for_teacher(self) -> Run:
        """Return the run whose maps are the pseudo-labels of stage refine.

        They are the teacher's maps, of the classifier that stage train trained, on the training
        images, for their labels.
        """
        changes = {"split": "train", "target": "true", "flips": False, "scales": [1.0]}
        explain = {**self.config["explain"], **changes, "colour": False}
        stages = [stage for stage in self.config["stages"] if stage != "refine"]
        config = {**self.config, "explain": explain, "stages": stages}
        methods = {"teacher": self.config["refine"]["teacher"]}
        return replace(self, config=config, methods=methods, method="teacher")

    def check_stages(self, stages: Sequence[str]) -> None:
        """Check at start what the stages need, which they could only refuse hours into the run.

        Raises:
            UserError: what a stage needs is missing or wrong.
        """
        precision, backend = self.config["precision"], self.config["runtime"]["backend"]
        ranks.print_once(describe_runtime(self.compute, precision, backend, stages))
        ranks.check_devices(self.config["runtime"], self.device)
        find_spread(self.config, self.device)
        runtime.set_deterministic(self.config["runtime"]["deterministic"])
        for stage in stages:
            find_stage(stage).check(self)

    # -- what the configuration names

    def model(self) -> NetworkBuilder:
        """Build the network builder."""
        return cast(NetworkBuilder, instantiate("model", self.config["model"]))

    def objective(self) -> Objective:
        """Build the training objective, one for sets where an image may have several labels."""
        return build_objective(self.config["objective"], self.data)

    def saliency(self) -> SaliencyMethod:
        """Build the saliency method, averaged over the views that explain.flips and scales name."""
        method = cast(SaliencyMethod, instantiate("saliency", self.methods[self.method]))
        explain = self.config["explain"]
        return average_over_views(method, explain["flips"], explain["scales"])

    def segmenter(self) -> Segmenter:
        """Build the segmenter."""
        return cast(Segmenter, instantiate("segmenter", self.config["segmenter"]))

    def options(self, stage: str) -> Any:
        """Return the options of a stage, as the dataclass that the stage declares."""
        kind = find_stage(stage).options
        assert kind is not None, f"stage {stage} declares no options"
        return kind(**self.config[stage])

    def images(self, split: Split | None = None) -> SplitImages:
        """Return the images of a split; None: of the split that is explained."""
        return SplitImages(self.data, split or self.split)

    def targets(self) -> list[str]:
        """Return the classes to explain, as rules and names (see `parse_targets`)."""
        target = self.config["explain"]["target"]
        return parse_targets(target, self.classes, bool(self.data.classes))

    @property
    def fit(self) -> MethodFit:
        """The saliency method with what it is fitted to: images to train on, or to explain."""
        return MethodFit(
            method=self.saliency(),
            name=self.method,
            node=self.methods[self.method],
            images=self.images("train" if len(self.data.ids("train")) else None),
            store=self.store,
            frozen_in=str(self.config["checkpoint"]) if is_frozen(self.config) else None,
        )

    def prepared_method(self, trained: Checkpoint) -> SaliencyMethod:
        """Return the saliency method, fitted if it needs fitting."""
        explained = self.cache_key("explain") if self.fit.is_needed else {}
        return self.fit.fit(self.compute, trained, explained, self.negatives)

    def check_methods(self) -> None:
        """Check the targets, and the methods on the network before it is trained.

        Raises:
            UserError: the data set has no such class, or a method cannot explain the network.
        """
        self.targets()
        for name in self.methods:
            method = self.for_method(name).saliency()
            if "train" not in self.config["stages"] or needs_fitting(method):
                continue
            if not store.is_done(self.store.folder("train", self.cache_key("train"))):
                try_on_shapes(method, self._untrained_network, self.size)

    def _untrained_network(self) -> Network:
        """Return the network that the stages train and refine will train, without weights."""
        size = self.size if "refine" in self.config["stages"] else None
        own = self.config["train"]["head"] == "own"
        return untrained_network(self.model(), self.objective(), self.classes, own, size)

    @property
    def split(self) -> Split:
        """The split that is explained."""
        return cast(Split, self.config["explain"]["split"])

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes.

        They are those of the checkpoint where checkpoint= is given, else of the data set, or of the
        pretrained network where images have no labels. Raises UserError if the classes of data set
        and checkpoint differ.
        """
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

    @cached_property
    def negatives(self) -> frozenset[int]:
        """The classes without an object, of the data set or the checkpoint."""
        known = None if self.config["checkpoint"] is None else self.classifier
        return find_negatives(self.data, self.classes, known)

    @property
    def size(self) -> Size:
        """Height and width that images are scaled to for the network."""
        return self.data.size

    def coco_names(self) -> CocoIds:
        """Return the ids and file names that COCO files use for images and classes."""
        names, ids = self.data.coco_names(self.split), range(1, len(self.classes) + 1)
        return names if self.data.classes else replace(names, category_ids=ids)

    # -- how it is computed

    @cached_property
    def device(self) -> torch.device:
        """The device that this process computes on."""
        return ranks.device_for_rank(runtime.select_device(self.config["runtime"]["device"]))

    @cached_property
    def precision(self) -> runtime.Precision:
        """The precision that networks run in."""
        return runtime.select_precision(self.config["precision"], self.device)

    @property
    def workers(self) -> int:
        """The threads of this process: runtime.workers, or its share of the machine's cores."""
        if (wanted := self.config["runtime"]["workers"]) is not None:
            return runtime.count_workers(wanted)
        return max(1, runtime.count_workers(None) // ranks.current_world().local_size)

    @property
    def compute(self) -> Compute:
        """How this process computes."""
        options = self.config["runtime"]
        batch = batch_size(options["batch"], self.device)
        backend = BackendChoice.of(options, self.device, self.precision, self.outputs)
        return Compute(self.device, self.precision, self.workers, batch, options["shard"], backend)

    # -- where results are kept

    @property
    def outputs(self) -> Path:
        """The folder that everything is written to."""
        return Path(self.config["outputs"])

    @property
    def store(self) -> store.Store:
        """The store of the results of stages."""
        return store.Store(self.outputs)

    def sources(self, module: str, *families: str, drawing: bool = False) -> dict[str, str]:
        """Hash the source of a module and of the targets that it instantiates.

        Args:
            module: full name.
            families: dotted names of the parts of the configuration whose targets are included.
            drawing: whether the result is a drawing: the modules that draw are included, too.

        Returns:
            The hash of each module by its name.
        """
        nodes = [
            self.methods[self.method] if family == "saliency" else get_value(self.config, family)
            for family in families
        ]
        targets = [name.rpartition(".")[0] for node in nodes for name in list_targets(node)]
        named = hash_function(self.config["model"]) if "model" in families else {}
        return {**hash_sources([module, *targets], drawing), **named}

    def cache_key(self, stage: str) -> dict[str, Any]:
        """Return all that can change a stage's result, computed once for each method and split."""
        name = (stage, self.method if find_stage(stage).per_method else "", self.split)
        if name not in self._keys:
            self._keys[name] = to_plain(find_stage(stage).cache_key(self))
        return self._keys[name]

    # -- the threshold that stage calibrate chooses

    @property
    def uses_validation_threshold(self) -> bool:
        """Whether maps are segmented at the threshold that stage calibrate chooses."""
        return str(self.segmenter().threshold_info["kind"]) == "validation"

    def chooses_own_threshold(self) -> bool:
        """Return whether the threshold comes from this run's stage calibrate.

        Otherwise it comes from the run that checkpoint= names.
        """
        if self.config["checkpoint"] is None or "calibrate" in self.config["stages"]:
            return True
        folder = self.store.folder("calibrate", self.cache_key("calibrate"))
        return store.is_done(folder) and load_thresholds(folder)["source"] is not None

    def chosen_thresholds(self) -> dict[str, Any]:
        """Return the thresholds that maps are segmented at, as stage calibrate records them.

        Returns:
            `source`: the images that they were chosen on; `images`: those of them that must not be
            evaluated; `thresholds`: by IoU, a value for all images or one for each half.

        Raises:
            UserError: no threshold was chosen.
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
        """Return the result of stage calibrate in the run that checkpoint= names.

        Raises:
            UserError: that run chose no threshold for the maps of this run.
        """
        views = [self.config["explain"][name] for name in ("flips", "scales")]
        refines = isinstance(self.segmenter(), RefiningSegmenter)
        node, given = self.config["segmenter"] if refines else None, self.config["checkpoint"]
        return find_thresholds(Path(given), self.methods[self.method], views, node)

    # -- the network

    @property
    def classifier(self) -> Path:
        """The folder of the classifier: of checkpoint= where it is given, else of stage train."""
        if self.config["checkpoint"] is not None:
            return checkpoint.find(Path(self.config["checkpoint"]))
        return self.folder("train")

    @property
    def checkpoint(self) -> Path:
        """The folder of the network that is explained: of stage refine, or the classifier."""
        return self.folder("refine") if self.has_result("refine") else self.classifier

    def key(self, stage: str) -> str:
        """Return the hash of a stage's cache key."""
        recorded = self._recorded_folder(stage)
        return hash_of(self.cache_key(stage)) if recorded is None else recorded.name

    def has_result(self, stage: str) -> bool:
        """Return whether a stage runs, or has a result in the run that run= names."""
        return stage in self.config["stages"] or self._recorded_folder(stage) is not None

    def _recorded_folder(self, stage: str) -> Path | None:
        """Return the folder of a result of the run that run= names; None where it has none."""
        if stage in self.config["stages"]:
            return None
        is_main = self.method == next(iter(self.methods)) or not find_stage(stage).per_method
        return find_recorded(self.config["run"], stage, None if is_main else self.method)

    def folder(self, stage: str) -> Path:
        """Return the folder of a stage's complete result.

        Raises:
            UserError: there is none for this configuration.
        """
        recorded = self._recorded_folder(stage)
        if recorded is not None and store.is_done(recorded):
            return recorded
        if self.config["run"] is not None and stage not in self.config["stages"]:
            raise UserError(f"run={self.config['run']}: it has no result of stage {stage}")
        folder = self.store.find(stage, self.cache_key(stage))
        if folder is None:
            stages = [*self.config["stages"]]
            raise UserError(
                f"stage {stage} has no result for this configuration under {self.outputs}/, and is "
                f"not among stages={stages}: run it first, with 'stages=["
                f"{','.join(stages_between(stage, stages))}]', or leave stages= away"
            )
        return folder

    @property
    def ranking(self) -> Path | None:
        """The result of stage rank, which has the confidences; None where it does not run."""
        return self.folder("rank") if self.has_result("rank") else None

    def check_recorded_images(self) -> None:
        """Check that the images are as they were in the run that run= names, if it names one.

        Raises:
            UserError: images were added, removed or changed since.
        """
        if (given := self.config["run"]) is not None:
            fingerprint = self.data.fingerprint(self.split)
            check_same_images(given, self.folder("explain"), fingerprint, self.split)

    @cached_property
    def human(self) -> tuple[dict[str, HumanBoxes], list[Note]]:
        """The boxes of a person in images of the split, by image id; and notes on unused ones.

        Raises:
            UserError: their file is damaged, or human_boxes= names none.
        """
        return find_human_boxes(self.config["human_boxes"], self.outputs, self.data, self.split)

    @cached_property
    def teaching(self) -> Teaching:
        """The boxes of a person that teach the localization head of stage refine, if any may."""
        if not self.config["annotate"]["learn_from_human"] or "refine" not in self.config["stages"]:
            return Teaching()
        human, _ = self.for_split("all").human
        return select_teaching(human, self.images("train"), self.classes, self.negatives)

    def get_or_create(self, stage: str) -> tuple[Path, bool]:
        """Return the folder of a stage's result, and whether it was complete; compute it if not.

        Raises:
            UserError: the stage cannot be run.
        """
        return self.store.get_or_create(
            stage,
            self.cache_key(stage),
            lambda folder: self._run_stage(stage, folder),
            lambda folder: terminal.print_line(
                f"{stage}: another run is making {folder}, waiting for it"
            ),
            distributed=find_stage(stage).distributed,
        )

    def _run_stage(self, stage: str, folder: Path) -> None:
        """Compute a stage's result, in several processes where runtime.devices asks for them."""
        devices = self.config["runtime"]["devices"]
        if find_stage(stage).distributed and devices > 1 and ranks.launched_world().size == 1:
            parts = (self.config, self.methods, self.method)
            ranks.spawn_ranks(devices, _run_stage_in_rank, parts, stage, folder)
            return
        spread = spread_shards(find_spread(self.config, self.device), stage)
        with (show_stage(stage), memory_limit.explain_error(stage), spread,
              runtime.explain_nondeterminism()):  # fmt: skip
            find_stage(stage).run(self, folder)


def _run_stage_in_rank(parts: tuple[Any, Any, str], stage: str, folder: Path) -> None:
    """Run a stage in a spawned process, which opens the data set and computes keys itself."""
    run = Run.complete(*parts)
    runtime.set_deterministic(run.config["runtime"]["deterministic"])
    with store.record_uses(folder):
        run._run_stage(stage, folder)
