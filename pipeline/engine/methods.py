"""Saliency methods of a run: built, tried on shapes alone, and fitted to the training images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, shards
from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.engine.progress import show_progress
from pipeline.engine.store import Store
from pipeline.errors import UserError, suggest_choices
from pipeline.formats.arrays import read_arrays, write_arrays
from pipeline.protocols import (
    FittableMethod,
    Network,
    NetworkBuilder,
    Objective,
    SaliencyMethod,
    WrappingObjective,
)
from pipeline.saliency.fitting import list_fittable, replace_fittable
from pipeline.saliency.targets import top_count
from pipeline.types import Size

if TYPE_CHECKING:
    from torch import Tensor
STATISTICS = "statistics.safetensors"


def parse_targets(target: Any, classes: Sequence[str], are_labelled: bool) -> list[str]:
    """Return `explain.target` as a list of rules (true, predicted, topK) and class names.

    Args:
        target: a rule, a class name, or a list of these.
        classes: those of the network.
        are_labelled: whether every image to explain has a label, which `true` wants.

    Raises:
        UserError: for what is neither a rule nor a class, for `true` without labels, for nothing.
    """
    given = target if isinstance(target, list) else [target]
    wanted = ["true" if item is True else str(item) for item in given]  # YAML reads true as a bool
    for item in wanted:
        if item not in ("true", "predicted", *classes) and not top_count(item):
            known = suggest_choices(item, ["true", "predicted", "top5", *classes])
            raise UserError(f"explain.target={item}: neither a rule nor a class; {known}")
    if "true" in wanted and not are_labelled:
        raise UserError("explain.target=true: the images have no labels; use predicted or top5")
    if not wanted:
        raise UserError("explain.target=[]: name at least one; true, predicted, top5 or a class")
    return wanted


def over_views(method: SaliencyMethod, flips: bool, scales: Sequence[float]) -> SaliencyMethod:
    """Return the method averaged over mirrored and scaled images, as explain.flips and
    explain.scales ask for."""
    if not flips and tuple(scales) == (1.0,):
        return method
    from pipeline.saliency.views import Views

    return Views(method, flips, tuple(scales))


def needs_fitting(method: SaliencyMethod) -> bool:
    """Whether a method, or a part of it, first looks at the training images (as DDT)."""
    return bool(list_fittable(method))


def untrained_network(
    model: NetworkBuilder,
    objective: Objective,
    classes: Sequence[str],
    own_head: bool,
    localizes_at: Size | None,
) -> Network:
    """Return a network as it would be trained, on the meta device: shapes alone, no weights.

    `localizes_at`: the size of its input where stage refine adds a localization head; else None.
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
    """Let a method look at a network of shapes alone: no weights, nothing computed.

    Raises:
        UserError: where the method cannot explain such a network.
    """
    import torch

    class NetworkAccepted(Exception):
        pass

    def choose(logits: Tensor) -> Tensor:
        raise NetworkAccepted  # the network ran with all layers, and the method found it fit

    try:
        network = build()
        with torch.device("meta"):
            method(network, torch.zeros(1, 3, *size), choose)
    except UserError:
        raise
    except Exception:  # shapes alone do not serve everything: the real run will tell
        return


def fit_method(
    method: SaliencyMethod,
    images: SplitImages,
    compute: Compute,
    trained: checkpoint.Checkpoint,
    store: Store,
    cache_key: Mapping[str, Any],
) -> SaliencyMethod:
    """Return the method with what its parts learn from images and labels, kept for other runs.

    Args:
        method: one whose parts want fitting (`needs_fitting`).
        images: what they look at.
        compute: device, threads, batch.
        trained: the network.
        store: where the statistics are kept.
        cache_key: all that can change them.
    """
    import torch

    def run(folder: Path) -> None:
        sums = _sum_statistics(list_fittable(method), images, compute, trained)
        write_arrays(folder / STATISTICS, sums)

    folder, _ = store.get_or_create("statistics", cache_key, run)
    arrays, _ = read_arrays(folder / STATISTICS)
    fitted = []
    for n, part in enumerate(list_fittable(method)):
        prefix = f"{n}/"
        sums = {
            name.removeprefix(prefix): torch.from_numpy(values)
            for name, values in arrays.items()
            if name.startswith(prefix)
        }
        fitted.append(part.fitted(sums))
    return replace_fittable(method, fitted)


def _sum_statistics(
    to_fit: Sequence[FittableMethod],
    images: SplitImages,
    compute: Compute,
    trained: checkpoint.Checkpoint,
) -> shards.Arrays:
    """Return the sums over all batches of a split, those of the n-th part as `n/<name>`."""

    def work(batch: shards.PositionedExamples) -> shards.Arrays:
        pixels = trained.tensor(shards.stack_pixels(batch))
        labels = shards.stack_labels(batch, pixels.device)
        return {
            f"{n}/{name}": values.cpu().numpy()
            for n, part in enumerate(to_fit)
            for name, values in part.statistics(trained.network, pixels, labels).items()
        }

    count, step = len(images), compute.batch
    pieces = [range(n, min(n + step, count)) for n in range(0, count, step)]
    flow = shards.network_flow(images, compute, work)
    total: shards.Arrays = {}
    with show_progress(f"look at {images.split}", count) as advance:
        for piece, (sums, _) in zip(pieces, flow(iter(pieces)), strict=True):
            for name, values in sums.items():
                total[name] = total[name] + values if name in total else values
            advance(len(piece))
    if not total:
        raise UserError(
            f"explain: no image of {images.split} could be read, which the saliency method looks at"
        )
    return total
