"""Which pixels a place of a feature map can see: its receptive field, by arithmetic.

    from [a, b] of what a window answers to [a s - p, b s - p + d (k - 1)] of what it reads

for a stride s, a padding p, a kernel of k and a dilation d (Araujo et al., "Computing Receptive
Fields of Convolutional Neural Networks", Distill 2019). The windows are those that autograd
recorded, so it does not matter how the network is written, and branches are joined: the field is
the smallest rectangle that holds those of all ways back to the image. What mixes all places
(pooling to one value, attention) sees the whole image, and so does whatever this file does not know
for certain to keep places apart. Unlike a gradient's support it does not hang on which ReLUs are
open in an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from pipeline.types import Size

Span = tuple[int, int]
"""First and last place, both included."""
Field = tuple[Span, Span]
"""Rows and columns."""

# Place by place: what they answer somewhere is made of what they read there.
PLACEWISE = {
    "AccumulateGrad", "Add", "Addcmul", "Alias", "Cat", "Celu", "Clamp", "ClampMin", "Clone",
    "CudnnBatchNorm", "Div", "Elu", "Gelu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu",
    "MiopenBatchNorm", "Mish", "Mul", "NativeBatchNorm", "NativeDropout", "Neg", "PreluKernel",
    "Relu", "Sigmoid", "Silu", "Softplus", "Sub", "Tanh", "ToCopy",
}  # fmt: skip
EVERYWHERE: Span = (-(10**9), 10**9)


def receptive_field(of: Tensor, image: Tensor, row: int, column: int) -> tuple[Span, Span]:
    """Rows and columns that the place (row, column) of `of` [b, K, h, w] can see, the pixels that
    padding adds beside the image included; the whole image where places are mixed.

    `image` [b, 3, H, W] is the leaf that `of` was computed from, with a graph between the two.
    """
    height, width = image.shape[2:]
    start: Field = ((row, row), (column, column))
    fields: dict[Node, Field] = {}
    assert of.grad_fn is not None
    _join(fields, of.grad_fn, start)
    seen: Field | None = None
    for node in _down(of.grad_fn):
        field = fields[node]
        if getattr(node, "variable", None) is image:
            seen = field
            break
        behind = _behind(node, field)
        for before, _ in node.next_functions:
            if before is not None:
                _join(fields, before, behind)
    assert seen is not None, "no graph from the image to the map"
    rows, columns = (
        (0, size - 1) if span[0] <= EVERYWHERE[0] or span[1] >= EVERYWHERE[1] else span
        for span, size in zip(seen, (height, width), strict=True)
    )
    return rows, columns


def clipped(field: Field, size: Size) -> Field:
    """What of a field is on an image of `size`."""
    (top, bottom), (left, right) = field
    return (max(top, 0), min(bottom, size[0] - 1)), (max(left, 0), min(right, size[1] - 1))


def _join(fields: dict[Node, Field], node: Node, field: Field) -> None:
    before = fields.get(node)
    if before is not None:
        (a, b), (c, d) = before
        (e, f), (g, h) = field
        field = (min(a, e), max(b, f)), (min(c, g), max(d, h))
    fields[node] = field


def _down(start: Node) -> Sequence[Node]:
    """Every node, each after all that read it."""
    order: list[Node] = []
    seen: set[Node] = set()
    waiting: list[tuple[Node, bool]] = [(start, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting.extend((n, False) for n, _ in node.next_functions if n is not None)
    return order[::-1]


def _behind(node: Node, field: Field) -> Field:
    kind = node.name().partition("Backward")[0]
    kind = kind.rpartition("::")[2]
    window = _window(kind, node)
    if window is not None:
        rows, columns = (
            (a * s - p, b * s - p + d * (k - 1))
            if EVERYWHERE[0] < a and b < EVERYWHERE[1]
            else EVERYWHERE
            for (a, b), k, s, p, d in zip(
                field, *(window[n] for n in ("kernel", "stride", "padding", "dilation")),
                strict=True,
            )
        )  # fmt: skip
        return rows, columns
    return field if kind in PLACEWISE else (EVERYWHERE, EVERYWHERE)


def _window(kind: str, node: Any) -> Mapping[str, Sequence[int]] | None:
    """Height and width of a sliding window's numbers; None for anything else."""
    if kind == "Convolution" and not node._saved_transposed and node._saved_weight.ndim == 4:
        kernel = tuple(node._saved_weight.shape[2:])
        return {
            "kernel": kernel,
            "stride": _pair(node._saved_stride),
            "padding": _pair(node._saved_padding),
            "dilation": _pair(node._saved_dilation),
        }
    if kind in ("MaxPool2DWithIndices", "AvgPool2D"):
        kernel = _pair(node._saved_kernel_size)
        return {
            "kernel": kernel,
            "stride": _pair(node._saved_stride or kernel),
            "padding": _pair(node._saved_padding),
            "dilation": _pair(node._saved_dilation) if kind[0] == "M" else (1, 1),
        }
    return None


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[-1])
