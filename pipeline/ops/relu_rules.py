"""Other ways back through a ReLU, which is all that deconvnet and guided backprop change.

    y = relu(x), g the signal that comes back to y, what goes on to x is

    gradient          g * [x > 0]
    deconvnet         relu(g)                 Zeiler and Fergus 2014
    guided backprop   relu(g) * [x > 0]       Springenberg et al. 2014, equation 1

A ReLU is what autograd recorded as one. So it does not matter how the network writes it: a module,
one module used twice, in place, a function, a method, clamp(min=0), scripted code, or ReLU6, which
is open where 0 < x < 6. The rule hangs on the nodes of one call's graph and goes with it: nothing
is ever put on the network, so threads do not mix and an exception leaves nothing behind.

The rules mean nothing for other activations, so a network that has them is refused, also where
they are written out (x * sigmoid(x)). Gates are no activations: sigmoid and softmax as in
squeeze-and-excitation keep their gradient. A ReLU written as arithmetic, x * (x > 0), is a product
like any other to autograd and to us.
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
"""From g and g * [open] to what goes on. The second is the rule's own to overwrite."""

# What autograd calls them, without "Backward" and a number.
OTHERS = {
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
# In place on a view, they are hidden from autograd's graph by its node CopySlices.
HIDDEN = {f"{name}_" for name in (
    "celu", "clamp", "clamp_min", "clip", "elu", "hardtanh", "leaky_relu", "relu", "rrelu", "selu",
    "tanh", "threshold",
)}  # fmt: skip
# From x to gate(x) in activations that are written out: swish, hard swish.
SCALAR = {"Add", "Div", "Hardsigmoid", "Hardtanh", "Mul", "Sigmoid"}


def deconvnet(above: Tensor, through: Tensor) -> Tensor:
    """Let pass what is positive on the way back, whether or not the ReLU was open."""
    return torch.clamp_min(above, 0, out=through)


def guided(above: Tensor, through: Tensor) -> Tensor:
    """Let pass what is positive on the way back, where the ReLU was open."""
    return through.relu_()


def bend(logits: Tensor, rule: Rule) -> None:
    """From now on, what comes back from `logits` goes through every ReLU by `rule`.

    The forward pass has to have run within `InSight`. Raises UserError where it met an activation
    that is no ReLU, or no ReLU at all.
    """
    relus = []
    for node in _nodes(logits):
        if other := _other(node):
            raise _refused(other)
        if _is_relu(node):
            relus.append(node)
    if not relus:
        raise _refused("has no ReLU between the image and the score")
    for node in relus:
        # Its hook must not hold the node: the circle would keep the graph alive.
        node.register_hook(_hook(rule))


class InSight(TorchFunctionMode):
    """Activations in place on a view run beside it and are copied in: the graph then shows them.

    Of this thread alone, until the block ends.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0]._is_view():
            view, *others = args
            name = getattr(func, "__name__", "")
            # A clone, since some keep what they read for the way back.
            if kwargs.get("inplace"):
                beside = {**kwargs, "inplace": False}
                return view.copy_(func(view.clone(), *others, **beside))
            if name in HIDDEN:
                return view.copy_(
                    getattr(torch.ops.aten, name[:-1])(view.clone(), *others, **kwargs)
                )
        return func(*args, **kwargs)


def _nodes(of: Tensor) -> Iterator[Node]:
    """Every node of the graph behind a tensor, once."""
    waiting = [of.grad_fn]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(before for before, _ in node.next_functions)


def _kind(node: Node | None) -> str:
    return "" if node is None else node.name().partition("Backward")[0]


def _is_relu(node: Any) -> bool:
    """ReLU, ReLU6, and what they may be written as: hardtanh(0, 6), clamp(min=0), threshold."""
    kind = _kind(node)
    if kind in ("Hardtanh", "Clamp", "ClampMin"):
        return bool(_bounds(node)[0] == 0)
    return kind == "Relu" or (kind == "Threshold" and node._saved_threshold == 0)


def _bounds(node: Any) -> tuple[Any, Any]:
    """Numbers, tensors or None."""
    if _kind(node) == "Hardtanh":
        return node._saved_min_val, node._saved_max_val
    return node._saved_min, getattr(node, "_saved_max", None)


def _other(node: Any) -> str:
    """What stands in the rules' way: an activation that is no ReLU, or hidden work."""
    kind = _kind(node)
    if isinstance(node, BackwardCFunction):
        # A user's own full backward hook is a function that changes nothing.
        return "" if kind == "BackwardHookFunction" else f"hides work in a function, {kind}"
    if "DifferentiableGraph" in kind:
        return "hides work in compiled code"
    named = _activation(node)
    return f"has another activation, {named}" if named else ""


def _activation(node: Any) -> str:
    """The name of an activation that is no ReLU; empty for all else."""
    kind = _kind(node)
    if kind in OTHERS:
        return OTHERS[kind]
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
    """x * gate(x), where gate is element by element."""
    edges = [edge for edge in product.next_functions if edge[0] is not None]
    for (gate, _), other in permutations(edges, 2):
        node: Node | None = gate
        gated = False
        while _kind(node) in SCALAR:
            assert node is not None
            gated = gated or _kind(node) in ("Hardsigmoid", "Hardtanh", "Sigmoid")
            before = [edge for edge in node.next_functions if edge[0] is not None]
            if len(before) != 1:
                break
            if gated and before[0] == other:
                return True
            node = before[0][0]
    return False


def _hook(rule: Rule) -> Callable[..., tuple[Tensor | None, ...]]:
    def hook(
        through: tuple[Tensor | None, ...], above: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        first, *rest = through
        return through if first is None else (rule(above[0], first), *rest)

    return hook


def _refused(why: str) -> UserError:
    return UserError(
        "deconvnet, guided_backprop and guided_gradcam change the way back through ReLU alone, but "
        f"the network {why}. Methods for any network: gradient, integrated_gradients, smoothgrad, "
        "gradcam, layercam and all others"
    )
