"""The attention matrices of a vision transformer, and the tokens that each of its blocks gives.

    A = softmax(q k^T / sqrt(d) + mask)        [b, heads, n, n], a row for each query

They are recorded while the network runs. A torch function mode, which holds for this thread until
the pass ends, computes `scaled_dot_product_attention` and nn.MultiheadAttention from their
definitions, so that A is part of the graph; where a network computes its softmax itself, A is the
result of that. No module is replaced: it does not matter who wrote the network.

A block is the outermost module that contains one attention matrix and gives the tokens [b, n, K].
Of Swin it gives a grid of tokens, and has a matrix for each window (pipeline/model/windows.py); how
far the grid is shifted is seen from the `torch.roll` that runs before.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pipeline.errors import UserError
from pipeline.model.evaluation import HOOKS_LOCK
from pipeline.model.forms import first_tensor, infer_token_grid, replace_first_tensor
from pipeline.model.windows import infer_windows, read_shift
from pipeline.types import Attentions, AttentionWindows, Size

if TYPE_CHECKING:
    from jaxtyping import Float

Reduce = Callable[[Tensor], Tensor]
OTHER_METHODS = "Methods that need none: gradcam, layercam, gradient and all others"


@dataclass
class _Block:
    """An attention matrix, and the outermost module so far that contains it alone."""

    matrix: Tensor
    shape: tuple[int, ...]
    shift: Size
    name: str = ""
    windows: AttentionWindows | None = None
    read: Tensor | None = None
    tokens: Tensor | None = None
    given: Tensor | None = None  # what the network goes on with: a copy of the tokens


@dataclass
class _Running:
    """A module that runs: its name, what it reads, and how many matrices there were before."""

    name: str
    read: Any
    before: int


@dataclass
class _Recorder:
    """Record matrices and tokens of a forward pass.

    Args:
        images: the shape of the images.
        reduce: see `record_attentions`.
    """

    images: tuple[int, ...]
    reduce: Reduce | None
    shift: Size = (0, 0)  # of the grid, since the last matrix
    blocks: list[_Block] = field(default_factory=list)
    running: list[_Running] = field(default_factory=list)

    def record(self, matrix: Tensor) -> Tensor:
        """Record a matrix and return what the network goes on with."""
        shape, shift = tuple(matrix.shape), self.shift
        self.shift = (0, 0)
        if self.reduce is not None:
            torch.set_grad_enabled(False)
            self.blocks.append(_Block(self.reduce(matrix), shape, shift))
            return matrix
        torch.set_grad_enabled(True)
        if not matrix.requires_grad:
            matrix = matrix.detach().requires_grad_()
        self.blocks.append(_Block(matrix, shape, shift))
        return matrix

    def start(self, name: str, read: Any) -> None:
        """Record that a module starts."""
        self.running.append(_Running(name, read, len(self.blocks)))

    def end(self, module: nn.Module, output: Any) -> Any:
        """Record that the module that started last ends, and return its output, or a copy."""
        call = self.running.pop()
        tokens = first_tensor(output)
        if len(self.blocks) - call.before != 1 or not isinstance(tokens, Tensor):
            return output
        block = self.blocks[-1]
        windows = infer_windows(module, tokens, block.shape, block.shift, self.images)
        is_whole = tokens.ndim == 3 and tokens.shape[:2] == (self.images[0], block.shape[-1])
        if windows is None and not is_whole:
            return output
        block.name, block.read, block.windows = call.name, call.read, windows
        block.tokens = tokens if self.reduce is None else tokens.detach().requires_grad_()
        torch.set_grad_enabled(True)
        # A copy: what runs behind may change it in place.
        block.given = block.tokens.clone()
        return replace_first_tensor(output, block.given)


class _OpenAttention(TorchFunctionMode):
    """Compute attention from its definition, and give each matrix to a recorder."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._attend(*args, **kwargs)
        if name == "multi_head_attention_forward":
            return self._attend_packed(func, args, kwargs)
        if name == "roll":
            self.recorder.shift = read_shift(args, kwargs) or self.recorder.shift
        result = func(*args, **kwargs)
        if name == "softmax" and _is_attention(result):
            return self.recorder.record(result)
        return result

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        """Compute scaled_dot_product_attention; leave what is no self-attention to torch."""
        scale = options.get("scale") or query.shape[-1] ** -0.5
        known = not dropout_p and not is_causal and not options.get("enable_gqa")
        if not known or query.ndim != 4 or query.shape[-2] != key.shape[-2]:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, **options
            )
        return self._compute(query, key, value, attn_mask, scale)[0]

    def _compute(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Compute A v and A; record A."""
        scores = query * scale @ key.mT
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        matrix = self.recorder.record(scores.softmax(-1))
        return matrix.to(value.dtype) @ value, matrix

    def _attend_packed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute nn.MultiheadAttention's self-attention; leave all else to torch."""
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        query, heads = given["query"], given["num_heads"]
        unknown = ("key_padding_mask", "bias_k", "bias_v", "add_zero_attn", "static_k", "static_v",
                   "use_separate_proj_weight", "is_causal")  # fmt: skip
        drops = given["training"] and given["dropout_p"] > 0
        is_self = query is given["key"] and query is given["value"] and query.ndim == 3
        if drops or not is_self or any(given[name] not in (None, False) for name in unknown):
            return func(*args, **kwargs)
        tokens, batch, channels = query.shape
        packed = F.linear(query, given["in_proj_weight"], given["in_proj_bias"])
        parts = packed.reshape(tokens, batch, 3, heads, -1).permute(2, 1, 3, 0, 4)
        mask = given["attn_mask"]
        if mask is not None:
            mask = ~mask if mask.dtype == torch.bool else mask  # true: left out, unlike in SDPA
            mask = mask.reshape(-1, heads, *mask.shape[1:]) if mask.ndim == 3 else mask
        query, key, value = parts
        out, matrix = self._compute(query, key, value, mask, query.shape[-1] ** -0.5)
        out = F.linear(
            out.permute(2, 0, 1, 3).reshape(tokens, batch, channels),
            given["out_proj_weight"],
            given["out_proj_bias"],
        )
        if not given["need_weights"]:
            return out, None
        return out, matrix.mean(1) if given["average_attn_weights"] else matrix


def _is_attention(result: Any) -> bool:
    """Return whether a softmax gave matrices [b, heads, n, n] whose rows sum to 1."""
    return isinstance(result, Tensor) and result.ndim == 4 and result.shape[2] == result.shape[3]


def record_attentions(
    body: nn.Module,
    compute_logits: Callable[[Tensor], Tensor],
    images: Float[Tensor, "b 3 H W"],
    reduce: Reduce | None = None,
) -> Attentions:
    """Run a network once and record its attention.

    Args:
        body: contains all blocks; it is as it was afterwards.
        compute_logits: from images to logits [b, C], through the body.
        images: as the network reads them.
        reduce: what is kept of each matrix [b, heads, n, n], without a graph: the graph then
            starts at the tokens that the last block gives. None: the matrices, and the graph
            starts at the first of them.

    Raises:
        UserError: the network has no self-attention between all tokens of an image, or within
            Swin's windows.
    """
    recorder = _Recorder(tuple(images.shape), reduce)
    enabled = torch.is_grad_enabled()
    handles = []
    try:
        with HOOKS_LOCK:
            for name, module in body.named_modules():
                handles += _watch(name, module, recorder)
        torch.set_grad_enabled(False)
        with _OpenAttention(recorder):
            logits = compute_logits(images)
    finally:
        torch.set_grad_enabled(enabled)
        with HOOKS_LOCK:
            for handle in handles:
                handle.remove()
    tokens = _check_chain(recorder)
    last = recorder.blocks[-1]
    windows = [block.windows for block in recorder.blocks if block.windows is not None]
    others, grid = (
        (0, windows[0].grid)
        if windows
        else infer_token_grid(last.name, tokens[-1], (images.shape[2], images.shape[3]))
    )

    def read(replaced: Tensor) -> Tensor:
        with _replace_tokens(body.get_submodule(last.name), replaced):
            return compute_logits(images[:1])

    matrices = [block.matrix for block in recorder.blocks]
    return Attentions(logits, matrices, tokens, others, grid, read, windows)


def _watch(name: str, module: nn.Module, recorder: _Recorder) -> list[Any]:
    """Tell a recorder when a module starts and ends in this thread; return the hooks' handles."""
    thread = threading.get_ident()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == thread:
            recorder.start(name, first_tensor([*args, *kwargs.values()]))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return recorder.end(module, output) if threading.get_ident() == thread else None

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]


def _check_chain(recorder: _Recorder) -> list[Tensor]:
    """Return the tokens that each block gives.

    Raises:
        UserError: there is no block, its attention is not between all tokens of an image, or a
            block reads something else than what the block before it gives.
    """
    blocks = recorder.blocks
    if not blocks:
        raise UserError(
            "the network has no self-attention between tokens, as a vision transformer has, which "
            f"this method reads. {OTHER_METHODS}"
        )
    tokens = [block.tokens for block in blocks if block.tokens is not None]
    if len(tokens) < len(blocks) or not (_share_tokens(blocks) or _halve_grids(blocks)):
        shapes = sorted({block.shape for block in blocks})
        raise UserError(
            "the network's attention is neither between the same tokens in all blocks nor within "
            f"windows as Swin's: its matrices are {', '.join(map(_show, shapes))}; "
            f"this method is defined on products of them. {OTHER_METHODS}"
        )
    for block, after in pairwise(blocks):
        is_merged = block.windows and after.windows and block.windows.grid != after.windows.grid
        if after.read is not block.given and not is_merged:
            raise UserError(
                f"block {after.name!r} does not read what block {block.name!r} gives, so that "
                f"their attention cannot be chained. {OTHER_METHODS}"
            )
    return tokens


def _share_tokens(blocks: list[_Block]) -> bool:
    """Return whether attention is between the same tokens in all blocks."""
    same = len({(block.shape[0], block.shape[2]) for block in blocks}) == 1
    return same and not any(block.windows for block in blocks)


def _halve_grids(blocks: list[_Block]) -> bool:
    """Return whether attention is within windows of grids that stay or become half as large."""
    grids = [block.windows.grid for block in blocks if block.windows is not None]
    return len(grids) == len(blocks) and all(
        after in (grid, tuple(-(-side // 2) for side in grid)) for grid, after in pairwise(grids)
    )


def _show(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


@contextmanager
def _replace_tokens(block: nn.Module, tokens: Tensor) -> Iterator[None]:
    """Replace the tokens that a block gives in this thread's forward pass."""
    thread = threading.get_ident()
    enabled = torch.is_grad_enabled()

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        torch.set_grad_enabled(enabled)
        return replace_first_tensor(output, tokens)

    with HOOKS_LOCK:
        handle = block.register_forward_hook(hook)
    try:
        torch.set_grad_enabled(False)  # what runs before the block
        yield
    finally:
        torch.set_grad_enabled(enabled)
        with HOOKS_LOCK:
            handle.remove()
