"""Maps and classification of a batch of images, as a shard holds them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from pipeline.engine import shards
from pipeline.engine.checkpoint import Checkpoint
from pipeline.ops.probabilities import to_least_logit
from pipeline.protocols import SaliencyMethod
from pipeline.results.maps import OWN_RANGE, PROBABILITIES, SEVERAL
from pipeline.saliency.targets import class_selector

TOP = 5  # most probable classes that are kept


def explain_batch(
    trained: Checkpoint,
    method: SaliencyMethod,
    targets: Sequence[str],
    batch: shards.PositionedExamples,
    colour: bool,
    negatives: Collection[int] = (),
    *,
    has_sets: bool = False,
    min_probability: float = 0.5,
) -> shards.Arrays:
    """Compute maps and classification of a batch.

    Args:
        trained: the network.
        method: fitted, if it needs fitting.
        targets: rules and class names (see `parse_targets`).
        batch: examples with their positions.
        colour: whether gradients in red, green and blue are kept, too.
        negatives: classes without an object, which no rule selects.
        has_sets: whether an image may have several labels, all of which are `true`.
        min_probability: of a class that is predicted, where classes do not exclude each other.

    Returns:
        For each image: `image` (position), `size` (height, width), `several` (whether its file has
        further pages or frames), `own_range` (whether it is scaled from a range of its own), `top`
        and `top_score`; with `has_sets` `probabilities` [n, C]. For each map: `row_image`,
        `row_size`, `row_class`, `row_predicted`, `row_score`, and `row_map` float16 [rows, h, w],
        whose raw values are row_map * row_scale; `row_colour` [rows, 3, h, w] where it is kept.
    """
    images = trained.tensor(shards.stack_pixels(batch))
    count = len(trained.classes)
    labels = (
        shards.stack_label_sets(batch, count, images.device)
        if has_sets
        else shards.stack_labels(batch, images.device)
    )
    least = to_least_logit(trained.network.answers, min_probability)
    choose = class_selector(targets, trained.classes, labels, negatives, least)
    explained = method(trained.network, images, choose)
    probabilities = trained.network.probabilities(explained.logits.detach().float())
    best = probabilities.topk(min(TOP, probabilities.shape[1]), dim=1)
    scores = probabilities.gather(1, explained.classes).cpu().numpy()
    maps, classes = explained.maps.detach().float().cpu().numpy(), explained.classes.cpu().numpy()
    # A class that two rules name is kept once.
    is_first = np.array([[c not in row[:n] for n, c in enumerate(row)] for row in classes.tolist()])
    image, column = np.nonzero(is_first)
    values = maps[image, column]
    scale = np.abs(np.where(np.isfinite(values), values, 0)).max((1, 2))
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    positions = shards.stack_positions(batch)
    sizes = np.array([example.size for _, example in batch], np.int32)
    arrays = {
        "image": positions,
        "size": sizes,
        SEVERAL: np.array([example.is_first_of_several for _, example in batch]),
        OWN_RANGE: np.array([example.has_own_range for _, example in batch]),
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
    if has_sets:  # its mean average precision is of all classes
        arrays[PROBABILITIES] = probabilities.cpu().numpy().astype(np.float32)
    if colour and explained.colour is not None:
        channels = explained.colour.detach().float().cpu().numpy()[image, column]
        channels = channels / np.abs(channels).max((1, 2, 3), keepdims=True).clip(1e-30)
        arrays["row_colour"] = channels.astype(np.float16)  # for pictures: its scale is not kept
    return arrays
