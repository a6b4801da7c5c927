"""Forward passes of copies of an image that differ from it in a rectangle: only that is computed.

A convolution carries a change of the image as far as its kernel reaches. What lies outside is the
image's own map, the same in all copies, and computed once. From layer to layer the changed part
grows; from the operation on where it is most of the map, and from the first one that has no rule
here, whole maps are computed as always. The results are those of whole passes but for rounding.

Nakandala et al., "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN
Explanations", SIGMOD 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pipeline.ops.operations import (
    PIECEWISE,
    QUERIES,
    SMOOTH,
    Operation,
    is_attribute,
    iterate_tensors,
    map_tensors,
    read_operation,
)

if TYPE_CHECKING:
    from jaxtyping import Float

MOST = 0.75  # of a map; where so much of it changes, copying costs what computing less gains
DROPOUTS = frozenset(("alpha_dropout", "dropout", "dropout1d", "dropout2d", "feature_dropout"))
BINARY = frozenset(("add", "sub", "mul", "div"))  # of two maps, or a map and a constant
ELEMENTWISE = (PIECEWISE | SMOOTH | BINARY) - {"prelu", "rrelu"}
Apply = Callable[[Sequence[Tensor]], Tensor]
"""Computes an operation of other maps in the place of those that it reads."""


@dataclass(frozen=True)
class Change:
    """Maps of copies of an image that differ from the image's own map in a rectangle.

    Attributes:
        base: The image's map.
        crops: The rectangle of each copy.
        corners: Its first row and column in the map.
    """

    base: Float[Tensor, "1 c H W"]
    crops: Float[Tensor, "n c h w"]
    corners: Sequence[tuple[int, int]]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the rectangle."""
        height, width = self.crops.shape[2:]
        return height, width

    def cut(
        self, corners: Sequence[tuple[int, int]], size: tuple[int, int], fill: float = 0.0
    ) -> Float[Tensor, "n c h w"]:
        """Return another rectangle of each copy.

        Args:
            corners: Its first row and column; it may stand out of the map.
            size: Its height and width.
            fill: The value outside of the map.
        """
        base, limits = self.base, self.base.shape[2:]
        is_last = base.is_contiguous(memory_format=torch.channels_last)
        result = torch.empty(
            (*self.crops.shape[:2], *size), dtype=base.dtype, device=base.device,
            memory_format=torch.channels_last if is_last else torch.contiguous_format,
        )  # fmt: skip
        if any(
            corner[n] < 0 or corner[n] + size[n] > limits[n] for corner in corners for n in (0, 1)
        ):
            result.fill_(fill)
        for target, corner, crop, place in zip(
            result, corners, self.crops, self.corners, strict=True
        ):
            _paste(target, corner, base[0], (0, 0))
            _paste(target, corner, crop, place)
        return result

    def fill_in(self) -> Float[Tensor, "n c H W"]:
        """Return the whole map of each copy."""
        height, width = self.base.shape[2:]
        return self.cut([(0, 0)] * len(self.corners), (height, width))


class LocalChanges(TorchFunctionMode):
    """A mode in which a network runs copies of an image that differ from it in a rectangle.

    Args:
        image: As the network sees it.
    """

    def __init__(self, image: Float[Tensor, "c H W"]) -> None:
        super().__init__()
        self.image = image
        self._base = image[None].contiguous(memory_format=torch.channels_last)
        self._changes = WeakTensorKeyDictionary()
        # The image's maps, by the operation and what it reads, which is kept so that no other
        # tensor has its id.
        self._known: dict[tuple[Any, ...], tuple[Any, Tensor]] = {}
        self._learns = True

    def run(
        self,
        forward: Callable[[Float[Tensor, "n c H W"]], Float[Tensor, "n C"]],
        crops: Float[Tensor, "n c h w"],
        corners: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "n C"] | None:
        """Run a network on copies of the image.

        Args:
            forward: From images to logits.
            crops: What the copies have in the rectangle.
            corners: The first row and column of the rectangle of each copy, within the image.

        Returns:
            The logits; None where the network has code whose operations are not seen here.
        """
        images = self._show(Change(self._base, crops, corners))
        try:
            with self:
                logits = self._fill_in(forward(images))
        except RuntimeError:  # of compiled code that writes to what stands for the copies
            return None
        self._learns = False
        return None if bool(logits.isnan().any()) else logits

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, on the changed parts alone where there is a rule."""
        args, kwargs = tuple(args), dict(kwargs or {})
        read = [tensor for tensor in iterate_tensors((args, kwargs)) if tensor in self._changes]
        if not read or _asks(func, args, kwargs):
            return func(*args, **kwargs)
        operation = read_operation(func, args, kwargs)
        change = self._run_locally(operation)
        if change is None:
            args, kwargs = map_tensors(self._fill_in, (args, kwargs))
            return func(*args, **kwargs)
        if operation.target is None:
            return self._show(change)
        self._changes[operation.target] = change
        return operation.target

    def _show(self, change: Change) -> Tensor:
        """Return what the network gets in the place of the copies: their shape, and no values.

        NaN betrays code that reads it without being seen here.
        """
        shape = (len(change.corners), *change.base.shape[1:])
        shown = change.base.new_full((1,) * 4, float("nan")).expand(shape)
        self._changes[shown] = change
        return shown

    def _fill_in(self, tensor: Tensor) -> Tensor:
        """Return the whole maps of what stands for copies, and other tensors as they are."""
        if tensor not in self._changes:
            return tensor
        known = self._changes[tensor]
        if isinstance(known, Change):
            known = self._changes[tensor] = known.fill_in()
        filled: Tensor = known
        return filled

    def _run_locally(self, operation: Operation) -> Change | None:
        """Run an operation on the changed parts; None: it has no rule, or most is changed."""
        operands = [tensor for tensor in _list_operands(operation) if tensor in self._changes]
        changes = [self._changes[tensor] for tensor in operands]
        others = _list_others(operation, operands)
        rule = _find_rule(operation, others)
        if (
            rule is None
            or not changes
            or not all(isinstance(change, Change) for change in changes)
            or any(tensor in self._changes for tensor in others)
            or (operation.target is not None and operation.target not in self._changes)
        ):
            return None

        def apply(maps: Sequence[Tensor]) -> Tensor:
            return _apply(operation, operands, maps)

        base = self._run_base(operation, changes, others, apply)
        return rule(operation, changes, base, apply) if base.ndim == 4 else None

    def _run_base(
        self,
        operation: Operation,
        changes: Sequence[Change],
        others: Sequence[Tensor],
        apply: Apply,
    ) -> Tensor:
        """Compute the operation of the image's own maps, once."""
        inputs = [change.base for change in changes]
        options = repr(map_tensors(lambda tensor: None, (operation.args, dict(operation.kwargs))))
        key = (operation.name, options, *map(id, (*inputs, *others)))
        if key in self._known:
            return self._known[key][1]
        result = apply(inputs)
        if self._learns:
            self._known[key] = ((inputs, others), result)
        return result


def can_run_locally(network: object) -> bool:
    """Return whether all operations of a network can be seen: it is a module, not compiled.

    torch leaves its compiled multi-head attention out where a mode holds; a network that has one
    runs whole passes sooner. Hooks get whole passes: they may keep what they see.

    Args:
        network: Any classifier.
    """
    return isinstance(network, nn.Module) and not any(
        isinstance(module, torch.jit.ScriptModule | nn.MultiheadAttention)
        or module._compiled_call_impl is not None
        or hasattr(module, "_orig_mod")
        or module._forward_hooks
        or module._forward_pre_hooks
        for module in network.modules()
    )


Rule = Callable[[Operation, Sequence[Change], Tensor, Apply], Change | None]
"""From an operation, what it reads and its result on the image to its result on the copies."""


def _find_rule(operation: Operation, others: Sequence[Tensor]) -> Rule | None:
    name = operation.name
    if name == "batch_norm":
        return None if operation.argument(5, "training", False) else _run_aligned
    if name in ELEMENTWISE:
        # What else it reads is the same at all positions.
        is_aligned = all(map(_is_constant, others)) and "out" not in operation.kwargs
        return _run_aligned if is_aligned else None
    if name == "cat":
        return _run_aligned if operation.argument(1, "dim", 0) in (1, -3) and not others else None
    return {"conv2d": _run_convolution, "max_pool2d": _run_max_pool,
            "avg_pool2d": _run_average_pool}.get(name)  # fmt: skip


def _run_aligned(
    operation: Operation, changes: Sequence[Change], base: Tensor, apply: Apply
) -> Change | None:
    """Run an operation position by position, in the smallest rectangle with all changes."""
    tops, bottoms = _span(changes, 0)
    lefts, rights = _span(changes, 1)
    height, width = base.shape[2:]
    size = (
        max(bottom - top for top, bottom in zip(tops, bottoms, strict=True)),
        max(right - left for left, right in zip(lefts, rights, strict=True)),
    )
    if _is_most(size, base):
        return None
    corners = [
        (min(top, height - size[0]), min(left, width - size[1]))
        for top, left in zip(tops, lefts, strict=True)
    ]
    crops = [
        change.crops
        if change.size == size and list(change.corners) == corners
        else change.cut(corners, size)
        for change in changes
    ]
    return Change(base, apply(crops), corners)


def _span(changes: Sequence[Change], axis: int) -> tuple[list[int], list[int]]:
    """Return where the changes of each copy begin and end along an axis."""
    starts = [[corner[axis] for corner in change.corners] for change in changes]
    ends = [
        [start + change.size[axis] for start in row]
        for change, row in zip(changes, starts, strict=True)
    ]
    return [min(each) for each in zip(*starts, strict=True)], [
        max(each) for each in zip(*ends, strict=True)
    ]


def _run_convolution(
    operation: Operation, changes: Sequence[Change], base: Tensor, apply: Apply
) -> Change | None:
    padding = operation.argument(4, "padding", 0)
    if isinstance(padding, str):
        return None
    weight, bias = operation.argument(1, "weight"), operation.argument(2, "bias")
    stride, dilation = operation.argument(3, "stride", 1), operation.argument(5, "dilation", 1)
    groups = operation.argument(6, "groups", 1)
    window = _Window(tuple(weight.shape[2:]), _pair(stride), _pair(padding), _pair(dilation))
    return window.run(
        changes[0], base, lambda cut: torch.conv2d(cut, weight, bias, stride, 0, dilation, groups)
    )


def _run_max_pool(
    operation: Operation, changes: Sequence[Change], base: Tensor, apply: Apply
) -> Change | None:
    kernel = operation.argument(1, "kernel_size")
    stride, dilation = (
        operation.argument(2, "stride") or kernel,
        operation.argument(4, "dilation", 1),
    )
    padding = operation.argument(3, "padding", 0)
    if operation.argument(6, "return_indices", False):
        return None
    window = _Window(_pair(kernel), _pair(stride), _pair(padding), _pair(dilation), -torch.inf)
    return window.run(
        changes[0], base, lambda cut: torch.max_pool2d(cut, kernel, stride, 0, dilation)
    )


def _run_average_pool(
    operation: Operation, changes: Sequence[Change], base: Tensor, apply: Apply
) -> Change | None:
    kernel = operation.argument(1, "kernel_size")
    stride = operation.argument(2, "stride") or kernel
    padded = any(_pair(operation.argument(3, "padding", 0)))
    if padded or operation.argument(4, "ceil_mode", False):
        return None  # fewer values are averaged at the border
    divisor = operation.argument(6, "divisor_override")
    window = _Window(_pair(kernel), _pair(stride), (0, 0), (1, 1))
    run = torch._C._nn.avg_pool2d
    return window.run(
        changes[0], base, lambda cut: run(cut, kernel, stride, 0, False, True, divisor)
    )


@dataclass(frozen=True)
class _Window:
    """A window that slides over a map: height and width of each."""

    kernel: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    fill: float = 0.0  # of the padding

    def run(
        self, change: Change, base: Tensor, compute: Callable[[Tensor], Tensor]
    ) -> Change | None:
        """Compute the results that read the changed rectangle.

        Args:
            change: What is read.
            base: The result of the image.
            compute: The operation without padding.
        """
        rows, height = self._reach(change, base, 0)
        columns, width = self._reach(change, base, 1)
        if _is_most((height, width), base):
            return None
        starts = [
            (row * self.stride[0] - self.padding[0], column * self.stride[1] - self.padding[1])
            for row, column in zip(rows, columns, strict=True)
        ]
        size = self._read_length(height, 0), self._read_length(width, 1)
        crops = compute(change.cut(starts, size, self.fill))
        return Change(base, crops, list(zip(rows, columns, strict=True)))

    def _reach(self, change: Change, base: Tensor, axis: int) -> tuple[list[int], int]:
        """Return the first result of each copy that may change, and their greatest number."""
        stride, padding = self.stride[axis], self.padding[axis]
        span = (self.kernel[axis] - 1) * self.dilation[axis]
        side = base.shape[2 + axis]
        count = min((change.size[axis] - 1 + span) // stride + 1, side)
        first = [-((span - padding - corner[axis]) // stride) for corner in change.corners]
        return [min(max(start, 0), side - count) for start in first], count

    def _read_length(self, count: int, axis: int) -> int:
        return (count - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1


def _apply(operation: Operation, operands: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    if operation.name == "cat":
        joined: Tensor = torch.cat(list(maps), 1)
        return joined
    given, replaced = iter(maps), set(map(id, operands))
    args = [next(given) if id(arg) in replaced else arg for arg in operation.args]
    result: Tensor = replace(operation, args=tuple(args))()
    return result


def _list_operands(operation: Operation) -> list[Tensor]:
    """Return the tensors that stand where an operation with a rule reads maps."""
    if operation.name == "cat":
        return list(iterate_tensors(operation.args[:1]))
    count = 2 if operation.name in BINARY else 1
    return [arg for arg in operation.args[:count] if isinstance(arg, Tensor)]


def _list_others(operation: Operation, operands: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that an operation reads beside its maps: weights, constants."""
    known = set(map(id, operands))
    return [
        tensor
        for tensor in iterate_tensors((operation.args, dict(operation.kwargs)))
        if id(tensor) not in known
    ]


def _is_constant(tensor: Tensor) -> bool:
    """Return whether a tensor has one value for all copies and positions, or one a channel."""
    return tensor.numel() == 1 or (
        tensor.ndim in (3, 4)
        and tensor.shape[-2:] == (1, 1)
        and (tensor.ndim == 3 or len(tensor) == 1)
    )


def _asks(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a call needs no values: it asks for a shape or gives back what it got."""
    if is_attribute(func):
        return not isinstance(func(*args), Tensor)
    operation = read_operation(func, args, kwargs)
    if operation.name in DROPOUTS:
        return not operation.argument(2, "training", True)
    return operation.name in QUERIES


def _is_most(size: tuple[int, int], base: Tensor) -> bool:
    return size[0] * size[1] > MOST * base.shape[2] * base.shape[3]


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return (first, rest[0]) if rest else (first, first)


def _paste(target: Tensor, corner: tuple[int, int], source: Tensor, place: tuple[int, int]) -> None:
    """Copy a source at a place to a target at a corner, where both are."""
    (top, left), (row, column) = corner, place
    start, end = max(top, row), min(top + target.shape[1], row + source.shape[1])
    first, last = max(left, column), min(left + target.shape[2], column + source.shape[2])
    if start < end and first < last:
        target[:, start - top : end - top, first - left : last - left] = source[
            :, start - row : end - row, first - column : last - column
        ]
