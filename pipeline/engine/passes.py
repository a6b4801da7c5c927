"""Pieces of slow methods: fewer images at once where each needs many forward passes.

A killed run loses the pieces that it is computing. How many passes an image needs is counted on
one, so the pieces are the same in each run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.engine import shards
from pipeline.engine.checkpoint import Checkpoint
from pipeline.engine.compute import Compute, batch_size
from pipeline.engine.images import SplitImages
from pipeline.protocols import SaliencyMethod
from pipeline.types import Example

if TYPE_CHECKING:
    from torch import Tensor

PASSES = 32  # for an image, up to which a piece has as many images as a forward pass
SLOW = 8  # passes for an image, from which on a further one does not count
MAX_UNREAD = 10  # images, after which none is looked for that can be read


class _Enough(Exception):
    """The method needs so many passes that the exact number does not matter."""


def limit_batch(
    compute: Compute, method: SaliencyMethod, trained: Checkpoint, images: SplitImages
) -> Compute:
    """Return how to compute maps: with fewer images at once where the method is slow.

    Args:
        compute: how anything is computed.
        method: it.
        trained: the network that it explains.
        images: of which one is explained.
    """
    return fit_batch(compute, count_passes_of_first(compute, method, trained, images))


def fit_batch(compute: Compute, passes: float) -> Compute:
    """Return how to compute maps, with fewer images at once where a method needs many passes.

    Args:
        compute: how anything is computed.
        passes: that an image needs.
    """
    most = PASSES * batch_size(None, compute.device)
    return replace(compute, batch=max(1, min(compute.batch, int(most / passes))))


def count_passes_of_first(
    compute: Compute, method: SaliencyMethod, trained: Checkpoint, images: SplitImages
) -> float:
    """Count the forward passes that a method needs of the first image that can be read.

    Args:
        compute: how anything is computed.
        method: it.
        trained: the network that it explains.
        images: of which one is explained; 1 pass where none of the first can be read.
    """
    first = (images.read(n, images.size) for n in range(min(len(images), MAX_UNREAD)))
    example = next((result for result in first if isinstance(result, Example)), None)
    if example is None:
        return 1.0
    most = PASSES * batch_size(None, compute.device)
    with compute.autocast():
        return count_passes(method, trained, example, most)


def count_passes(method: SaliencyMethod, trained: Checkpoint, example: Example, most: int) -> float:
    """Return how many forward passes of a whole image a method needs; `most` where it needs more.

    Args:
        method: it.
        trained: the network that it explains.
        example: the image, at the network's size.
        most: where counting ends.
    """
    image = trained.tensor(shards.stack_pixels([(0, example)]))
    passes = 0.0

    def count(network: Any, inputs: tuple[Tensor, ...]) -> None:
        nonlocal passes
        passes += inputs[0].numel() / image.numel()
        if passes >= most:
            raise _Enough

    hook = trained.network.register_forward_pre_hook(count)
    try:
        method(trained.network, image, lambda logits: logits.argmax(1, keepdim=True))
    except _Enough:
        return most
    finally:
        hook.remove()
    return max(passes, 1.0)
