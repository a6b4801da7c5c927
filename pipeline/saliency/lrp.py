"""Layer-wise relevance propagation: the score, passed back layer by layer to the pixels.

    R_j = sum_k x_j w_jk / (z_k + epsilon sign z_k) R_k                                   epsilon
    R_j = sum_k x_j (w_jk + gamma w_jk+) / sum_i x_i (w_ik + gamma w_ik+) R_k             gamma
    R_j = sum_k (x_j w_jk - l w_jk+ - h w_jk-) / sum_i (x_i w_ik - l w_ik+ - h w_ik-) R_k    z^B
    R_j = sum_k 1 / sum_i 1 R_k                                                           flat

Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
Propagation", PLOS ONE 2015; Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019.
`rule=composite` is their recommendation: z^B or flat where the image is read, gamma in convolutions
above, epsilon in linear layers. The score is the logit, and R its parts: without biases and with
epsilon = 0 they add up to it; what biases add is theirs.

gamma is formulated for x and z that are not negative. Elsewhere it is generalized as usual: where
z_k > 0 the positive products x_j w_jk are enlarged, where z_k < 0 the negative ones, so that the
sum that is divided by is never smaller than z_k. Biases are enlarged alike.

Batch norm behind a convolution or linear layer is folded into its weights (the canonical form);
elsewhere, as before the convolutions of DenseNet, it is a linear layer with one input. Activations
pass R on; sums and averages divide it by contribution; max pooling gives it to the maximum. In a
product with a gate (sigmoid), R goes to what is scaled; between two other values it is halved. The
deviation of layer norm, and a softmax, and so attention, count as constants (Ali et al., "XAI for
Transformers", ICML 2022). Float32 always, as the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.ops.operations import (
    AVERAGES,
    Operation,
    Refusal,
    replace_backward,
    replace_gradient,
    run_normalization,
)
from pipeline.ops.precision import full_precision
from pipeline.ops.relevance import RelevanceRules, WeightedLayer, divide_safely, port, split_signs
from pipeline.protocols import Network
from pipeline.saliency.gradients import compute_gradients, reduce_channels
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

OTHERS = "methods for any network: gradient_times_input, integrated_gradients, gradcam, layercam"
Bounds = tuple[float, float, float]
# Activations that are 0 at 0, whatever their arguments.
FIXED_AT_ZERO = frozenset((
    "abs", "celu", "elu", "erf", "gelu", "hardshrink", "hardswish", "leaky_relu", "mish", "prelu",
    "relu", "relu6", "rrelu", "selu", "silu", "softshrink", "softsign", "tanh", "tanhshrink",
))  # fmt: skip
SMALLEST_INPUT = 1e-6  # that an activation which is not 0 at 0 passes relevance to undamped


@dataclass(frozen=True)
class LRP:
    """Layer-wise relevance propagation to the pixels."""

    rule: Literal["epsilon", "gamma", "composite"] = "composite"
    epsilon: float = 1e-6  # absorbs the relevance of outputs that are not much larger
    gamma: float = 0.25  # how much positive contributions are favoured
    # Of the layer that reads the image; auto: zb for composite, else the rule of all layers.
    first: Literal["auto", "zb", "flat", "rule"] = "auto"
    low: Bounds | None = None  # of R, G, B as the network sees them, for zb: black is -mean / std;
    high: Bounds | None = None  # white (1 - mean) / std. None: the range of each image
    channels: Literal["abs_max", "abs_sum", "sum"] = "sum"  # of R, G and B; sum is signed

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("gamma", self.gamma)):
            if value < 0:
                raise UserError(f"saliency.{name}={value}: expected 0 or more")
        if (self.low is None) != (self.high is None):
            raise UserError("saliency.low and saliency.high: expected both, or neither")

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image.

        Raises:
            UserError: If the network has an operation without a rule.
        """
        with full_precision(images):
            rules = _Propagation(self)
            with rules:
                answer = network(images, at=("input",))
            scores = rules.resolve(answer.logits)
            rules.check_graph(scores)
            logits = answer.logits.detach()
            classes = choose(logits)
            (colour,) = compute_gradients(scores, classes, [answer.activations["input"]])
        return Explanation(reduce_channels(colour, self.channels), classes, logits, colour)


class _Propagation(RelevanceRules):
    """The rules of LRP."""

    def __init__(self, options: LRP) -> None:
        first = options.first
        if first == "auto":
            first = "zb" if options.rule == "composite" else "rule"
        super().__init__("lrp", OTHERS, first_is_special=first in ("zb", "flat"))
        self._options = options
        self._first = first

    def keeps_in_place(self, operation: Operation) -> bool:
        # The gradients of ReLU and of sums are the rules themselves.
        return operation.name in ("relu", "add", "sub") and self.is_plain(operation)

    def run_layer(self, layer: WeightedLayer, plain: Tensor) -> Tensor:
        rule = self._options.rule
        if rule == "composite":
            rule = "epsilon" if layer.name == "linear" else "gamma"
        if rule == "gamma":
            return propagate_gamma(layer, plain, self._options.gamma)
        return propagate_epsilon(plain, self._options.epsilon)

    def run_first(self, layer: WeightedLayer, value: Tensor) -> Tensor:
        if self._first == "flat":
            return propagate_flat(layer, value)
        return propagate_zb(layer, value, *self._find_bounds(layer.x.detach()))

    def _find_bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest values that pixels can have, in the shape of x."""
        low, high = self._options.low, self._options.high
        if low is None or high is None:
            dims = list(range(2 if x.ndim == 4 else 1, x.ndim))
            bounds = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
        else:
            if x.ndim != 4 or x.shape[1] != 3:
                raise Refusal("reads no image of 3 channels, as low= and high= take it")
            shape = (1, 3, 1, 1)
            bounds = x.new_tensor(low).view(shape), x.new_tensor(high).view(shape)
            outside = (x < bounds[0]) | (x > bounds[1])
            if not x.is_meta and bool(outside.any()):
                raise UserError(
                    f"saliency.low={low} saliency.high={high}: an image has values from "
                    f"{float(x.min()):.4g} to {float(x.max()):.4g}; expected bounds of all"
                )
        return bounds[0].expand_as(x), bounds[1].expand_as(x)

    def run_batch_norm(self, operation: Operation) -> Tensor:
        return propagate_epsilon(self.see(operation()), self._options.epsilon)

    def run_activation(self, operation: Operation) -> Tensor:
        name, x = operation.name, operation.args[0]
        if name == "relu":
            result: Tensor = operation()
            return result
        if operation.reads_several:
            raise Refusal(f"has {name} with a second operand that reads the image, without a rule")
        values = x.detach()
        value = operation.apply(values)
        if name in FIXED_AT_ZERO or x.is_meta or _is_zero_at_zero(operation):
            return replace_gradient(value, (x, divide_safely(value, values)))
        limit = torch.where(values < 0, -SMALLEST_INPUT, SMALLEST_INPUT)
        return replace_gradient(value, (x, value / (values + limit)))

    def run_product(self, operation: Operation, u: Tensor, v: Tensor) -> Tensor:
        value = operation.run(u.detach(), v.detach())
        halves = (operation.run(u, v.detach()), 0.5), (operation.run(u.detach(), v), 0.5)
        return replace_gradient(value, *halves)

    def run_other(self, operation: Operation) -> Any:
        name = operation.name
        if name in AVERAGES or name in ("add", "sub", "rsub", "neg", "negative"):
            return operation()
        if name in ("layer_norm", "group_norm"):
            with self:
                return run_normalization(operation, constant_scale=True)
        if name in ("div", "softmax", "scaled_dot_product_attention",
                    "multi_head_attention_forward"):  # fmt: skip
            return _run_with_constants(operation)
        raise Refusal(f"has an operation that LRP has no rule for, {name}")


def propagate_epsilon(plain: Tensor, epsilon: float) -> Tensor:
    """Return z with the graph of the epsilon rule: signals times z / (z + epsilon sign z).

    Args:
        plain: z, with autograd's graph.
        epsilon: is added to the magnitude of z.
    """
    if epsilon == 0:
        return plain
    size = plain.detach().abs()
    return replace_gradient(plain, (plain, size / (size + epsilon)))


def propagate_gamma(layer: WeightedLayer, plain: Tensor, gamma: float) -> Tensor:
    """Return z with the graph of the gamma rule.

    With p the sum of the positive products, n that of the negative ones and y = p + n, signals go
    through y + gamma p where z > 0, and through y + gamma n = (2 + gamma) y - (y + gamma p) where
    z < 0. There usually is no signal there, behind a ReLU; then the second branch is not computed.

    A factor of all weights of a layer cancels out. So that one pass over the weights makes them,
    y + gamma p is computed divided by 1 + gamma: positive weights as they are, negative ones less.

    Args:
        layer: a convolution or linear layer.
        plain: z, with autograd's graph.
        gamma: how much products of the sign of z are enlarged.
    """
    z, bias = plain.detach(), layer.bias
    positive, negative = split_signs(layer.x)
    # With the enlarged bias, which takes no part in gradients.
    enlarged = layer.combine(
        positive, _favour(layer.weight, gamma), None if bias is None else _favour(bias, gamma)
    )
    if negative is not None:
        enlarged = enlarged + layer.combine(negative, -_favour(-layer.weight, gamma))
    factor, is_below = divide_safely(z, enlarged.detach()), z < 0

    def propagate(signal: Tensor) -> list[Tensor | None]:
        against = signal.where(is_below, 0)
        if not bool(against.any()):
            return [signal * factor, None]
        # z / (z + gamma (n + bias-)), from z / (z + gamma (p + bias+)) and without cancellation.
        inverse = divide_safely(factor.new_ones(()), factor)
        against = against / ((2 + gamma) - (1 + gamma) * inverse)
        towards = (signal * factor).masked_fill_(is_below, 0)
        return [towards - (1 + gamma) * against, (2 + gamma) * against]

    return replace_backward(z, propagate, enlarged, plain)


def _favour(values: Tensor, gamma: float) -> Tensor:
    """Return positive values as they are, and negative ones divided by 1 + gamma."""
    return F.leaky_relu(values, 1 / (1 + gamma))


def propagate_zb(layer: WeightedLayer, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return z with the graph of the z^B rule.

    Args:
        layer: reads the image.
        value: z.
        low: the lowest values that pixels can have, in the shape of the image.
        high: the highest.
    """
    x, weight = layer.x, layer.weight
    sums = (
        layer.combine(port(x, x.detach()), weight)
        - layer.combine(port(x, low), weight.clamp(min=0))
        - layer.combine(port(x, high), weight.clamp(max=0))
    )
    return replace_gradient(value, (sums, divide_safely(value, sums.detach())))


def propagate_flat(layer: WeightedLayer, value: Tensor) -> Tensor:
    """Return z with the graph of the flat rule: all pixels that z reads get the same.

    Args:
        layer: reads the image.
        value: z.
    """
    ones = torch.ones_like(layer.x)
    counts = layer.combine(port(layer.x, ones), torch.ones_like(layer.weight))
    return replace_gradient(value, (counts, value / counts.detach()))


def _is_zero_at_zero(operation: Operation) -> bool:
    zeros = torch.zeros_like(operation.args[0][:1])
    return not bool(operation.apply(zeros).any())


def _run_with_constants(operation: Operation) -> Any:
    """Run a quotient with a constant denominator, or attention with constant weights."""
    name, args = operation.name, list(operation.args)
    if name == "softmax":
        return operation().detach()
    positions = (1,) if name == "div" else (0, 1)  # the denominator; query and key
    for position in positions:
        if isinstance(args[position], Tensor):
            args[position] = args[position].detach()
    return operation.run(*args, **operation.kwargs)
