"""What gradient methods share: slopes of class scores, and the precision they need.

A class score is the logit, never the softmax: the softmax of one class also grows when others
shrink (Simonyan et al. 2013, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ops.precision import full_precision
from pipeline.ops.relu_rules import InSight, Rule, bend
from pipeline.protocols import Network
from pipeline.types import ClassSelector

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Channels = Literal["abs_max", "abs_sum", "sum"]
IN_A_PASS = 16  # images, where a method asks for several versions of each


def gradients(
    logits: Float[Tensor, "b C"],
    classes: Int[Tensor, "b t"],
    of: Sequence[Tensor],
    keep: bool = False,
) -> list[Tensor]:
    """d s_c / d a for each tensor a [b, ...] of `of` and each class asked for: [b, t, ...].

    Images of a batch do not look at one another (eval mode), so one backward pass serves all of
    them. `keep` leaves the graph for another. Raises UserError where the score does not depend on a
    tensor.
    """
    columns: list[tuple[Tensor | None, ...]] = []
    count = classes.shape[1]
    for column in range(count):
        score = logits.gather(1, classes[:, column : column + 1]).sum()
        more = keep or column < count - 1
        columns.append(torch.autograd.grad(score, of, retain_graph=more, allow_unused=True))
    found = []
    for every in zip(*columns, strict=True):
        if any(one is None for one in every):
            raise UserError(
                "the class score does not depend on this layer: nothing behind reads it"
            )
        kept = [one for one in every if one is not None]
        found.append(torch.stack(kept, 1) if count > 1 else kept[0][:, None])
    return found


def gradients_at_image(
    network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
) -> tuple[Float[Tensor, "b t 3 H W"], Int[Tensor, "b t"], Float[Tensor, "b C"]]:
    """d s_c / d image of the chosen classes, in float32; the classes; the logits."""
    with full_precision(images):
        answer = network(images, at=("input",))
        logits = answer.logits.detach()
        classes = choose(logits)
        (colour,) = gradients(answer.logits, classes, [answer.activations["input"]])
    return colour, classes, logits


def modified_gradients(
    network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector, rule: Rule
) -> tuple[Float[Tensor, "b t 3 H W"], Int[Tensor, "b t"], Float[Tensor, "b C"]]:
    """Return what comes back to the image by `rule`, the chosen classes, the logits, in float32.

    Raises UserError as `bend` does.
    """
    with full_precision(images):
        with InSight():
            answer = network(images, at=("input",))
        bend(answer.logits, rule)
        logits = answer.logits.detach()
        classes = choose(logits)
        (colour,) = gradients(answer.logits, classes, [answer.activations["input"]])
    return colour, classes, logits


def total_gradients(
    network: Network,
    points: Iterable[tuple[float, Float[Tensor, "b 3 H W"]]],
    classes: Int[Tensor, "b t"],
    power: int = 1,
) -> Float[Tensor, "b t 3 H W"]:
    """The weighted sum of the slopes at `points`, or of a power of them.

    One pass of the network takes as many points as fill it, however many there are.
    """
    points = iter(points)
    total: Tensor | None = None
    count = max(1, IN_A_PASS // len(classes))
    while some := list(islice(points, count)):
        images = torch.cat([one for _, one in some])
        found, _, _ = gradients_at_image(network, images, _always(classes.repeat(len(some), 1)))
        for (weight, _), one in zip(some, found.chunk(len(some)), strict=True):
            term = weight * one**power
            total = term if total is None else total.add_(term)
    assert total is not None
    return total


def _always(classes: Tensor) -> ClassSelector:
    return lambda logits: classes


def one_channel(colour: Float[Tensor, "b t 3 H W"], channels: Channels) -> Float[Tensor, "b t H W"]:
    """R, G and B put together: the largest magnitude, the sum of magnitudes, or the signed sum."""
    if channels == "sum":
        return colour.sum(2)
    magnitudes = colour.abs()
    return magnitudes.amax(2) if channels == "abs_max" else magnitudes.sum(2)
