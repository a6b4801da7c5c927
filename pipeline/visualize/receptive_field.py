"""The receptive field of a position of a feature map: the pixels that it depends on.

    output positions [a, b] of a window read its input at [a s - p, b s - p + d (k - 1)]

for a stride s, a padding p, a kernel of k and a dilation d (Araujo et al., "Computing Receptive
Fields of Convolutional Neural Networks", Distill 2019). The windows are read from the graph that
autograd recorded, so the network may be written in any way. Where branches join, the field is the
smallest rectangle that holds the fields of all paths back to the image. Operations that mix all
positions (global pooling, attention) depend on the whole image, as do all operations that are not
listed here as elementwise. Unlike the support of a gradient, the field does not depend on which
ReLUs are active.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from pipeline.types import Size

Span = tuple[int, int]
"""First and last position, both included."""
Field = tuple[Span, Span]
"""Rows and columns."""

# Each output position of these depends on the same position of their inputs alone.
ELEMENTWISE = {
    "AccumulateGrad", "Add", "Addcmul", "Alias", "Cat", "Celu", "Clamp", "ClampMin", "Clone",
    "CudnnBatchNorm", "Div", "Elu", "Gelu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu",
    "MiopenBatchNorm", "Mish", "Mul", "NativeBatchNorm", "NativeDropout", "Neg", "PreluKernel",
    "Relu", "Sigmoid", "Silu", "Softplus", "Sub", "Tanh", "ToCopy",
}  # fmt: skip
EVERYWHERE: Span = (-(10**9), 10**9)


def compute_receptive_field(of: Tensor, image: Tensor, row: int, column: int) -> tuple[Span, Span]:
    """Compute the receptive field of a position of a feature map.

    Args:
        of: The feature maps [b, K, h, w], with the graph that leads back to `image`.
        image: The leaf [b, 3, H, W] that `of` was computed from.
        row: Of the position.
        column: Of the position.

    Returns:
        First and last row, first and last column, in pixels of the image. They lie beyond the image
        where padding is read; they are the whole image where positions are mixed.
    """
    height, width = image.shape[2:]
    start: Field = ((row, row), (column, column))
    fields: dict[Node, Field] = {}
    assert of.grad_fn is not None
    _join_field(fields, of.grad_fn, start)
    seen: Field | None = None
    for node in _order_nodes(of.grad_fn):
        field = fields[node]
        if _read_leaf(node) is image:
            seen = field
            break
        input_field = _propagate(node, field)
        for before, _ in node.next_functions:
            if before is not None:
                _join_field(fields, before, input_field)
    assert seen is not None, "no graph from the image to the map"
    rows, columns = (
        (0, size - 1) if span[0] <= EVERYWHERE[0] or span[1] >= EVERYWHERE[1] else span
        for span, size in zip(seen, (height, width), strict=True)
    )
    return rows, columns


def clip_field(field: Field, size: Size) -> Field:
    """Clip a field to an image of a size, (height, width)."""
    (top, bottom), (left, right) = field
    return (max(top, 0), min(bottom, size[0] - 1)), (max(left, 0), min(right, size[1] - 1))


def _read_leaf(node: Any) -> Tensor | None:
    """Return the leaf that a node accumulates gradients of; None for any other node."""
    return node.variable if node.name().endswith("AccumulateGrad") else None


def _join_field(fields: dict[Node, Field], node: Node, field: Field) -> None:
    """Enlarge the field of a node to the smallest rectangle that also holds another field."""
    before = fields.get(node)
    if before is not None:
        (a, b), (c, d) = before
        (e, f), (g, h) = field
        field = (min(a, e), max(b, f)), (min(c, g), max(d, h))
    fields[node] = field


def _order_nodes(start: Node) -> Sequence[Node]:
    """Return all nodes behind a node, each after all nodes that read it."""
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


def _propagate(node: Node, field: Field) -> Field:
    """Return the field of a node's inputs from that of its output."""
    kind = node.name().partition("Backward")[0]
    kind = kind.rpartition("::")[2]
    window = _read_window(kind, node)
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
    return field if kind in ELEMENTWISE else (EVERYWHERE, EVERYWHERE)


def _read_window(kind: str, node: Any) -> Mapping[str, Sequence[int]] | None:
    """Return kernel, stride, padding and dilation of a sliding window, for rows and columns.

    None for an operation that is no sliding window.
    """
    if kind == "Convolution" and not node._saved_transposed and node._saved_weight.ndim == 4:
        kernel = tuple(node._saved_weight.shape[2:])
        return {
            "kernel": kernel,
            "stride": _to_pair(node._saved_stride),
            "padding": _to_pair(node._saved_padding),
            "dilation": _to_pair(node._saved_dilation),
        }
    if kind in ("MaxPool2DWithIndices", "AvgPool2D"):
        kernel = _to_pair(node._saved_kernel_size)
        return {
            "kernel": kernel,
            "stride": _to_pair(node._saved_stride or kernel),
            "padding": _to_pair(node._saved_padding),
            "dilation": _to_pair(node._saved_dilation) if kind[0] == "M" else (1, 1),
        }
    return None


def _to_pair(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[-1])
