"""A forward pass, recorded: which modules ran, in which order, from what to what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.evaluation import HOOKS_LOCK, evaluation_mode
from pipeline.model.forms import Form, default_form, first_tensor, infer_form, to_maps
from pipeline.types import Size

PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class Call:
    """A run of a module.

    Attributes:
        name: the module's path within the network; empty: the network itself.
        module: the module.
        read: the first tensor that it was given; None where it was given none.
        output: the first tensor that it gave.
        start: when it started; calls are counted by starts and ends.
        end: when it ended.
        version: how often the output had been changed in place by then.
    """

    name: str
    module: nn.Module
    read: Tensor | None
    output: Tensor
    start: int
    end: int
    version: int

    @property
    def is_changed(self) -> bool:
        """Whether what ran later changed the output in place, as a functional ReLU does."""
        return self.output._version != self.version


@dataclass(frozen=True)
class Trace:
    """The calls of a forward pass in the order of their ends, and what the network gave.

    Attributes:
        calls: those that gave a tensor.
        output: of the network.
        image: height and width of the images.
        default: the form of a layer where its shape does not tell.
    """

    calls: Sequence[Call]
    output: Any
    image: Size
    default: Form | None = None

    def name_of(self, tensor: Tensor | None, until: int | None = None) -> str | None:
        """Return the outermost and then last module that gave a tensor; None: no module did.

        Of modules at one level the last is meant, as a ReLU in place gives the tensor that it read;
        but none that does nothing in evaluation mode.

        Args:
            tensor: an output.
            until: modules that end later are not meant.
        """
        givers = [
            call
            for call in self.calls
            if call.output is tensor and call.name and (until is None or call.end <= until)
        ]
        working = [call for call in givers if not isinstance(call.module, PASSING)] or givers
        best = min(working, key=lambda call: (call.name.count("."), -call.end), default=None)
        return None if best is None else best.name

    def form_of(self, call: Call) -> Form | None:
        """Return the form of a call's output; None where it is no feature map of several cells."""
        if call.output.ndim not in (3, 4) or not call.output.is_floating_point():
            return None
        try:
            form = infer_form(call.name, call.module, call.output, self.image, self.default)
            maps, _ = to_maps(call.name, call.module, call.output, self.image, self.default)
        except UserError:
            return None
        return form if maps.shape[2] * maps.shape[3] > 1 else None

    def maps_of(self, call: Call) -> Tensor:
        """Return the output of a call that has a form, as feature maps [b, K, h, w]."""
        return to_maps(call.name, call.module, call.output, self.image, self.default)[0]


def record_trace(network: nn.Module, images: Tensor) -> Trace:
    """Run a network once in evaluation mode, without gradients, and record its calls.

    Args:
        network: is as it was afterwards.
        images: [b, 3, H, W] as the network reads them.
    """
    calls: list[Call] = []
    started: dict[int, list[tuple[int, Tensor | None]]] = {}
    count = 0
    thread = threading.get_ident()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal count
        if threading.get_ident() == thread:
            count += 1
            given = first_tensor([*args, *kwargs.values()])
            nested = first_tensor(args[0]) if given is None and args else given
            started.setdefault(id(module), []).append((count, nested))

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            nonlocal count
            if threading.get_ident() != thread:
                return
            count += 1
            start, read = started[id(module)].pop()
            tensor = first_tensor(output)
            if isinstance(tensor, Tensor):
                calls.append(Call(name, module, read, tensor, start, count, tensor._version))

        return hook

    handles = []
    try:
        with HOOKS_LOCK:
            for name, module in network.named_modules():
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(module.register_forward_hook(after(name)))
        with torch.no_grad(), evaluation_mode(network):
            output = network(images)
    finally:
        with HOOKS_LOCK:
            for handle in handles:
                handle.remove()
    return Trace(calls, output, (images.shape[2], images.shape[3]), default_form(network))
