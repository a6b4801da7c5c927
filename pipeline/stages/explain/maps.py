"""Explain: where the classifier looked, for the classes asked for, and what it took each image for.

The maps of all classes of an image and its classification are kept, in shards, so that nothing
later runs the network again. A method that first looks at the training images (DDT) gets them with
their labels, and what it made of them is kept as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.engine import checkpoint, ranks, shards, terminal
from pipeline.engine.methods import (
    parse_targets,
    prepare_method,
)
from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.protocols import SaliencyMethod
from pipeline.results.maps import load_skipped
from pipeline.results.shards import list_shards
from pipeline.saliency.targets import class_selector

TOP = 5


def make_maps(run: Run, folder: Path) -> None:
    trained = checkpoint.load(run.checkpoint, run.device)
    method, wanted = prepare_method(run, trained), parse_targets(run)
    colour = run.config["explain"]["colour"]
    count = len(run.data.ids(run.split))
    if count == 0:
        raise UserError(
            f"explain: the split {run.split} has no image; see data.* and explain.split"
        )

    def work(batch: shards.PositionedExamples) -> shards.Arrays:
        return _explained(trained, method, wanted, batch, colour)

    shards.write_image_shards(run, folder, "explain", run.split, work)
    if ranks.current_world().rank > 0:
        return  # rank 0 looks at what came
    bad = load_skipped(folder)
    if len(bad) == count:
        first = next(iter(bad.values()))
        for shard in list_shards(folder):  # the next run is to look again
            shard.unlink()
        raise UserError(f"explain: none of {count} images could be read; {first}")
    if bad:
        named = "; the report names them" if "report" in run.config["stages"] else ""
        terminal.print_line(f"explain: {len(bad)} of {count} images were set aside{named}")


def _explained(
    trained: checkpoint.Checkpoint,
    method: SaliencyMethod,
    wanted: Sequence[str],
    batch: shards.PositionedExamples,
    colour: bool,
) -> shards.Arrays:
    """Maps and classification of a batch, as a shard holds them."""
    images = trained.tensor(shards.stack_pixels(batch))
    labels = shards.stack_labels(batch, images.device)
    explained = method(trained.network, images, class_selector(wanted, trained.classes, labels))
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
    positions = shards.stack_positions(batch)
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
