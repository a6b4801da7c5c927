"""Explain: where the classifier looked, for the classes asked for, and what it took each image for.

One forward pass an image gives the maps of all its classes and its classification; both are kept,
in shards, so that nothing later runs the network again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import checkpoint, shards, show, store
from pipeline.records import Choose, Problem, SaliencyMap, SaliencyMethod, near
from pipeline.run import Run

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32
    from torch import Tensor

TOP = 5


def made_of(run: Run) -> dict[str, Any]:
    return {
        "source": run.sources("explain", "data", "saliency"),
        "checkpoint": checkpoint.fingerprint(run.checkpoint),
        "saliency": run.methods[run.method],
        "target": targets(run),
        "split": run.split,
        "data": run.data.fingerprint(run.split),
        "size": run.size,
        "precision": run.precision,
    }


def check(run: Run) -> None:
    """Raises Problem for a target that this data set cannot have."""
    targets(run)


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
    method, wanted = run.saliency(), targets(run)
    count = len(run.data.ids(run.split))
    if count == 0:
        raise Problem(f"explain: the split {run.split} has no image; see data.* and explain.split")
    shards.over(
        folder,
        "explain",
        count,
        run.config["runtime"]["shard"],
        shards.batch_of(run),
        shards.through_network(run, run.split, lambda b: _explained(trained, method, wanted, b)),
        shards.concatenated,
    )
    bad = set_aside_of(folder)
    if len(bad) == count:
        first = next(iter(bad.values()))
        for shard in shards.written(folder):  # the next run is to look again
            shard.unlink()
        raise Problem(f"explain: none of {count} images could be read; {first}")
    if bad:
        show.line(f"explain: {len(bad)} of {count} images were set aside; the report names them")


def _explained(
    trained: checkpoint.Checkpoint,
    method: SaliencyMethod,
    wanted: Sequence[str],
    batch: shards.Labelled,
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
    return {
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
