"""The operations that a network runs, by what they compute, and a mode that gives them rules.

torch passes each call of an operation to a mode, whether a module, a function, a method or an
operator made it, in place or not, and with modules that are used twice. A rule runs the operation
and returns its result with a graph whose backward pass is another than autograd's. The mode holds
for one thread and ends with its block: it changes no module and leaves no hook behind.

What reads the image is told by `requires_grad`: within the mode parameters take part as constants,
so that no gradient of weights is computed. An operation that is in none of the lists is refused by
its name, as nobody can say which rule it would need.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from pipeline.errors import UserError
from pipeline.ops.relu_rules import describe_hidden_work, walk_graph

# Values are moved, copied or selected, and nothing is computed.
MOVES = frozenset((
    "alias", "broadcast_to", "channel_shuffle", "chunk", "clone", "contiguous", "cat", "detach",
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "expand",
    "expand_as", "flatten", "flip", "float", "getitem", "identity", "index_select", "moveaxis",
    "movedim", "narrow", "pad", "permute", "pixel_shuffle", "pixel_unshuffle", "positive",
    "repeat", "requires_grad", "reshape", "reshape_as", "roll", "select", "setitem", "split",
    "split_with_sizes", "squeeze", "stack", "swapaxes", "swapdims", "T", "t", "tile", "to",
    "transpose", "type", "type_as", "unbind", "unflatten", "unsqueeze", "view", "view_as", "zero",
))  # fmt: skip
# Sums of values with constant weights that are not negative.
AVERAGES = frozenset((
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "interpolate", "mean", "sum", "upsample",
))  # fmt: skip
WEIGHTED = frozenset(("conv1d", "conv2d", "conv3d", "linear"))
MAX_POOLS = frozenset((
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d",
    "max_pool2d", "max_pool3d",
))  # fmt: skip
# Element by element: of straight pieces, and smooth ones that change on a scale of 1.
PIECEWISE = frozenset((
    "abs", "clamp", "clamp_max", "clamp_min", "hardshrink", "hardsigmoid", "hardtanh",
    "leaky_relu", "prelu", "relu", "relu6", "rrelu", "softshrink", "threshold",
))  # fmt: skip
SMOOTH = frozenset((
    "celu", "elu", "erf", "gelu", "hardswish", "logsigmoid", "mish", "selu", "sigmoid", "silu",
    "softplus", "softsign", "tanh", "tanhshrink",
))  # fmt: skip
# They ask for a size, a type or a place, or check one.
QUERIES = frozenset((
    "assert", "dim", "element_size", "get_device", "hash", "is_complex", "is_contiguous",
    "is_floating_point", "len", "ndimension", "nelement", "numel", "repr", "size", "stride",
))  # fmt: skip
OTHER_NAMES = {
    "clip": "clamp", "concat": "cat", "concatenate": "cat", "divide": "div", "iadd": "add",
    "imul": "mul", "ipow": "pow", "isub": "sub", "itruediv": "div", "multiply": "mul",
    "radd": "add", "rmul": "mul", "rtruediv": "rdiv", "subtract": "sub", "true_divide": "div",
    "truediv": "div", "log_sigmoid": "logsigmoid",
}  # fmt: skip
IN_PLACE_OPERATORS = frozenset(("__iadd__", "__imul__", "__isub__", "__itruediv__", "__ipow__"))
# Nodes that only a rule may make, or whose operation only a rule may have seen.
RULED_NODES = frozenset((
    "Celu", "Clamp", "ClampMin", "Convolution", "Elu", "Gelu", "Hardsigmoid",
    "Hardswish", "Hardtanh", "LeakyRelu", "MaxPool2DWithIndices", "Mish", "MkldnnConvolution",
    "NativeBatchNorm", "NativeLayerNorm", "PreluKernel", "Relu", "Sigmoid", "Silu", "Softmax",
    "Softplus", "Tanh", "Threshold",
))  # fmt: skip


Backward = Callable[[Tensor], Sequence[Tensor | None]]
"""From the signal that arrives at a value to the signals of what it was computed from."""


@dataclass(frozen=True)
class Operation:
    """A call of an operation, out of place.

    Attributes:
        name: without underscores; the same for a function, a method and an operator.
        run: computes it from `args` and `kwargs`, out of place.
        args: what it is called with; parameters are constants.
        kwargs: the same, by name.
        target: what the network wants to be overwritten; None: it is out of place.
    """

    name: str
    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Tensor | None = None

    def __call__(self) -> Any:
        """Run it with autograd's own backward pass."""
        return self.run(*self.args, **self.kwargs)

    def apply(self, tensor: Tensor) -> Tensor:
        """Compute it of another tensor in the place of the first argument."""
        result: Tensor = self.run(tensor, *self.args[1:], **self.kwargs)
        return result

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument, whether it was given by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def reads_several(self) -> bool:
        """Whether more than its first argument reads the image."""
        return any(map(reads_image, iterate_tensors((self.args[1:], dict(self.kwargs)))))

    def with_first(self, tensor: Tensor) -> Operation:
        """Return the call with another first argument."""
        return replace(self, args=(tensor, *self.args[1:]))


class Refusal(Exception):
    """Why an operation has no rule."""


class BackwardRules(TorchFunctionMode, ABC):
    """A mode that runs each operation that reads the image by a rule.

    Args:
        method: the name of the saliency method, for errors.
        others: the methods that an error recommends.
    """

    def __init__(self, method: str, others: str) -> None:
        super().__init__()
        self.method = method
        self.others = others
        self.seen: set[Node | None] = set()  # nodes that rules have made

    @abstractmethod
    def run_operation(self, operation: Operation) -> Any:
        """Run an operation that reads the image, and return its result with the wanted graph.

        Args:
            operation: the call, out of place.

        Raises:
            Refusal: there is no rule for it.
        """

    def keeps_in_place(self, operation: Operation) -> bool:
        """Return whether autograd's own backward pass, and so the call in place, is right."""
        return False

    def overwrite(self, target: Tensor, result: Tensor) -> Tensor:
        """Copy the result of an operation in place to its target, and return the target."""
        if result is target:  # of dropout, which does nothing
            return target
        if target.grad_fn is not None and not target._is_view():
            # Else the backward pass goes on with zeros through all that made the old values.
            target.detach_()
        return target.copy_(result)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, by its rule if it reads the image."""
        if getattr(func, "__name__", "") == "__set__":
            return func(*args)
        if is_attribute(func):
            value = func(*args)
            if not isinstance(value, Tensor) or not reads_image(args[0]):
                return value
            func = _read_attribute(func)
        args, kwargs = map_tensors(_freeze, (tuple(args), dict(kwargs or {})))
        assert kwargs is not None
        if not any(map(reads_image, iterate_tensors((args, kwargs)))):
            return func(*args, **kwargs)
        operation = read_operation(func, tuple(args), kwargs)
        if operation.name in QUERIES:
            return func(*args, **kwargs)
        try:
            if operation.target is not None and self.keeps_in_place(operation):
                return self._remember(func(*args, **kwargs))
            result = self.run_operation(operation)
        except Refusal as reason:
            raise UserError(
                f"saliency={self.method}: the network {reason}; {self.others}"
            ) from None
        self._remember(result)
        if operation.target is None:
            return result
        return self._remember(self.overwrite(operation.target, result))

    def check_graph(self, logits: Tensor) -> None:
        """Raise UserError where the graph has work that no rule has seen, as in scripted code.

        Args:
            logits: the output of a forward pass within the mode.
        """
        for node in walk_graph(logits):
            hidden = describe_hidden_work(node, Replaced.__name__)
            kind = node.name().partition("Backward")[0]
            if not hidden and kind in RULED_NODES and node not in self.seen:
                hidden = f"hides work in compiled code, {kind}"
            if hidden:
                raise UserError(f"saliency={self.method}: the network {hidden}; {self.others}")

    def see(self, tensor: Tensor) -> Tensor:
        """Remember that a rule has made the operation behind a tensor; return the tensor."""
        self.seen.add(tensor.grad_fn)
        return tensor

    def _remember(self, result: Any) -> Any:
        for tensor in iterate_tensors(result):
            self.see(tensor)
        return result


class Replaced(torch.autograd.Function):
    """A value with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, given: tuple[Tensor, Backward], *inputs: Tensor) -> Tensor:
        """Return the value."""
        # Within a tuple, so that autograd takes it for new and it may be changed in place.
        value, ctx.propagate = given
        return value

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> Any:
        """Return the signal of each input."""
        return (None, *ctx.propagate(signals[0]))


def replace_backward(value: Tensor, propagate: Backward, *inputs: Tensor) -> Tensor:
    """Return `value` with another backward pass.

    Args:
        value: of the forward pass.
        propagate: from the signal that arrives at the value to that of each input.
        inputs: what the value was computed from, with their graph.
    """
    result: Tensor = Replaced.apply((value.detach(), propagate), *inputs)
    return result


def replace_gradient(value: Tensor, *terms: tuple[Tensor, Tensor | float]) -> Tensor:
    """Return `value` as if it were the sum of `factor * term`, where factors are constants.

    Args:
        value: of the forward pass.
        terms: tensors of the shape of `value` with their graph, and the factor of the signal
            that each receives.
    """
    factors = [factor for _, factor in terms]
    return replace_backward(
        value,
        lambda signal: [signal * factor for factor in factors],
        *(tensor for tensor, _ in terms),
    )


def reads_image(value: Any) -> bool:
    """Return whether a tensor was computed from what the graph starts at."""
    return isinstance(value, Tensor) and value.requires_grad


def map_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """Return lists, tuples and dicts with each tensor replaced by what `change` gives."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(map_tensors(change, item) for item in value)
    if type(value) is dict:
        return {key: map_tensors(change, item) for key, item in value.items()}
    return value


def iterate_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from iterate_tensors(item)
    elif isinstance(value, dict):
        yield from iterate_tensors(list(value.values()))


def read_operation(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Operation:
    """Describe a call by its name, and as one that is out of place.

    Args:
        func: what torch passes to a mode.
        args: of the call.
        kwargs: of the call.
    """
    written = getattr(func, "__name__", type(func).__name__)
    plain = written.strip("_")
    name = OTHER_NAMES.get(plain, plain)
    is_operator = written.startswith("__")
    if written in IN_PLACE_OPERATORS or (written.endswith("_") and not is_operator):
        if name in ("requires_grad", "setitem", "zero"):
            return Operation(name, func, args, kwargs)
        return Operation(name, getattr(torch.ops.aten, name), args, kwargs, args[0])
    position = _find_inplace(func)
    if position is None:
        return Operation(name, func, args, kwargs)
    given = args[position] if position < len(args) else kwargs.get("inplace", False)
    if not given:
        return Operation(name, func, args, kwargs)
    args = (*args[:position], False, *args[position + 1 :]) if position < len(args) else args
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    return Operation(name, func, args, kwargs, args[0])


def is_attribute(func: Callable[..., Any]) -> bool:
    """Return whether what torch passes to a mode reads an attribute, as x.T or x.shape.

    Args:
        func: what torch passes to a mode.
    """
    return getattr(func, "__name__", "") == "__get__"


def choose_operands(operation: Operation) -> tuple[bool, bool]:
    """Return whether the first and the second operand read the image."""
    second = operation.argument(1, "other")
    return reads_image(operation.args[0]), reads_image(second)


def run_normalization(operation: Operation, constant_scale: bool) -> Tensor:
    """Compute layer norm or group norm step by step, so that each step has its rule.

    Args:
        operation: `layer_norm` or `group_norm`.
        constant_scale: whether 1 / deviation counts as a constant.
    """
    x = operation.args[0]
    groups = operation.args[1]
    weight, bias = operation.argument(2, "weight"), operation.argument(3, "bias")
    eps = operation.argument(4, "eps", 1e-5)
    if operation.name == "group_norm":
        parts, dims = x.unflatten(1, (groups, -1)), list(range(2, x.ndim + 1))
        shape = (-1, *[1] * (x.ndim - 2))
        weight, bias = (None if t is None else t.view(shape) for t in (weight, bias))
    else:
        parts, dims = x, list(range(-len(tuple(groups)), 0))
    centred: Tensor = parts - parts.mean(dims, keepdim=True)
    values = centred.detach() if constant_scale else centred
    normalized: Tensor = centred * ((values * values).mean(dims, keepdim=True) + eps).rsqrt()
    if operation.name == "group_norm":
        normalized = normalized.flatten(1, 2)
    normalized = normalized if weight is None else normalized * weight
    return normalized if bias is None else normalized + bias


def _freeze(tensor: Tensor) -> Tensor:
    return tensor.detach() if isinstance(tensor, nn.Parameter) else tensor


def _read_attribute(getter: Callable[..., Any]) -> Callable[..., Any]:
    """Return x.T and its kind as a function with a name."""

    def read(tensor: Tensor) -> Any:
        return getter(tensor)

    read.__name__ = "T"
    return read


@lru_cache(maxsize=512)
def _find_inplace(func: Callable[..., Any]) -> int | None:
    """Return the position of the argument `inplace`; None where there is none."""
    if not inspect.isfunction(func):
        return None
    try:
        names = list(inspect.signature(func).parameters)
    except ValueError:  # an operator that wraps a method without a signature
        return None
    return names.index("inplace") if "inplace" in names else None
