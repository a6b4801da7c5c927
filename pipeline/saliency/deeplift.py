"""DeepLIFT: how much of the score's difference from a baseline comes from each pixel.

    colour_c = (x - x') m_c        m = product of the multipliers of all operations on the way

    linear operation        m = its gradient
    activation f            m = (f(z) - f(z')) / (z - z'), and f'(z) where z = z'    (rescale rule)
    max pooling             the difference goes to the maxima of both images
    product u v             m_u = (v + v') / 2, m_v = (u + u') / 2

Shrikumar et al., "Learning Important Features Through Propagating Activation Differences", ICML
2017, section 3.5.2; z belongs to the image x, z' to the baseline x'. Completeness: the pixels of a
map add up to s_c(x) - s_c(x'), exactly and with one pass of each, where integrated gradients need
many. The rule of products is the Shapley value of two factors, which the paper does not need; it
keeps gates, as in squeeze-and-excitation, complete. Layer and group norm are computed step by step.

The rules hold for operations, however the network writes them, not for classes of modules. What
has no rule is refused by name, as self-attention is: its softmax is no function of one value.
Float32 always, as the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.ops.operations import (
    AVERAGES,
    MAX_POOLS,
    MOVES,
    PIECEWISE,
    SMOOTH,
    WEIGHTED,
    BackwardRules,
    Operation,
    Refusal,
    choose_operands,
    iterate_tensors,
    map_tensors,
    reads_image,
    replace_backward,
    replace_gradient,
    run_normalization,
)
from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.saliency.gradients import compute_gradients, reduce_channels
from pipeline.saliency.integrated import build_baseline
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

OTHERS = "methods for any network: gradient_times_input, integrated_gradients, gradcam, layercam"
# Smooth functions: below this difference of z from z', on a scale of 1, f' halfway between them is
# more exact in float32 than the quotient.
SMALL_DIFFERENCE = 1e-3
ROUNDING = 1e-5  # relative, between equal values that were computed differently
# Smooth functions that change on the scale of their argument.
POWERS = frozenset(("exp", "log", "pow", "reciprocal", "rsqrt", "sqrt", "square"))
LINEAR = MOVES | AVERAGES | WEIGHTED | {"add", "sub", "rsub", "neg", "negative"}
PRODUCTS = frozenset(("mul", "matmul", "bmm", "div", "rdiv"))
ACTIVATIONS = PIECEWISE | SMOOTH | POWERS


@dataclass(frozen=True)
class DeepLIFT:
    """DeepLIFT with the rescale rule, from a baseline to the image."""

    # x': the mean colour of training, each image's own, or three numbers as the network sees them
    # (black: -mean / std).
    baseline: Literal["mean", "image_mean"] | tuple[float, float, float] = "mean"  # or [R, G, B]
    channels: Literal["abs_max", "abs_sum", "sum"] = "sum"  # of R, G and B; sum is signed

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image.

        Raises:
            UserError: If the network has an operation without a rule.
        """
        start = build_baseline(images, self.baseline)
        with full_precision(images):
            # A baseline that is the same for all images runs once for all of them.
            record = _Record()
            with record:
                network(start.expand(-1, -1, *images.shape[2:]).contiguous(), at=("input",))
            rules = _Rescale(record.operations)
            with rules:
                answer = network(images, at=("input",))
            rules.check_graph(answer.logits)
            logits = answer.logits.detach()
            classes = choose(logits)
            (multipliers,) = compute_gradients(
                answer.logits, classes, [answer.activations["input"]]
            )
        colour = multipliers * (images - start)[:, None]
        return Explanation(reduce_channels(colour, self.channels), classes, logits, colour)


class _Record(BackwardRules):
    """Run the baseline, and keep what operations with a rule read."""

    def __init__(self) -> None:
        super().__init__("deeplift", OTHERS)
        self.operations: list[Operation] = []

    def run_operation(self, operation: Operation) -> Any:
        if operation.name in ("layer_norm", "group_norm"):
            with self:
                return run_normalization(operation, constant_scale=False)
        if _needs_reference(operation):
            # Copies, as the network may overwrite what it has read.
            args = map_tensors(lambda tensor: tensor.detach().clone(), operation.args)
            kept = Operation(operation.name, operation.run, args, operation.kwargs)
            self.operations.append(kept)
        return operation()


class _Rescale(BackwardRules):
    """Run the images with multipliers in the place of gradients."""

    def __init__(self, references: list[Operation]) -> None:
        super().__init__("deeplift", OTHERS)
        self._references: Iterator[Operation] = iter(references)

    def keeps_in_place(self, operation: Operation) -> bool:
        return not _needs_reference(operation) and operation.name in LINEAR

    def run_operation(self, operation: Operation) -> Any:
        if operation.name in ("layer_norm", "group_norm"):
            with self:
                return run_normalization(operation, constant_scale=False)
        if not _needs_reference(operation):
            return operation()
        reference = self._take_reference(operation)
        if operation.name in MAX_POOLS:
            return _pool(operation, reference)
        if operation.name in PRODUCTS:
            return _multiply(operation, reference)
        return _rescale(operation, reference)

    def _take_reference(self, operation: Operation) -> Operation:
        """Return the same operation of the baseline."""
        reference = next(self._references, None)
        shapes = [
            None
            if called is None
            else [tensor.shape[1:] for tensor in iterate_tensors(called.args)]
            for called in (operation, reference)
        ]
        if reference is None or reference.name != operation.name or shapes[0] != shapes[1]:
            raise Refusal(
                "runs other operations for the image than for the baseline, so that they cannot "
                f"be compared, at {operation.name}"
            )
        return reference


def _needs_reference(operation: Operation) -> bool:
    """Return whether the multiplier is not the gradient.

    Raises:
        Refusal: there is no rule for the operation.
    """
    name = operation.name
    if name in PRODUCTS:
        first, second = choose_operands(operation)
        return (first and second) or (name == "div" and second) or name == "rdiv"
    if name in WEIGHTED and reads_image(operation.argument(1, "weight")):
        raise Refusal(f"computes the weights of {name} from the image, which has no rule")
    if name == "batch_norm" and operation.argument(5, "training", False):
        raise Refusal("normalizes by the batch itself, which has no rule")
    if name in ACTIVATIONS or name in MAX_POOLS:
        if operation.reads_several:
            raise Refusal(f"has {name} with a second operand that reads the image, without a rule")
        return True
    if name in LINEAR or name == "batch_norm":
        return False
    if name in ("scaled_dot_product_attention", "multi_head_attention_forward", "softmax"):
        raise Refusal(f"has attention or another softmax, {name}, which the rescale rule lacks")
    raise Refusal(f"has an operation that DeepLIFT has no rule for, {name}")


def _rescale(operation: Operation, reference: Operation) -> Tensor:
    """Compute an activation whose multiplier is its slope between the image and the baseline."""
    x, start = operation.args[0].detach(), reference.args[0]
    value = operation.apply(x)
    difference = x - start
    multiplier = (value - operation.apply(start)).div_(difference)
    if operation.name in PIECEWISE:
        close = difference == 0
    else:
        scale = torch.maximum(x.abs(), start.abs()) if operation.name in POWERS else 1.0
        close = difference.abs() < SMALL_DIFFERENCE * scale
    if operation.name == "relu":
        multiplier = torch.where(close, (x > 0).to(x.dtype), multiplier)
    elif not x.is_meta and bool(close.any()):
        halfway = (x + start) / 2
        # A slope for each channel, as PReLU has it, needs the whole tensor.
        whole = operation.name == "prelu"
        slopes = _differentiate(operation, halfway if whole else halfway[close])
        multiplier[close] = slopes[close] if whole else slopes
    return replace_gradient(value, (operation.args[0], multiplier))


def _differentiate(operation: Operation, points: Tensor) -> Tensor:
    """Compute f' of an activation."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(operation.apply(points).sum(), points)
    return slopes


def _multiply(operation: Operation, reference: Operation) -> Tensor:
    """Compute a product or quotient of which each operand gets the mean of the other's values."""
    name, (u, v) = operation.name, operation.args[:2]
    value = operation.run(*(t.detach() if isinstance(t, Tensor) else t for t in (u, v)))
    u_start, v_start = reference.args[:2]
    if name in ("div", "rdiv"):
        u, v, u_start, v_start = (
            (u, v, u_start, v_start) if name == "div" else (v, u, v_start, u_start)
        )
        # u / v is the product of u and 1 / v, whose multiplier is -1 / (v v').
        inverse = _invert(v, v_start)
        v, v_start, run = inverse, 1 / v_start, torch.mul
    else:
        run = operation.run
    terms = []
    for moving, other, other_start, is_first in ((u, v, v_start, True), (v, u, u_start, False)):
        if reads_image(moving):
            mean = (_as_constant(other) + other_start) / 2
            terms.append((run(moving, mean) if is_first else run(mean, moving), 1))
    return replace_gradient(value, *terms)


def _invert(v: Tensor, start: Tensor) -> Tensor:
    plain = v.detach()
    return replace_gradient(1 / plain, (v, -1 / (plain * start)))


def _as_constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _pool(operation: Operation, reference: Operation) -> Tensor:
    """Compute max pooling: the difference of the maxima belongs to where they are."""
    pool = getattr(F, operation.name)
    names: tuple[str, ...] = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    if operation.name.startswith("adaptive"):
        names = ("output_size",)
    options = {**dict(zip(names, operation.args[1:], strict=False)), **operation.kwargs}
    options["return_indices"] = True
    start = reference.args[0]
    pooled = pool(operation.args[0].detach(), **options)
    return _split_maxima(operation.args[0], start, pooled, pool(start, **options))


Pooled = tuple[Tensor, Tensor]


def _split_maxima(x: Tensor, start: Tensor, pooled: Pooled, pooled_start: Pooled) -> Tensor:
    """Return the maxima y of the image, with DeepLIFT's multipliers.

    y - y' is split at M = max(y, y'): M - y' belongs to the maximum of the image, y - M to that of
    the baseline. A baseline of one colour has equal maxima: of these it is the one where the image
    has its maximum, as rounding would choose otherwise.

    Args:
        x: the image's values, with their graph.
        start: those of the baseline.
        pooled: the maxima and their positions in `x`.
        pooled_start: the same in `start`.
    """
    (value, at), (value_start, at_start) = pooled, pooled_start
    plain, shape = x.detach(), x.shape
    largest = torch.maximum(value, value_start)
    there = _gather(start.expand_as(plain), at)
    equal = there >= value_start - ROUNDING * value_start.abs()
    at_start = torch.where(equal, at, at_start)
    # By how much the value at each of the two positions differs.
    risen = value - there
    fallen = _gather(plain, at_start) - value_start
    same = ((risen == 0) & (value == value_start)).to(value.dtype)
    first = torch.where(risen == 0, same, (largest - value_start) / risen)
    second = torch.where(fallen == 0, 0, (value - largest) / fallen)

    def propagate(signal: Tensor) -> list[Tensor]:
        result = signal.new_zeros(shape).flatten(2)
        result.scatter_add_(2, at.flatten(2), (signal * first).flatten(2))
        result.scatter_add_(2, at_start.flatten(2), (signal * second).flatten(2))
        return [result.view(shape)]

    return replace_backward(value, propagate, x)


def _gather(values: Tensor, at: Tensor) -> Tensor:
    """Return the values at positions of their maps."""
    return values.flatten(2).gather(2, at.flatten(2)).view(at.shape)
