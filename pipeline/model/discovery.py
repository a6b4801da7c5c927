"""The layers `last` and `below` and the GAP head of any network, found by running it once.

`last` is the last layer that gives feature maps of several cells and that the answer depends on at
each cell: of a CNN what its pooling reads, of a vision transformer with a class token the norm
before the last block's attention, as nothing reads the patches behind it. `below` is what the last
block reads: the last part, along the network's own nesting, that mixes positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.answers import check_rows
from pipeline.model.gap import GapHead, find_gap_head
from pipeline.model.trace import Call, Trace, record_trace

POOLING = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Upsample)
MAX_CANDIDATES = 12  # layers whose gradients are tried


@dataclass(frozen=True)
class Layers:
    """What is known of a network's layers.

    Attributes:
        last: the layer of the last feature maps.
        below: the layer that the last block reads; empty: none was recognised.
        head: where the class weights of the GAP head are; None: the head is another.
        problem: why there is no `last`; None: there is.
    """

    last: str
    below: str
    head: GapHead | None
    problem: str | None = None


def find_layers(
    network: nn.Module,
    images: Tensor,
    read_logits: Callable[[Any], Tensor],
    last: str | None = None,
    below: str | None = None,
) -> Layers:
    """Find the layers and the head of a network by one forward pass, and some backward passes.

    Args:
        network: any classifier; it is as it was afterwards.
        images: at least two different ones, as the network reads them.
        read_logits: from the network's output to the logits [b, C].
        last: the layer of the last feature maps, where it is named.
        below: the layer below, where it is named.

    Returns:
        The layers; without any that gives feature maps, the problem, as methods that reach the
        image need none.

    Raises:
        UserError: the layer that is named gives no feature maps, or the answer has no row for each
            image.
    """
    trace = record_trace(network, images)
    logits = read_logits(trace.output)
    check_rows(logits, len(images))
    call: Call | None
    tried: list[str] = []
    if last is not None:
        call = _find_named(trace, last)
    else:
        call, tried = _find_last(trace, network, images, read_logits)
    if call is None:
        return Layers("", "", None, _describe_problem(trace, tried))
    head = find_gap_head(trace, call, logits) if last is None or call.name == last else None
    name = last or (
        head.last if head is not None else trace.name_of(call.output, call.end) or call.name
    )
    if below is None:
        below = _find_below(trace, name) or ""
    return Layers(name, below, head)


def _find_named(trace: Trace, name: str) -> Call:
    """Return the last call of a layer; raise UserError unless it gave feature maps."""
    calls = [call for call in trace.calls if call.name == name]
    if not calls:
        maps = list(dict.fromkeys(c.name for c in trace.calls if c.name and trace.form_of(c)))
        shown = [layer for layer in maps if layer.count(".") == 0] or maps
        raise UserError(
            f"last={name!r}: no such layer runs; layers that give feature maps: "
            f"{', '.join(shown[-8:]) or 'none'}"
        )
    if trace.form_of(calls[-1]) is None:
        raise UserError(
            f"last={name!r}: gives {list(calls[-1].output.shape)}, expected feature maps "
            "[b, K, h, w] or [b, h, w, K], or tokens [b, n, K], of several cells"
        )
    return calls[-1]


def _find_last(
    trace: Trace, network: nn.Module, images: Tensor, read_logits: Callable[[Any], Tensor]
) -> tuple[Call | None, list[str]]:
    """Return the call that gave the last feature maps that matter, and what was tried before it."""
    tried: list[str] = []
    for call in _list_candidates(trace)[:MAX_CANDIDATES]:
        if _answer_depends(network, call, images, read_logits):
            return call, tried
        tried.append(call.name)
    return None, tried


def _describe_problem(trace: Trace, tried: list[str]) -> str:
    """Return why no layer was found, and how to name one, if a layer gives maps at all."""
    maps = list(dict.fromkeys(c.name for c in trace.calls if c.name and trace.form_of(c)))
    if not maps:
        return (
            "no layer of the network gives feature maps [b, K, h, w] of several cells, which this "
            "method reads; methods that read the image alone can explain it, as 'gradient', "
            "'integrated_gradients' and 'occlusion'"
        )
    return (
        "no layer of the network gives feature maps [b, K, h, w] on which its answer depends at "
        "most cells (a head of zeros depends on none)"
        f"{'; tried: ' + ', '.join(tried) if tried else ''}; name one: last=NAME, of "
        f"{', '.join(maps[-8:])}"
    )


def _list_candidates(trace: Trace) -> list[Call]:
    """List the calls that may give the last feature maps, the likeliest first.

    Of calls that give the same tensor the outermost is listed, and others only where something ran
    between their ends: a model that returns its maps beside what it pooled of them (Hugging Face)
    is listed, and the encoder in it.
    """
    candidates: list[Call] = []
    listed: dict[int, Call] = {}
    for call in reversed(trace.calls):
        form = trace.form_of(call)
        if form is None or not call.name or isinstance(call.module, POOLING):
            continue
        outer = listed.get(id(call.output))
        if outer is not None and not _runs_between(trace, call, outer):
            continue
        listed[id(call.output)] = call
        # Of tokens, only a norm's: within attention the tokens are those of queries and keys.
        if form == "tokens" and "norm" not in type(call.module).__name__.lower():
            continue
        candidates.append(call)
    return candidates


def _runs_between(trace: Trace, first: Call, second: Call) -> bool:
    """Return whether a module starts after the end of a call and before that of another."""
    return any(first.end < call.start < second.end for call in trace.calls)


def _answer_depends(
    network: nn.Module, call: Call, images: Tensor, read_logits: Callable[[Any], Tensor]
) -> bool:
    """Return whether the logits have a gradient at most cells of a layer."""
    from pipeline.model.wrapped import Wrapped

    probe = Wrapped(network, (), Layers(call.name, "", None), read_logits)
    with torch.enable_grad():
        answer = probe(images, at=(call.name,))
        maps = answer.activations[call.name]
        if not answer.logits.requires_grad:
            return False
        # The square has a gradient where a sum of the logits has none, as behind a softmax.
        score = answer.logits.float().square().sum()
        (gradients,) = torch.autograd.grad(score, maps, allow_unused=True)
    if gradients is None:
        return False
    return bool((gradients.abs().amax(1) > 0).float().mean() > 0.5)


def _find_below(trace: Trace, last: str) -> str | None:
    """Return the layer that the last block reads; None where none was recognised."""
    (call, *_) = [call for call in reversed(trace.calls) if call.name == last]
    if trace.form_of(call) == "tokens" and "norm" in type(call.module).__name__.lower():
        previous = _find_previous_block(trace, last)
        if previous is not None:
            return previous
    block = _find_last_block(trace, call)
    if block is None or block.read is None:
        return None
    before = Trace(
        [c for c in trace.calls if c.end < block.start], None, trace.image, trace.default
    )
    giver = before.name_of(block.read)
    is_map = any(trace.form_of(c) for c in before.calls if c.name == giver)
    return giver if is_map else None


def _find_last_block(trace: Trace, last: Call) -> Call | None:
    """Return the last call, along chains of modules, that mixes positions."""
    scope, block = trace.calls[-1], None
    if scope.name:
        return None
    while True:
        children = _list_children(trace, scope, last)
        mixing = [call for call in children if _mixes_positions(call.module)]
        if not mixing:
            return block
        block = mixing[-1]
        contains_last = block.start < last.start and last.end < block.end
        if not contains_last and not _is_chain(block.module):
            return block
        scope = block


def _list_children(trace: Trace, scope: Call, last: Call) -> list[Call]:
    """List the calls that a call made itself, not through another module, up to the last layer's.

    A list of modules is no module that runs: its members are children of what has the list.
    """
    called = {call.name for call in trace.calls}
    within = scope.name.count(".") + 1 if scope.name else 0
    children = []
    for call in trace.calls:
        parts = call.name.split(".")
        between = (".".join(parts[:n]) for n in range(within + 1, len(parts)))
        during = scope.start < call.start <= last.end and call.end < scope.end
        inside = during and (not scope.name or call.name.startswith(f"{scope.name}."))
        if inside and not any(name in called for name in between):
            children.append(call)
    return children


def _is_chain(module: nn.Module) -> bool:
    """Return whether a module runs its children in turn: a chain, or a stage of blocks."""
    if isinstance(module, nn.Sequential):
        return True
    lists = [c for c in module.children() if isinstance(c, nn.Sequential | nn.ModuleList)]
    return any(
        not isinstance(block, nn.Sequential)
        and _mixes_positions(block)
        and _count_weighted(block) > 1
        for blocks in lists
        for block in blocks
    )


def _count_weighted(module: nn.Module) -> int:
    return sum(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules())


def _mixes_positions(module: nn.Module) -> bool:
    """Return whether a module has a convolution of several positions, or attention."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and max(part.kernel_size) > 1:
            return True
        if "attention" in type(part).__name__.lower():
            return True
    return False


def _find_previous_block(trace: Trace, name: str) -> str | None:
    """Return the layer of the block before: `blocks.10.norm1` for `blocks.11.norm1`."""
    numbers = list(re.finditer(r"\d+", name))
    names = {call.name for call in trace.calls}
    for number in numbers:
        if int(number[0]) == 0:
            continue
        other = f"{name[: number.start()]}{int(number[0]) - 1}{name[number.end() :]}"
        if other in names:
            return other
    return None
