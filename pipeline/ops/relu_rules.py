"""Backward rules of ReLU, which are all that deconvnet and guided backprop change.

    y = relu(x), g is the signal that arrives at y; the signal that goes on to x is

    gradient          g * [x > 0]
    deconvnet         relu(g)                 Zeiler and Fergus 2014
    guided backprop   relu(g) * [x > 0]       Springenberg et al. 2014, equation 1

A ReLU is a node that autograd recorded as such. So it does not matter how the network writes it: a
module, a module used twice, in place, a function, a method, clamp(min=0), scripted code, or ReLU6,
which is open where 0 < x < 6. The rule is a hook on the nodes of the graph of a single call and is
freed with it: the network itself is never changed, so threads do not interfere and an exception
leaves nothing behind.

The rules are not defined for other activations, so a network that has them is refused, also where
they are written out (x * sigmoid(x)). Gates are no activations: sigmoid and softmax as in
squeeze-and-excitation keep their gradient. A ReLU written as arithmetic, x * (x > 0), is recorded
as a product, and is treated as a product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from pipeline.errors import UserError

Rule = Callable[[Tensor, Tensor], Tensor]
"""From g and g * [open] to the signal that goes on. The rule may overwrite its second argument."""

# Activations that are no ReLU: autograd's name without "Backward" and a number, and ours.
OTHER_ACTIVATIONS = {
    "Abs": "abs",
    "Celu": "CELU",
    "Elu": "ELU or SELU",
    "Erf": "erf",
    "Gelu": "GELU",
    "Glu": "GLU",
    "Hardshrink": "Hardshrink",
    "Hardswish": "Hardswish",
    "LeakyRelu": "LeakyReLU",
    "LogSigmoid": "LogSigmoid",
    "Mish": "Mish",
    "PreluKernel": "PReLU",
    "RreluWithNoise": "RReLU",
    "Silu": "SiLU",
    "Sin": "sin",
    "Softplus": "Softplus",
    "Softshrink": "Softshrink",
    "Tanh": "tanh",
    "Where": "torch.where",
}
# In place on a view, autograd's graph shows only its node CopySlices for them.
HIDDEN_IN_PLACE = {f"{name}_" for name in (
    "celu", "clamp", "clamp_min", "clip", "elu", "hardtanh", "leaky_relu", "relu", "rrelu", "selu",
    "tanh", "threshold",
)}  # fmt: skip
# The operations from x to gate(x) in activations that are written out: swish, hard swish.
GATE_OPERATIONS = {"Add", "Div", "Hardsigmoid", "Hardtanh", "Mul", "Sigmoid"}


def deconvnet(signal: Tensor, gated: Tensor) -> Tensor:
    """Let a positive signal pass, whether or not the ReLU was open.

    Args:
        signal: g, the signal that arrives at the output of the ReLU.
        gated: g * [open]; it is overwritten.

    Returns:
        relu(g), in the memory of `gated`.
    """
    return torch.clamp_min(signal, 0, out=gated)


def guided(signal: Tensor, gated: Tensor) -> Tensor:
    """Let a positive signal pass where the ReLU was open.

    Args:
        signal: g, the signal that arrives at the output of the ReLU.
        gated: g * [open]; it is overwritten.

    Returns:
        relu(g) * [open], in the memory of `gated`.
    """
    return gated.relu_()


def apply_relu_rule(logits: Tensor, rule: Rule) -> None:
    """Make all later backward passes from `logits` use `rule` at each ReLU.

    Args:
        logits: The output of a forward pass that ran within `OutOfPlaceActivations`.
        rule: The backward rule.

    Raises:
        UserError: If the graph has an activation that is no ReLU, or no ReLU at all.
    """
    relus = []
    for node in walk_graph(logits):
        if obstacle := _describe_obstacle(node):
            raise _refusal(obstacle)
        if _is_relu(node):
            relus.append(node)
    if not relus:
        raise _refusal("has no ReLU between the image and the score")
    for node in relus:
        # The hook must not refer to the node: the cycle would keep the graph alive.
        node.register_hook(_make_hook(rule))


class OutOfPlaceActivations(TorchFunctionMode):
    """Run activations that are in place on a view on a copy, so that the graph shows them.

    Their result is copied into the view. It holds for this thread until the block ends.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0]._is_view():
            view, *others = args
            name = getattr(func, "__name__", "")
            # A clone, since some save their input for the backward pass.
            if kwargs.get("inplace"):
                out_of_place = {**kwargs, "inplace": False}
                return view.copy_(func(view.clone(), *others, **out_of_place))
            if name in HIDDEN_IN_PLACE:
                return view.copy_(
                    getattr(torch.ops.aten, name[:-1])(view.clone(), *others, **kwargs)
                )
        return func(*args, **kwargs)


def walk_graph(tensor: Tensor) -> Iterator[Node]:
    """Yield each node of the graph behind a tensor once.

    Args:
        tensor: the result of a forward pass.
    """
    waiting = [tensor.grad_fn]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(before for before, _ in node.next_functions)


def _kind(node: Node | None) -> str:
    """Return autograd's name of an operation without "Backward" and a number; empty for None."""
    return "" if node is None else node.name().partition("Backward")[0]


def _is_relu(node: Any) -> bool:
    """Return whether a node is ReLU or ReLU6, or hardtanh(0, 6), clamp(min=0) or threshold."""
    kind = _kind(node)
    if kind in ("Hardtanh", "Clamp", "ClampMin"):
        return bool(_bounds(node)[0] == 0)
    return kind == "Relu" or (kind == "Threshold" and node._saved_threshold == 0)


def _bounds(node: Any) -> tuple[Any, Any]:
    """Return lower and upper bound of a clamp or hardtanh: numbers, tensors or None."""
    if _kind(node) == "Hardtanh":
        return node._saved_min_val, node._saved_max_val
    return node._saved_min, None if _kind(node) == "ClampMin" else node._saved_max


def _describe_obstacle(node: Any) -> str:
    """Say why the rules do not hold at a node: another activation, or hidden work; else empty."""
    if hidden := describe_hidden_work(node):
        return hidden
    name = _name_activation(node)
    return f"has another activation, {name}" if name else ""


def describe_hidden_work(node: Any, allowed: str = "") -> str:
    """Say in which function or compiled code a node hides its operations; empty: in none.

    Args:
        node: of autograd's graph.
        allowed: the name of an autograd function that hides nothing.
    """
    kind = _kind(node)
    if isinstance(node, BackwardCFunction):
        # A user's full backward hook is recorded as a function that changes nothing.
        known = kind in ("BackwardHookFunction", allowed)
        return "" if known else f"hides work in a function, {kind}"
    return "hides work in compiled code" if "DifferentiableGraph" in kind else ""


def _name_activation(node: Any) -> str:
    """Return the name of an activation that is no ReLU; empty for all other nodes."""
    kind = _kind(node)
    if kind in OTHER_ACTIVATIONS:
        return OTHER_ACTIVATIONS[kind]
    if kind in ("Hardtanh", "Clamp", "ClampMin"):
        low, high = _bounds(node)
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            return "clamp to a tensor"
        # A lower bound above 0 guards a root or a logarithm, as in generalized-mean pooling.
        return f"clamp to {low} and {high}" if low is not None and low < 0 else ""
    if kind == "Threshold" and node._saved_threshold != 0:
        return f"threshold at {node._saved_threshold}"
    if kind in ("Maximum", "Minimum") and any(n is None for n, _ in node.next_functions):
        return f"{kind.lower()} with a constant"
    if kind == "Mul" and _gates_itself(node):
        return "x * gate(x), a swish written out"
    return ""


def _gates_itself(product: Node) -> bool:
    """Return whether a product is x * gate(x), where gate is computed element by element."""
    edges = [edge for edge in product.next_functions if edge[0] is not None]
    for (gate, _), other in permutations(edges, 2):
        node: Node | None = gate
        gated = False
        while _kind(node) in GATE_OPERATIONS:
            assert node is not None
            gated = gated or _kind(node) in ("Hardsigmoid", "Hardtanh", "Sigmoid")
            before = [edge for edge in node.next_functions if edge[0] is not None]
            if len(before) != 1:
                break
            if gated and before[0] == other:
                return True
            node = before[0][0]
    return False


def _make_hook(rule: Rule) -> Callable[..., tuple[Tensor | None, ...]]:
    def hook(
        gated: tuple[Tensor | None, ...], signals: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        first, *rest = gated
        return gated if first is None else (rule(signals[0], first), *rest)

    return hook


def _refusal(reason: str) -> UserError:
    return UserError(
        "deconvnet, guided_backprop and guided_gradcam change the backward rule of ReLU alone, but "
        f"the network {reason}. Methods for any network: gradient, integrated_gradients, "
        "smoothgrad, gradcam, layercam and all others"
    )
