"""Explain: where the classifier looked, for the classes asked for, and what it took each image for.

The maps of all classes of an image and its classification are kept, in shards, so that nothing
later runs the network again. A method that first looks at the training images (DDT) gets them with
their labels, and what it made of them is kept as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import checkpoint, ranks, runtime, shards, show, store
from pipeline.records import (
    Choose,
    Fitted,
    Problem,
    SaliencyMap,
    SaliencyMethod,
    Split,
    Wrapping,
    near,
)
from pipeline.run import Run
from pipeline.saliency.fitting import parts, with_fitted

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32
    from torch import Tensor

TOP = 5
STATISTICS = "statistics.safetensors"


def made_of(run: Run) -> dict[str, Any]:
    return {
        "source": run.sources("explain", "data", "saliency"),
        "checkpoint": checkpoint.fingerprint(run.checkpoint),
        "saliency": run.methods[run.method],
        "target": targets(run),
        "views": [run.config["explain"][name] for name in ("flips", "scales", "colour")],
        "fitted_on": run.data.fingerprint(_to_fit_on(run)) if _fits(run) else None,
        "split": run.split,
        "data": run.data.fingerprint(run.split),
        "size": run.size,
        "precision": run.precision,
    }


def check(run: Run) -> None:
    """Raises Problem for a target that this data set cannot have, for impossible views, and for a
    method that the network to be trained cannot have: not after hours of training."""
    targets(run)
    for name in run.methods:
        method = method_of(run.for_method(name))
        if "train" not in run.config["stages"] or parts(method):
            continue
        if not store.is_done(store.Store(run.outputs).folder("train", run.made_of("train"))):
            _try_without_numbers(run, method)


def _try_without_numbers(run: Run, method: SaliencyMethod) -> None:
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
            if isinstance(objective, Wrapping):
                network = objective.wrap(network)
            if "refine" in run.config["stages"]:
                network.branches["foreground"] = localizer(network, run.size)
            method(network, torch.zeros(1, 3, height, width), choose)
    except Problem:
        raise
    except Exception:  # shapes alone do not serve everything: the real run will tell
        return


def targets(run: Run) -> list[str]:
    """`explain.target` as a list. Raises Problem for what is neither a rule nor a class."""
    wanted = run.config["explain"]["target"]
    every = wanted if isinstance(wanted, list) else [wanted]
    chosen = ["true" if one is True else str(one) for one in every]  # YAML reads true as a bool
    classes = run.classes
    for one in chosen:
        if one in ("true", "predicted") or one in classes or _top(one):
            continue
        known = near(one, ["true", "predicted", "top5", *classes])
        raise Problem(f"explain.target={one}: neither a rule nor a class; {known}")
    if "true" in chosen and (run.data.labels(run.split) < 0).any():
        raise Problem("explain.target=true: the images have no labels; use predicted or top5")
    if not chosen:
        raise Problem("explain.target=[]: name at least one; true, predicted, top5 or a class")
    return chosen


def _top(target: str) -> int:
    number = target.removeprefix("top")
    return int(number) if target.startswith("top") and number.isdecimal() else 0


def chooser(wanted: Sequence[str], classes: Sequence[str], labels: Tensor) -> Choose:
    """From logits to the classes that `explain.target` asks for, [b, t], some perhaps twice."""
    import torch

    def choose(logits: Tensor) -> Tensor:
        columns = []
        for one in wanted:
            if one == "true":
                columns.append(labels[:, None])
            elif one == "predicted":
                columns.append(logits.argmax(1, keepdim=True))
            elif one in classes:
                columns.append(torch.full_like(labels, classes.index(one))[:, None])
            else:
                columns.append(logits.topk(min(_top(one), logits.shape[1]), dim=1).indices)
        return torch.cat(columns, 1)

    return choose


def make(run: Run, folder: Path) -> None:
    trained = checkpoint.load(run.checkpoint, run.device)
    method, wanted = ready(run, trained), targets(run)
    colour = run.config["explain"]["colour"]
    count = len(run.data.ids(run.split))
    if count == 0:
        raise Problem(f"explain: the split {run.split} has no image; see data.* and explain.split")

    def work(batch: shards.Labelled) -> shards.Arrays:
        return _explained(trained, method, wanted, batch, colour)

    shards.of_images(run, folder, "explain", run.split, work)
    if ranks.world().rank > 0:
        return  # rank 0 looks at what came
    bad = set_aside_of(folder)
    if len(bad) == count:
        first = next(iter(bad.values()))
        for shard in shards.written(folder):  # the next run is to look again
            shard.unlink()
        raise Problem(f"explain: none of {count} images could be read; {first}")
    if bad:
        named = "; the report names them" if "report" in run.config["stages"] else ""
        show.line(f"explain: {len(bad)} of {count} images were set aside{named}")


def method_of(run: Run) -> SaliencyMethod:
    """The method, over the views of an image that explain.flips and explain.scales ask for."""
    flips, scales = run.config["explain"]["flips"], tuple(run.config["explain"]["scales"])
    method = run.saliency()
    if not flips and scales == (1.0,):
        return method
    from pipeline.saliency.views import Views

    return Views(method, flips, scales)


def ready(run: Run, trained: checkpoint.Checkpoint) -> SaliencyMethod:
    """The method, after its look at the training images where it wants one."""
    method = method_of(run)
    return _fitted(run, method, trained) if parts(method) else method


def _fits(run: Run) -> bool:
    return bool(parts(method_of(run)))


def _to_fit_on(run: Run) -> Split:
    """The training images; those to explain themselves where there are no others."""
    return "train" if len(run.data.ids("train")) else run.split


def _fitted(run: Run, method: SaliencyMethod, trained: checkpoint.Checkpoint) -> SaliencyMethod:
    """The method with what it learns from images and labels, kept for other runs."""
    import torch

    split = _to_fit_on(run)
    names = ("source", "checkpoint", "saliency", "fitted_on", "size", "precision")
    made = {"split": split, **{name: run.made_of("explain")[name] for name in names}}

    def learn(folder: Path) -> None:
        sums = _statistics(run, parts(method), trained, split)
        store.write_arrays(folder / STATISTICS, sums)

    where, _ = store.Store(run.outputs).obtain("statistics", made, learn)
    arrays, _ = store.read_arrays(where / STATISTICS)
    found = []
    for n, part in enumerate(parts(method)):
        own = {k: v for k, v in arrays.items() if k.startswith(f"{n}/")}
        found.append(
            part.fitted({k.partition("/")[2]: torch.from_numpy(v) for k, v in own.items()})
        )
    return with_fitted(method, found)


def _statistics(
    run: Run, every: Sequence[Fitted], trained: checkpoint.Checkpoint, split: Split
) -> shards.Arrays:
    """The sums of all batches of a split, those of the n-th part as `n/<name>`."""

    def work(batch: shards.Labelled) -> shards.Arrays:
        images = trained.tensor(shards.pixels(batch))
        labels = shards.labels_of(batch, images.device)
        return {
            f"{n}/{name}": one.cpu().numpy()
            for n, part in enumerate(every)
            for name, one in part.statistics(trained.network, images, labels).items()
        }

    count, step = len(run.data.ids(split)), shards.batch_of(run)
    pieces = [range(n, min(n + step, count)) for n in range(0, count, step)]
    flow = shards.through_network(run, split, work)
    total: shards.Arrays = {}
    with runtime.progress(f"look at {split}", count) as advance:
        for piece, (found, _) in zip(pieces, flow(iter(pieces)), strict=True):
            for name, one in found.items():
                total[name] = total[name] + one if name in total else one
            advance(len(piece))
    if not total:
        raise Problem(f"explain: no image of {split} could be read, which {run.method} looks at")
    return total


def _explained(
    trained: checkpoint.Checkpoint,
    method: SaliencyMethod,
    wanted: Sequence[str],
    batch: shards.Labelled,
    colour: bool,
) -> shards.Arrays:
    """Maps and classification of a batch, as a shard holds them."""
    images = trained.tensor(shards.pixels(batch))
    labels = shards.labels_of(batch, images.device)
    explained = method(trained.network, images, chooser(wanted, trained.classes, labels))
    probabilities = explained.logits.detach().float().softmax(1)
    best = probabilities.topk(min(TOP, probabilities.shape[1]), dim=1)
    scores = probabilities.gather(1, explained.classes).cpu().numpy()
    maps, classes = explained.maps.detach().float().cpu().numpy(), explained.classes.cpu().numpy()
    # A class that two rules name is kept once.
    first = np.array([[c not in row[:n] for n, c in enumerate(row)] for row in classes.tolist()])
    image, column = np.nonzero(first)
    values = maps[image, column]
    scale = np.abs(np.where(np.isfinite(values), values, 0)).max((1, 2))
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    positions = shards.positions_of(batch)
    sizes = np.array([example.size for _, example in batch], np.int32)
    arrays = {
        "image": positions,
        "size": sizes,
        "top": best.indices.cpu().numpy().astype(np.int32),
        "top_score": best.values.cpu().numpy().astype(np.float32),
        "row_image": positions[image],
        "row_size": sizes[image],
        "row_class": classes[image, column].astype(np.int32),
        "row_predicted": best.indices[:, 0].cpu().numpy().astype(np.int32)[image],
        "row_score": scores[image, column].astype(np.float32),
        "row_scale": scale,
        "row_map": (values / scale[:, None, None]).astype(np.float16),
    }
    if colour and explained.colour is not None:
        channels = explained.colour.detach().float().cpu().numpy()[image, column]
        channels = channels / np.abs(channels).max((1, 2, 3), keepdims=True).clip(1e-30)
        arrays["row_colour"] = channels.astype(np.float16)  # to look at: its scale is not kept
    return arrays


# -- reading what was made -----------------------------------------------------------------------


def maps_in(shard: Path, ids: Sequence[str]) -> Iterator[tuple[int, SaliencyMap]]:
    """The maps of one shard with the positions of their images."""
    arrays, _ = store.read_arrays(shard)
    for n, position in enumerate(arrays.get("row_image", ())):
        height, width = arrays["row_size"][n].tolist()
        yield (
            int(position),
            SaliencyMap(
                ids[position],
                int(arrays["row_class"][n]),
                int(arrays["row_predicted"][n]),
                float(arrays["row_score"][n]),
                arrays["row_map"][n],
                float(arrays["row_scale"][n]),
                (height, width),
            ),
        )


def colours_in(shard: Path) -> Iterator[tuple[int, int, np.ndarray]]:
    """Position, class and per-channel values [3, H, W] in [-1, 1] where a method has them."""
    arrays, _ = store.read_arrays(shard)
    for n, channels in enumerate(arrays.get("row_colour", ())):
        yield int(arrays["row_image"][n]), int(arrays["row_class"][n]), channels


@dataclass(frozen=True)
class Classification:
    """What the network took each image for, the best first."""

    image: Int32[np.ndarray, n]
    size: Int32[np.ndarray, "n 2"]
    top: Int32[np.ndarray, "n k"]
    score: Float32[np.ndarray, "n k"]


def classification(folder: Path) -> Classification:
    found = [store.read_arrays(shard)[0] for shard in shards.written(folder)]
    found = [arrays for arrays in found if arrays]
    return Classification(
        *(
            np.concatenate([a[name] for a in found])
            for name in ("image", "size", "top", "top_score")
        )
    )


def set_aside_of(folder: Path) -> dict[int, str]:
    """Positions of the images that could not be used, and why."""
    bad: dict[int, str] = {}
    for shard in shards.written(folder):
        bad.update(
            (int(position), why) for position, why in store.read_arrays(shard)[1]["set_aside"]
        )
    return bad
