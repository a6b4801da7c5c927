"""Excitation backpropagation: winners are drawn from the class down, along positive weights.

    p_j = sum_k P(j | k) p_k        P(j | k) = x_j w_jk+ / sum_i x_i w_ik+

Zhang et al., "Top-Down Neural Attention by Excitation Backprop", ECCV 2016 and IJCV 2018: p is the
marginal winning probability, 1 at the class, and the map its sum over the channels of a layer. x is
not negative, and biases take no part. Probabilities of a map add up to 1, unless a winner has no
positive input, and then to less. At what a GAP head reads it is CAM with positive weights, divided
by its sum.

`contrastive=true` subtracts the map of the dual of the class, whose weights are the negative ones
of the last layer, and keeps what is positive: it is specific to the class, and the plain map
hardly is. The paper shows pool4 of VGG, hence `layer=below`. At `layer=input`, x is the difference
of a pixel from the least value of its channel in the image, as the paper shifts neurons that have a
lower bound.

Batch norm behind a convolution or linear layer is folded into its weights. Other operations with
one input pass p on; max pooling does to the maximum; sums, concatenations and averages to what is
positive in them, by contribution; products with a gate (sigmoid) to what is scaled. Values that are
negative without a ReLU behind them, as in MobileNetV2's bottlenecks, win nothing. A network with
another activation than ReLU, ReLU6 and gates is refused: its values are no rates of firing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ops.operations import (
    AVERAGES,
    Operation,
    Refusal,
    choose_operands,
    replace_gradient,
)
from pipeline.ops.precision import full_precision
from pipeline.ops.relevance import (
    GATES,
    RelevanceRules,
    WeightedLayer,
    divide_safely,
    port,
    split_signs,
)
from pipeline.protocols import Network
from pipeline.saliency.fused import check_layer
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

OTHERS = "methods for any network: gradient, integrated_gradients, lrp, gradcam, layercam"


@dataclass(frozen=True)
class ExcitationBackprop:
    """Excitation backpropagation to a layer, for networks whose activations are ReLU."""

    layer: str = "below"  # where the map is; last, input, or by name
    contrastive: bool = False  # subtract the map of the dual class

    def __post_init__(self) -> None:
        check_layer(self.layer)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the layer, never negative.

        Raises:
            UserError: If the network has an operation without a rule, or no such layer.
        """
        with full_precision(images):
            rules = _Winners(from_image=self.layer == "input")
            with rules:
                answer = network(images, at=(self.layer,))
            start = answer.activations[self.layer]
            scores = rules.resolve(answer.logits)
            rules.check_graph(scores)
            logits = answer.logits.detach()
            classes = choose(logits)
            top = _find_top(rules, self.contrastive)
            columns = [self._propagate(scores, top, start, column) for column in classes.T]
        values = torch.stack(columns, 1)
        if self.layer != "input":
            values = values * start.detach().clamp(min=0)[:, None]
        maps = values.sum(2)
        return Explanation(maps.clamp(min=0) if self.contrastive else maps, classes, logits)

    def _propagate(
        self,
        scores: Float[Tensor, "b C"],
        top: _Top,
        start: Float[Tensor, "b K h w"],
        column: Int[Tensor, "b"],
    ) -> Float[Tensor, "b K h w"]:
        """Compute p / x at a layer; p at the image."""
        chosen = scores.gather(1, column[:, None]).sum()
        (signal,) = torch.autograd.grad(chosen, top.result, retain_graph=True)
        winners = signal * top.result.detach().clamp(min=0) if top.result.ndim > 2 else signal
        total = winners.flatten(1).sum(1).view(-1, *[1] * (winners.ndim - 1))
        winners = divide_safely(winners, total)
        signs = (1.0, -1.0)
        signals = [
            sign * divide_safely(winners, values.detach())
            for sign, values in zip(signs, top.sums, strict=False)
        ]
        (values,) = torch.autograd.grad(top.sums, start, signals, retain_graph=True)
        return values


@dataclass
class _Top:
    """The last convolution or linear layer, where winners are drawn first.

    Attributes:
        result: what it computes, with the graph that leads to the scores.
        sums: of inputs times positive weights, with the graph to the inputs; of the dual, with
            the negative weights, where it is subtracted.
    """

    result: Tensor
    sums: list[Tensor]


def _find_top(rules: _Winners, with_dual: bool) -> _Top:
    if rules.top is None:
        raise UserError(
            "saliency=excitation_backprop: there is no convolution or linear layer between the "
            "layer and the score; choose layer=below, or an earlier one"
        )
    layer, result = rules.top
    values, weight = _read_values(layer, rules.is_pixels(layer.x)), layer.weight
    sums = [layer.combine(values, weight.clamp(min=0))]
    if with_dual:
        sums.append(layer.combine(values, -weight.clamp(max=0)))
    return _Top(rules.resolve(result), sums)


class _Winners(RelevanceRules):
    """The rules of excitation backpropagation."""

    def __init__(self, from_image: bool) -> None:
        super().__init__("excitation_backprop", OTHERS, from_image)

    def keeps_in_place(self, operation: Operation) -> bool:
        return operation.name == "relu" and self.is_plain(operation)

    def run_layer(self, layer: WeightedLayer, plain: Tensor) -> Tensor:
        return _excite(layer, plain.detach(), _read_values(layer, is_first=False))

    def run_first(self, layer: WeightedLayer, value: Tensor) -> Tensor:
        return _excite(layer, value, _read_values(layer, is_first=True))

    def run_batch_norm(self, operation: Operation) -> Tensor:
        return _pass_on(operation, operation.args[0])

    def run_activation(self, operation: Operation) -> Tensor:
        name, x = operation.name, operation.args[0]
        if name == "relu":
            result: Tensor = operation()
            return result
        if name not in GATES and not _is_relu(operation):
            raise Refusal(f"has another activation than ReLU, {name}")
        return _pass_on(operation, x)

    def run_product(self, operation: Operation, u: Tensor, v: Tensor) -> Tensor:
        raise Refusal("multiplies values of which none is a gate, as attention does")

    def run_other(self, operation: Operation) -> Any:
        name = operation.name
        if name in AVERAGES:
            return _share(operation)
        if name == "add" and all(choose_operands(operation)):
            return _add(operation)
        if name in ("add", "sub", "div") and choose_operands(operation) == (True, False):
            return _pass_on(operation, operation.args[0])
        raise Refusal(f"has an operation that excitation backprop has no rule for, {name}")


def _is_relu(operation: Operation) -> bool:
    """Return whether an activation is ReLU or ReLU6, by what it computes: clamp(min=0) is."""
    if operation.name not in ("relu6", "hardtanh", "clamp", "clamp_min", "threshold"):
        return False
    if any(
        isinstance(bound, Tensor) for bound in (*operation.args[1:], *operation.kwargs.values())
    ):
        return False
    probe = torch.tensor([-1.0, -1e-3, 0.0, 1e-3], device="cpu")  # x may be on the meta device
    return torch.equal(operation.apply(probe), probe.clamp(min=0))


def _read_values(layer: WeightedLayer, is_first: bool) -> Tensor:
    """Return what a layer reads, as values that are not negative."""
    if not is_first:
        return split_signs(layer.x)[0]
    x = layer.x.detach()
    dims = list(range(2 if x.ndim == 4 else 1, x.ndim))
    return port(layer.x, x - x.amin(dims, keepdim=True))


def _excite(layer: WeightedLayer, value: Tensor, x: Tensor) -> Tensor:
    """Return z with the graph of the rule: by positive weights."""
    sums = layer.combine(x, layer.weight.clamp(min=0))
    return replace_gradient(value, (sums, divide_safely(value, sums.detach())))


def _pass_on(operation: Operation, x: Tensor) -> Tensor:
    """Run an operation each of whose values has one input, to which its p goes."""
    value = operation.apply(x.detach())
    if value.shape != x.shape:
        raise Refusal(f"broadcasts values of the image in {operation.name}, without a rule")
    return replace_gradient(value, (x, divide_safely(value, x.detach())))


def _share(operation: Operation) -> Tensor:
    """Run a sum or mean, whose p goes to the positive values."""
    positive, negative = split_signs(operation.args[0])
    sums: Tensor = operation.with_first(positive)()
    if negative is None:
        return sums
    value = operation.apply(operation.args[0].detach())
    return replace_gradient(value, (sums, divide_safely(value, sums.detach())))


def _add(operation: Operation) -> Tensor:
    """Run a sum of two values, as of a residual connection."""
    u, v = operation.args[0], operation.argument(1, "other")
    if u.shape != v.shape or operation.kwargs.get("alpha", 1) != 1:
        raise Refusal("adds values of different shapes or weights, without a rule")
    value = u.detach() + v.detach()
    sums = u.detach().clamp(min=0) + v.detach().clamp(min=0)
    share = divide_safely(value, sums)
    return replace_gradient(
        value, *((each, torch.where(each.detach() > 0, share, 0)) for each in (u, v))
    )
