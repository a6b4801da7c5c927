"""Saliency methods of a run: averaged over views, tried on a network of shapes, and fitted."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import checkpoint, shards
from pipeline.engine.backends import compiled
from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.engine.progress import show_progress
from pipeline.engine.shard_parts import PART_SECONDS
from pipeline.engine.store import Store
from pipeline.errors import UserError, suggest_choices
from pipeline.formats.arrays import read_arrays, write_arrays
from pipeline.ops.text import to_nfc
from pipeline.protocols import (
    FittableMethod,
    Network,
    NetworkBuilder,
    Objective,
    SaliencyMethod,
    WrappingObjective,
)
from pipeline.saliency.fitting import list_fittable, replace_fittable
from pipeline.saliency.targets import find_class, top_count
from pipeline.types import Size

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS = "statistics.safetensors"
UNFINISHED = "unfinished.safetensors"  # the sums over the images so far


def parse_targets(
    target: Any, classes: Sequence[str], are_labelled: bool, option: str = "explain.target"
) -> list[str]:
    """Return `explain.target` as a list of rules (true, predicted, topK) and classes.

    A class is returned by its name; by its index where an earlier class has the same name.

    Args:
        target: a rule, the name of a class, its index from 0, or a list of these.
        classes: the names of the network's classes.
        are_labelled: whether the data set has classes, which the rule `true` needs.
        option: what messages call the target.

    Raises:
        UserError: an item is neither a rule nor a class, `true` is given for images without
            labels, or the list is empty.
    """
    items = target if isinstance(target, list) else [target]
    names = ["true" if item is True else str(item) for item in items]  # YAML's true is a bool
    spelling = {to_nfc(name): name for name in classes}
    rules = ["true"] * are_labelled + ["predicted", "top5"]
    targets = [
        _parse_target(spelling.get(to_nfc(name), name), classes, option, rules) for name in names
    ]
    if "true" in targets and not are_labelled:
        raise UserError(f"{option}=true: the images have no labels; use predicted or top5")
    if not targets:
        raise UserError(f"{option}=[]: name at least one; {', '.join(rules)} or a class")
    return targets


def _parse_target(name: str, classes: Sequence[str], option: str, suggested: Sequence[str]) -> str:
    """Return a rule as it is, and a class by its name where that is the first of that name."""
    rules = ("true", "predicted")
    if name in (*rules, *classes):
        return name
    try:
        index = find_class(name, classes)
    except UserError as error:
        raise UserError(f"{option}={name}: {error}") from None
    if index is not None:
        is_first = classes.index(classes[index]) == index and classes[index] not in rules
        return classes[index] if is_first else name
    if top_count(name) > len(classes) and name != "top5":
        raise UserError(
            f"{option}={name}: the network has {len(classes)} classes; give "
            f"top{len(classes)} for all of them"
        )
    if not top_count(name):
        known = suggest_choices(name, [*suggested, *classes])
        raise UserError(f"{option}={name}: neither a rule nor a class; {known}")
    return name


def average_over_views(
    method: SaliencyMethod, flips: bool, scales: Sequence[float]
) -> SaliencyMethod:
    """Return a method whose maps are averaged over views of the image.

    Args:
        method: the method.
        flips: whether the mirrored image is a view, too.
        scales: factors by which the image is scaled.
    """
    if not flips and tuple(scales) == (1.0,):
        return method
    from pipeline.saliency.views import Views

    return Views(method, flips, tuple(scales))


def is_of_localization_head(method: SaliencyMethod) -> bool:
    """Return whether the maps of a method are those of a head that was trained to localize."""
    from pipeline.saliency.foreground import Foreground
    from pipeline.saliency.refined import Refined
    from pipeline.saliency.views import Views

    inner = method.method if isinstance(method, Views) else method
    return isinstance(inner, Foreground | Refined)


def needs_fitting(method: SaliencyMethod) -> bool:
    """Return whether a method, or a part of it, is fitted to training images, as DDT is."""
    return bool(list_fittable(method))


def untrained_network(
    model: NetworkBuilder,
    objective: Objective,
    classes: Sequence[str],
    own_head: bool,
    localizes_at: Size | None,
) -> Network:
    """Build a network as it would be trained, on the meta device: with shapes, without weights.

    Args:
        model: builds the body and the head.
        objective: the training objective, which may change the network.
        classes: the names of the classes.
        own_head: whether the head is the architecture's; else a new GAP head.
        localizes_at: the size of the input if stage refine adds a localization head; else None.
    """
    import torch

    from pipeline.model.classifier import Classifier, MeanLinear
    from pipeline.model.foreground import build_foreground_head

    with torch.device("meta"):
        head: torch.nn.Module
        if own_head:
            body, head = model.own(len(classes))
        else:
            body, channels = model.body()
            head = MeanLinear(channels, len(classes))
        network = Classifier(body, head, classes, model.last, model.below).eval()
        if isinstance(objective, WrappingObjective):
            network = objective.wrap(network)
        if localizes_at is not None:
            network.branches["foreground"] = build_foreground_head(network, localizes_at)
    return network


def try_on_shapes(method: SaliencyMethod, build: Callable[[], Network], size: Size) -> None:
    """Check that a method accepts a network, on the meta device, which computes only shapes.

    Args:
        method: the method.
        build: builds the network; is called on any device.
        size: height and width of its input.

    Raises:
        UserError: the method cannot explain such a network.
    """
    import torch

    class NetworkAccepted(Exception):
        pass

    def choose(logits: Tensor) -> Tensor:
        raise NetworkAccepted  # the network has computed all layers that the method asked for

    try:
        network = build()
        with torch.device("meta"):
            method(network, torch.zeros(1, 3, *size), choose)
    except UserError:
        raise
    except Exception:  # not all operations run on the meta device: the real run will tell
        return


def fit_method(
    method: SaliencyMethod,
    images: SplitImages,
    compute: Compute,
    trained: checkpoint.Checkpoint,
    store: Store,
    cache_key: Mapping[str, Any],
    negatives: Collection[int] = (),
) -> Path:
    """Return the folder of the statistics that a method is fitted to; compute them if needed.

    Args:
        method: a method that needs fitting (see `needs_fitting`).
        images: the images that it is fitted to.
        compute: device, threads, batch.
        trained: the network.
        store: where the statistics are kept.
        cache_key: all that can change the statistics.
        negatives: classes without an object: their images are left out.

    Raises:
        UserError: no image could be read.
    """

    def create(folder: Path) -> None:
        with compiled([trained.network], compute, len(images), images.size, folder):
            sums = _sum_statistics(
                list_fittable(method), images, compute, trained, negatives, folder
            )
        write_arrays(folder / STATISTICS, sums)
        (folder / UNFINISHED).unlink(missing_ok=True)

    return store.get_or_create("statistics", cache_key, create)[0]


def load_fitted(method: SaliencyMethod, folder: Path) -> SaliencyMethod:
    """Return a method, fitted to kept statistics.

    Args:
        method: a method that needs fitting (see `needs_fitting`).
        folder: that has the file STATISTICS.
    """
    import torch

    arrays, _ = read_arrays(folder / STATISTICS)
    fitted_parts = []
    for n, part in enumerate(list_fittable(method)):
        prefix = f"{n}/"
        sums = {
            name.removeprefix(prefix): torch.from_numpy(values)
            for name, values in arrays.items()
            if name.startswith(prefix)
        }
        fitted_parts.append(part.fitted(sums))
    return replace_fittable(method, fitted_parts)


def _sum_statistics(
    to_fit: Sequence[FittableMethod],
    images: SplitImages,
    compute: Compute,
    trained: checkpoint.Checkpoint,
    negatives: Collection[int],
    folder: Path,
) -> shards.Arrays:
    """Return the sums over a split, without `negatives`, named `n/<name>` for the n-th part.

    Sums so far are written into `folder` from time to time, and a killed run goes on from them.
    """

    def work(batch: shards.PositionedExamples) -> shards.Arrays:
        pixels = trained.tensor(shards.stack_pixels(batch))
        labels = (
            shards.stack_label_sets(batch, len(trained.classes), pixels.device)
            if images.is_multi_label
            else shards.stack_labels(batch, pixels.device)
        )
        return {
            f"{n}/{name}": values.cpu().numpy()
            for n, part in enumerate(to_fit)
            for name, values in part.statistics(trained.network, pixels, labels).items()
        }

    has_object = ~np.isin(images.labels, sorted(negatives)) & ~images.backgrounds
    positions = np.flatnonzero(has_object).tolist()
    totals, done, step = _read_unfinished(folder / UNFINISHED, compute.batch)
    pieces = [positions[n : n + step] for n in range(done, len(positions), step)]
    flow = shards.network_flow(images, compute, work, _add_arrays)
    write_at = time.monotonic() + PART_SECONDS
    with show_progress(f"look at {images.split}", len(positions), done) as advance:
        for piece, (sums, _) in zip(pieces, flow(iter(pieces)), strict=True):
            for name, values in sums.items():
                totals[name] = totals[name] + values if name in totals else values
            done += len(piece)
            advance(len(piece))
            if time.monotonic() > write_at:
                write_arrays(folder / UNFINISHED, totals, count=done, step=step)
                write_at = time.monotonic() + PART_SECONDS
    if not totals:
        raise UserError(
            f"explain: no image of {images.split} could be read, to which the saliency method is "
            "fitted"
        )
    return totals


def _add_arrays(parts: Sequence[shards.Arrays]) -> shards.Arrays:
    """Return the sum of the arrays of each name."""
    return {name: reduce(np.add, [arrays[name] for arrays in parts]) for name in parts[0]}


def _read_unfinished(path: Path, step: int) -> tuple[shards.Arrays, int, int]:
    """Return the sums of a killed run, of how many images they are, and images in a piece."""
    if not path.is_file():
        return {}, 0, step
    totals, notes = read_arrays(path)
    return totals, notes["count"], notes["step"]
