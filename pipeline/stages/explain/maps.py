"""Maps and classification of a batch of images, as a shard holds them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.engine import shards
from pipeline.engine.checkpoint import Checkpoint
from pipeline.ops.probabilities import to_least_logit
from pipeline.protocols import SaliencyMethod
from pipeline.results.maps import OWN_RANGE, PROBABILITIES, SEVERAL
from pipeline.saliency.each_once import SelectorOf, explain_each_once, select_before
from pipeline.saliency.targets import class_selector, count_labels

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.types import ClassSelector

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
    is_slow: bool = False,
    backgrounds: Collection[int] = (),
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
        is_slow: whether the method needs so many passes that a further one does not count.
        backgrounds: positions of images that are known to show no class: `true` is none there.

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
    positions = shards.stack_positions(batch)
    is_background = torch.tensor([n in backgrounds for n in positions.tolist()]).to(images.device)
    least = to_least_logit(trained.network.answers, min_probability)

    def select(rows: Tensor) -> ClassSelector:
        return class_selector(
            targets, trained.classes, labels[rows], negatives, least, is_background[rows]
        )

    select_of: SelectorOf = select
    counts = count_labels(targets, labels, negatives, is_background)
    if counts is None and is_slow and least is not None:
        select_of, counts = select_before(trained.network, images, select)
    explained = explain_each_once(method, trained.network, images, select_of, counts)
    probabilities = trained.network.probabilities(explained.logits.float())
    best = probabilities.topk(min(TOP, probabilities.shape[1]), dim=1)
    if {*targets} == {"true"}:  # nothing is asked for in these
        explained = explained.take(~is_background.cpu().numpy()[explained.image])
    image, classes = explained.image, explained.classes
    values = explained.maps.float().cpu().numpy()
    scale = np.abs(np.where(np.isfinite(values), values, 0)).max((1, 2))
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
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
        "row_class": classes.astype(np.int32),
        "row_predicted": best.indices[:, 0].cpu().numpy().astype(np.int32)[image],
        "row_score": probabilities.cpu().numpy()[image, classes].astype(np.float32),
        "row_scale": scale,
        "row_map": (values / scale[:, None, None]).astype(np.float16),
    }
    if has_sets:  # its mean average precision is of all classes
        arrays[PROBABILITIES] = probabilities.cpu().numpy().astype(np.float32)
    if colour and explained.colour is not None:
        channels = explained.colour.float().cpu().numpy()
        channels = channels / np.abs(channels).max((1, 2, 3), keepdims=True).clip(1e-30)
        arrays["row_colour"] = channels.astype(np.float16)  # for pictures: its scale is not kept
    return arrays
