"""Saliency methods of a run: built, tried on shapes alone, and fitted to the training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.engine import checkpoint, shards, store
from pipeline.engine.progress import show_progress
from pipeline.engine.run import Run
from pipeline.errors import UserError, suggest_choices
from pipeline.formats.arrays import read_arrays, write_arrays
from pipeline.protocols import FittableMethod, SaliencyMethod, WrappingObjective
from pipeline.saliency.fitting import parts, with_fitted
from pipeline.saliency.targets import top_count
from pipeline.types import Split

if TYPE_CHECKING:
    from torch import Tensor
STATISTICS = "statistics.safetensors"


def check_methods(run: Run) -> None:
    """Raises UserError for a target that this data set cannot have, for impossible views, and for a
    method that the network to be trained cannot have: not after hours of training."""
    parse_targets(run)
    for name in run.methods:
        method = build_method(run.for_method(name))
        if "train" not in run.config["stages"] or parts(method):
            continue
        if not store.is_done(store.Store(run.outputs).folder("train", run.cache_key("train"))):
            _try_on_shapes(run, method)


def _try_on_shapes(run: Run, method: SaliencyMethod) -> None:
    """The method's first look at a network of shapes alone: no weights, nothing computed."""
    import torch

    from pipeline.model.classifier import Classifier, MeanLinear
    from pipeline.model.foreground import localizer

    class Enough(Exception):
        pass

    def choose(logits: Tensor) -> Tensor:
        raise Enough  # the network ran with all layers, and the method found it fit

    model, classes = run.model(), run.classes
    height, width = run.size
    try:
        with torch.device("meta"):
            if run.config["train"]["head"] == "own":
                body, head = model.own(len(classes))
            else:
                body, channels = model.body()
                head = MeanLinear(channels, len(classes))
            network = Classifier(body, head, classes, model.last, model.below).eval()
            objective = run.objective()
            if isinstance(objective, WrappingObjective):
                network = objective.wrap(network)
            if "refine" in run.config["stages"]:
                network.branches["foreground"] = localizer(network, run.size)
            method(network, torch.zeros(1, 3, height, width), choose)
    except UserError:
        raise
    except Exception:  # shapes alone do not serve everything: the real run will tell
        return


def parse_targets(run: Run) -> list[str]:
    """`explain.target` as a list. Raises UserError for what is neither a rule nor a class."""
    wanted = run.config["explain"]["target"]
    every = wanted if isinstance(wanted, list) else [wanted]
    chosen = ["true" if one is True else str(one) for one in every]  # YAML reads true as a bool
    classes = run.classes
    for one in chosen:
        if one in ("true", "predicted") or one in classes or top_count(one):
            continue
        known = suggest_choices(one, ["true", "predicted", "top5", *classes])
        raise UserError(f"explain.target={one}: neither a rule nor a class; {known}")
    if "true" in chosen and (run.data.labels(run.split) < 0).any():
        raise UserError("explain.target=true: the images have no labels; use predicted or top5")
    if not chosen:
        raise UserError("explain.target=[]: name at least one; true, predicted, top5 or a class")
    return chosen


def build_method(run: Run) -> SaliencyMethod:
    """The method, over the views of an image that explain.flips and explain.scales ask for."""
    flips, scales = run.config["explain"]["flips"], tuple(run.config["explain"]["scales"])
    method = run.saliency()
    if not flips and scales == (1.0,):
        return method
    from pipeline.saliency.views import Views

    return Views(method, flips, scales)


def prepare_method(run: Run, trained: checkpoint.Checkpoint) -> SaliencyMethod:
    """The method, after its look at the training images where it wants one."""
    method = build_method(run)
    return _fit(run, method, trained) if parts(method) else method


def needs_fitting(run: Run) -> bool:
    return bool(parts(build_method(run)))


def fitting_split(run: Run) -> Split:
    """The training images; those to explain themselves where there are no others."""
    return "train" if len(run.data.ids("train")) else run.split


def _fit(run: Run, method: SaliencyMethod, trained: checkpoint.Checkpoint) -> SaliencyMethod:
    """The method with what it learns from images and labels, kept for other runs."""
    import torch

    split = fitting_split(run)
    names = ("source", "checkpoint", "saliency", "fitted_on", "size", "precision")
    made = {"split": split, **{name: run.cache_key("explain")[name] for name in names}}

    def learn(folder: Path) -> None:
        sums = _sum_statistics(run, parts(method), trained, split)
        write_arrays(folder / STATISTICS, sums)

    where, _ = store.Store(run.outputs).get_or_create("statistics", made, learn)
    arrays, _ = read_arrays(where / STATISTICS)
    found = []
    for n, part in enumerate(parts(method)):
        own = {k: v for k, v in arrays.items() if k.startswith(f"{n}/")}
        found.append(
            part.fitted({k.partition("/")[2]: torch.from_numpy(v) for k, v in own.items()})
        )
    return with_fitted(method, found)


def _sum_statistics(
    run: Run, every: Sequence[FittableMethod], trained: checkpoint.Checkpoint, split: Split
) -> shards.Arrays:
    """The sums of all batches of a split, those of the n-th part as `n/<name>`."""

    def work(batch: shards.PositionedExamples) -> shards.Arrays:
        images = trained.tensor(shards.stack_pixels(batch))
        labels = shards.stack_labels(batch, images.device)
        return {
            f"{n}/{name}": one.cpu().numpy()
            for n, part in enumerate(every)
            for name, one in part.statistics(trained.network, images, labels).items()
        }

    count, step = len(run.data.ids(split)), shards.inference_batch_size(run)
    pieces = [range(n, min(n + step, count)) for n in range(0, count, step)]
    flow = shards.network_flow(run, split, work)
    total: shards.Arrays = {}
    with show_progress(f"look at {split}", count) as advance:
        for piece, (found, _) in zip(pieces, flow(iter(pieces)), strict=True):
            for name, one in found.items():
                total[name] = total[name] + one if name in total else one
            advance(len(piece))
    if not total:
        raise UserError(f"explain: no image of {split} could be read, which {run.method} looks at")
    return total
