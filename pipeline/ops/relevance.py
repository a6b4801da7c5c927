"""Backward rules that distribute a score over what it was computed from: relevance.

With z = x w + b, the relevance R_k of z_k goes to x_j in proportion to some share of x_j w_jk in
z_k. The signal that flows back is c = R / x, so that a rule is a gradient with other weights:

    R_j = sum_k x_j v_jk / z~_k R_k        c_j = sum_k v_jk (z_k / z~_k) c_k

where v are the weights of the rule and z~ the sum that it divides by. With v = w and z~ = z it is
the gradient, and R = gradient * value.

Batch norm behind a convolution or linear layer is one linear operation together with it: the rule
sees the weights of both, folded. For this a convolution waits, until the operation that reads its
result is known. Moves of the image (padding, normalization by constants) come before the first
layer; from there on the signal is R itself, since rules for pixels, which may be 0, have no c.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pipeline.ops.operations import (
    MAX_POOLS,
    MOVES,
    PIECEWISE,
    SMOOTH,
    WEIGHTED,
    BackwardRules,
    Operation,
    Refusal,
    iterate_tensors,
    map_tensors,
    reads_image,
    replace_gradient,
)

GATES = frozenset(("hardsigmoid", "sigmoid"))  # they scale what they are multiplied with
CONSTANT_SHIFTS = frozenset(("add", "sub", "mul", "div"))


class Combine(Protocol):
    """The operation of a layer, of other values and weights."""

    def __call__(self, values: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the sums of values times weights, plus the bias.

        Args:
            values: in the shape of what the layer reads.
            weights: in the shape of the layer's.
            bias: [K]; None: without.
        """


@dataclass(frozen=True)
class WeightedLayer:
    """A convolution or linear layer, together with the batch norm behind it.

    Attributes:
        name: of the operation.
        x: what it reads, with its graph.
        weight: of both.
        bias: of both, [K], or None.
        combine: the sums of values times weights, plus a bias [K] where one is given.
    """

    name: str
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    combine: Combine


@dataclass
class _Waiting:
    """A layer whose rule waits for what reads its result, which is the key it is found by."""

    layer: WeightedLayer
    reads_pixels: bool
    ruled: Tensor | None = None


class RelevanceRules(BackwardRules):
    """A mode that distributes relevance.

    Args:
        method: the name of the saliency method, for errors.
        others: the methods that an error recommends.
        from_image: whether the graph starts at the image; else at a layer.
        first_is_special: whether the layer that reads the image has a rule of its own.
    """

    def __init__(
        self, method: str, others: str, from_image: bool = True, first_is_special: bool = True
    ) -> None:
        super().__init__(method, others)
        self._from_image = from_image
        self._first_is_special = first_is_special
        self._waiting = WeakTensorKeyDictionary()
        self._pixels = WeakTensorKeyDictionary()
        self._gates = WeakTensorKeyDictionary()
        self.top: tuple[WeightedLayer, Tensor] | None = None  # the last that ran, and its result

    @abstractmethod
    def run_layer(self, layer: WeightedLayer, plain: Tensor) -> Tensor:
        """Return z with the graph of the rule of convolutions and linear layers.

        Args:
            layer: which of them.
            plain: z with autograd's graph.
        """

    @abstractmethod
    def run_first(self, layer: WeightedLayer, value: Tensor) -> Tensor:
        """Return z with the graph of the rule of the layer that reads the image.

        Args:
            layer: its x is made of pixels: what flows back to it is R.
            value: z.
        """

    @abstractmethod
    def run_other(self, operation: Operation) -> Any:
        """Run an operation without weights that reads several or changed values."""

    @abstractmethod
    def run_activation(self, operation: Operation) -> Tensor:
        """Run an operation that is computed element by element."""

    @abstractmethod
    def run_product(self, operation: Operation, u: Tensor, v: Tensor) -> Tensor:
        """Run a product of two values that both read the image, neither of which is a gate."""

    @abstractmethod
    def run_batch_norm(self, operation: Operation) -> Tensor:
        """Run a batch norm that follows no convolution or linear layer."""

    def is_plain(self, operation: Operation) -> bool:
        """Return whether an operation reads nothing that waits for a rule, and no pixels."""
        tensors = iterate_tensors((operation.args, dict(operation.kwargs)))
        return not any(t in self._waiting or self.is_pixels(t) for t in tensors)

    def overwrite(self, target: Tensor, result: Tensor) -> Tensor:
        """Copy the result of an operation in place to its target, and forget what that was."""
        for known in (self._waiting, self._pixels, self._gates):
            if target in known:
                del known[target]
        if result in self._gates:
            self._gates[target] = True
        return super().overwrite(target, result)

    def resolve(self, tensor: Tensor) -> Tensor:
        """Return a tensor with the graph of its rule, also where it still waits for one."""
        if tensor not in self._waiting:
            return tensor
        waiting: _Waiting = self._waiting[tensor]
        if waiting.ruled is None:
            waiting.ruled = self._rule(waiting.layer, tensor, waiting.reads_pixels)
        return waiting.ruled

    def is_gate(self, value: Any) -> bool:
        """Return whether a value comes from a sigmoid."""
        return isinstance(value, Tensor) and value in self._gates

    def run_operation(self, operation: Operation) -> Any:
        """Run an operation that reads the image."""
        name = operation.name
        if name == "batch_norm":
            if operation.argument(5, "training", False):
                raise Refusal("normalizes by the batch itself, which has no rule")
            if operation.args[0] in self._waiting:
                return self._fold_batch_norm(operation)
        args, kwargs = map_tensors(self.resolve, (operation.args, dict(operation.kwargs)))
        operation = replace(operation, args=args, kwargs=kwargs)
        if name in MOVES:
            return self._move(operation)
        if (shifted := self._shift_pixels(operation)) is not None:
            return shifted
        if name in WEIGHTED:
            return self._weight(operation)
        return self._run_unweighted(self._enter(operation))

    def _run_unweighted(self, operation: Operation) -> Any:
        name = operation.name
        if name == "batch_norm":
            return self.run_batch_norm(operation)
        if name in GATES or name in PIECEWISE or name in SMOOTH:
            result = self.run_activation(operation)
            if name in GATES:
                self._gates[result] = True
            return result
        if name in ("mul", "matmul", "bmm"):
            return self._multiply(operation)
        if name in ("mean", "sum") and operation.argument(1, "dim") is None:
            raise Refusal(f"computes the {name} over all images of a batch")
        return operation() if name in MAX_POOLS else self.run_other(operation)

    def _rule(self, layer: WeightedLayer, plain: Tensor, reads_pixels: bool) -> Tensor:
        return (
            self.run_first(layer, plain.detach()) if reads_pixels else self.run_layer(layer, plain)
        )

    def _weight(self, operation: Operation) -> Tensor:
        """Run a convolution or linear layer; its rule waits for what reads the result."""
        weight, bias = operation.argument(1, "weight"), operation.argument(2, "bias")
        x = operation.args[0] if operation.args else None
        if not isinstance(x, Tensor) or reads_image(weight) or not reads_image(x):
            raise Refusal(f"computes the weights of {operation.name} from the image")
        pixels = self.is_pixels(x)
        if pixels and not self._first_is_special:
            operation, pixels = self._enter(operation), False
        options = {k: v for k, v in operation.kwargs.items() if k not in ("weight", "bias")}

        seen = self.seen  # and not the mode itself: the cycle would keep the graph alive

        def combine(values: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
            sums: Tensor = operation.run(values, weights, bias, *operation.args[3:], **options)
            seen.add(sums.grad_fn)
            return sums

        z = self.see(operation())
        layer = WeightedLayer(operation.name, operation.args[0], weight, bias, combine)
        self._waiting[z] = _Waiting(layer, pixels)
        self.top = (layer, z)
        return z

    def _fold_batch_norm(self, operation: Operation) -> Tensor:
        """Run a batch norm together with the operation before it."""
        waiting = self._waiting[operation.args[0]]
        before = waiting.layer
        mean, variance = operation.argument(1, "running_mean"), operation.argument(2, "running_var")
        gain, shift = operation.argument(3, "weight"), operation.argument(4, "bias")
        eps = operation.argument(7, "eps", 1e-5)
        scale = (variance + eps).rsqrt() * (1.0 if gain is None else gain)
        bias = (0.0 if shift is None else shift) - mean * scale
        if before.bias is not None:
            bias = bias + before.bias * scale
        weight = before.weight * scale.view(-1, *[1] * (before.weight.ndim - 1))
        layer = replace(before, weight=weight, bias=bias)
        result = self._rule(layer, self.see(operation()), waiting.reads_pixels)
        self.top = (layer, result)
        return result

    def _multiply(self, operation: Operation) -> Tensor:
        u, v = operation.args[0], operation.argument(1, "other", operation.argument(1, "mat2"))
        if not (reads_image(u) and reads_image(v)):
            result: Tensor = operation()
            return result
        if self.is_gate(u) != self.is_gate(v):
            # All relevance goes to what is scaled, none to the gate.
            factors = (u.detach(), v) if self.is_gate(u) else (u, v.detach())
            gated: Tensor = operation.run(*factors)
            return gated
        return self.run_product(operation, u, v)

    def is_pixels(self, tensor: Any) -> bool:
        """Return whether a tensor is the image, moved or shifted."""
        if not self._from_image or not reads_image(tensor):
            return False
        return tensor.is_leaf or tensor in self._pixels

    def _move(self, operation: Operation) -> Any:
        """Run an operation that moves values, and remember what they are."""
        # x.expand_as(y) takes only the shape of y.
        given = operation.args[:1] if operation.name.endswith("_as") else operation.args
        values = [t for t in iterate_tensors((given, operation.kwargs)) if reads_image(t)]
        pixels = all(map(self.is_pixels, values))
        if not pixels:
            operation = self._enter(operation)
        gates = all(map(self.is_gate, values))
        result = operation()
        for tensor in iterate_tensors(result):
            if pixels:
                self._pixels[tensor] = True
            if gates:
                self._gates[tensor] = True
        return result

    def _shift_pixels(self, operation: Operation) -> Tensor | None:
        """Run a shift or scaling of pixels by constants; None: it is none. R stays as it is."""
        if operation.name not in CONSTANT_SHIFTS or len(operation.args) < 2:
            return None
        x, constant = operation.args[:2]
        if not self.is_pixels(x) or reads_image(constant):
            return None
        value = operation()
        if value.shape != x.shape:
            return None
        result = replace_gradient(value, (x, 1))
        self._pixels[result] = True
        return result

    def _enter(self, operation: Operation) -> Operation:
        """Return an operation that reads c where it read pixels, whose signal is R."""

        def change(tensor: Tensor) -> Tensor:
            return port(tensor, tensor.detach()) if self.is_pixels(tensor) else tensor

        args, kwargs = map_tensors(change, (operation.args, dict(operation.kwargs)))
        return replace(operation, args=args, kwargs=kwargs)


def port(pixels: Tensor, values: Tensor) -> Tensor:
    """Return values that stand for the pixels: R of a value goes to its pixel.

    Args:
        pixels: the image as the first layer reads it, with its graph.
        values: of the same shape.
    """
    return replace_gradient(values, (pixels, values))


def split_signs(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the positive part of a tensor and its negative part, None where that is 0.

    Args:
        x: with its graph.
    """
    if not x.is_meta and bool(x.detach().amin() >= 0):
        return x, None
    positive = (x.detach() > 0).to(x.dtype)
    return x * positive, x * (1 - positive)


def divide_safely(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return a quotient, and 0 where the denominator is 0."""
    return (numerator / denominator).masked_fill_(denominator == 0, 0)
