"""What gradient methods share: gradients of class scores, and the precision they need.

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
from pipeline.ops.relu_rules import OutOfPlaceActivations, Rule, apply_relu_rule
from pipeline.protocols import Network
from pipeline.types import ClassSelector

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Channels = Literal["abs_max", "abs_sum", "sum"]
MAX_IMAGES_PER_PASS = 16  # where a method needs several versions of each image


def compute_gradients(
    logits: Float[Tensor, "b C"],
    classes: Int[Tensor, "b t"],
    tensors: Sequence[Tensor],
    keep_graph: bool = False,
) -> list[Tensor]:
    """Compute d s_c / d a for each tensor a of `tensors` and each class asked for.

    Images of a batch do not depend on one another (eval mode), so one backward pass a class serves
    all of them.

    Args:
        logits: Class scores, with the graph that leads to `tensors`.
        classes: The classes to differentiate, for each image.
        tensors: Tensors [b, ...] of that graph.
        keep_graph: Whether the graph is kept for another backward pass.

    Returns:
        For each tensor [b, ...] its gradients [b, t, ...].

    Raises:
        UserError: If the score does not depend on one of the tensors.
    """
    columns: list[tuple[Tensor | None, ...]] = []
    count = classes.shape[1]
    for column in range(count):
        score = logits.gather(1, classes[:, column : column + 1]).sum()
        keep = keep_graph or column < count - 1
        columns.append(torch.autograd.grad(score, tensors, retain_graph=keep, allow_unused=True))
    results = []
    for gradients in zip(*columns, strict=True):
        if any(gradient is None for gradient in gradients):
            raise UserError(
                "the class score does not depend on this layer: nothing behind reads it"
            )
        known = [gradient for gradient in gradients if gradient is not None]
        results.append(torch.stack(known, 1) if count > 1 else known[0][:, None])
    return results


def compute_image_gradients(
    network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
) -> tuple[Float[Tensor, "b t 3 H W"], Int[Tensor, "b t"], Float[Tensor, "b C"]]:
    """Compute d s_c / d image of the chosen classes, in float32.

    Args:
        network: The classifier.
        images: Images as the network sees them.
        choose: Selects the classes from the logits.

    Returns:
        The gradients, the chosen classes and the logits.
    """
    with full_precision(images):
        answer = network(images, at=("input",))
        logits = answer.logits.detach()
        classes = choose(logits)
        (colour,) = compute_gradients(answer.logits, classes, [answer.activations["input"]])
    return colour, classes, logits


def compute_modified_gradients(
    network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector, rule: Rule
) -> tuple[Float[Tensor, "b t 3 H W"], Int[Tensor, "b t"], Float[Tensor, "b C"]]:
    """Propagate the score of the chosen classes back to the image by `rule`, in float32.

    Args:
        network: The classifier.
        images: Images as the network sees them.
        choose: Selects the classes from the logits.
        rule: The backward rule of all ReLUs.

    Returns:
        What arrives at the image, the chosen classes and the logits.

    Raises:
        UserError: If the network has no ReLU, or another activation than ReLU.
    """
    with full_precision(images):
        with OutOfPlaceActivations():
            answer = network(images, at=("input",))
        apply_relu_rule(answer.logits, rule)
        logits = answer.logits.detach()
        classes = choose(logits)
        (colour,) = compute_gradients(answer.logits, classes, [answer.activations["input"]])
    return colour, classes, logits


def sum_gradients(
    network: Network,
    points: Iterable[tuple[float | Tensor, Float[Tensor, "b 3 H W"]]],
    classes: Int[Tensor, "b t"],
    power: int = 1,
) -> Float[Tensor, "b t 3 H W"]:
    """Compute the weighted sum of the gradients at `points`, or of a power of them.

    A pass of the network takes at most MAX_IMAGES_PER_PASS images or one point, so memory does not
    grow with the number of points.

    Args:
        network: The classifier.
        points: At least one pair of a weight and a version of the images. A weight may be a tensor
            that broadcasts to [b, t, 3, H, W].
        classes: The classes to differentiate, for each image.
        power: Exponent of each gradient before it is weighted.

    Returns:
        sum_n weight_n (d s_c / d image at point n)^power, in float32.
    """
    points = iter(points)
    total: Tensor | None = None
    count = max(1, MAX_IMAGES_PER_PASS // len(classes))
    while chunk := list(islice(points, count)):
        images = torch.cat([point for _, point in chunk])
        choose = _always(classes.repeat(len(chunk), 1))
        gradients, _, _ = compute_image_gradients(network, images, choose)
        for (weight, _), gradient in zip(chunk, gradients.chunk(len(chunk)), strict=True):
            term = weight * gradient**power
            total = term if total is None else total.add_(term)
    assert total is not None
    return total


def _always(classes: Tensor) -> ClassSelector:
    return lambda logits: classes


def reduce_channels(
    colour: Float[Tensor, "b t 3 H W"], channels: Channels
) -> Float[Tensor, "b t H W"]:
    """Reduce R, G and B to one value for each pixel.

    Args:
        colour: A value for each channel of each pixel.
        channels: `abs_max` takes the largest magnitude, `abs_sum` the sum of magnitudes, `sum` the
            signed sum.

    Returns:
        Maps at the resolution of `colour`.
    """
    if channels == "sum":
        return colour.sum(2)
    magnitudes = colour.abs()
    return magnitudes.amax(2) if channels == "abs_max" else magnitudes.sum(2)
