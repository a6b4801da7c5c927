"""Activations of layers, recorded while a network runs, and a layer's output replaced meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.evaluation import HOOKS_LOCK
from pipeline.model.forms import Form, to_maps

INPUT = "input"  # the name of the images among the layers


class Steps(Protocol):
    """What is left of a body where its first steps have run."""

    @property
    def recorded(self) -> frozenset[str]:
        """Names of the layers that it records by itself."""

    def __call__(self, recording: Recording) -> Any:
        """Run it, and return what the body gives."""


class Recording:
    """The activations of layers in this thread's forward pass.

    The pass starts without a graph and keeps one from the first of the layers on. An activation
    that belongs to no graph yet becomes the start of one. The network continues on a copy, so that
    a ReLU in place behind the layer does not change the recorded activation.

    Args:
        images: [b, c, H, W], that the network runs on.
        read_maps: from the name of a layer and its maps to what is recorded of them.
        default: the form of a layer where its shape does not tell.

    Attributes:
        activations: of the layers by name; filled during the pass.
    """

    def __init__(
        self, images: Tensor, read_maps: Callable[[str, Tensor], Tensor], default: Form | None
    ) -> None:
        self.activations: dict[str, Tensor] = {}
        self._images = images
        self._read_maps = read_maps
        self._default = default
        self._graph = torch.is_grad_enabled()

    def keep(self, name: str, module: nn.Module, output: Any, inputs: tuple[Any, ...] = ()) -> Any:
        """Record the output of a layer, and return what the network continues on.

        Args:
            name: of the layer.
            module: the layer.
            output: what it gave.
            inputs: what it was given.
        """
        size = (self._images.shape[2], self._images.shape[3])
        maps, put_back = to_maps(name, module, output, size, self._default)
        maps = self._read_maps(name, maps)
        torch.set_grad_enabled(self._graph)
        # Identity and Dropout return their input, which another module may change in place.
        if any(maps is tensor for tensor in inputs):
            maps = maps.clone()
        if self._graph and not maps.requires_grad:
            maps = maps.detach().requires_grad_()
        self.activations[name] = maps
        return put_back(maps.clone())

    @contextmanager
    def record(
        self, layers: Mapping[str, nn.Module], from_input: bool, behind: Steps | None = None
    ) -> Iterator[Tensor]:
        """Record the outputs of layers, and remove the hooks afterwards.

        Args:
            layers: by name.
            from_input: whether the images are recorded, too.
            behind: runs what is left of the body and records some of the layers by itself.

        Yields:
            The images to run the network on.
        """
        thread = threading.get_ident()
        by_itself = frozenset() if behind is None else behind.recorded

        def watch(name: str) -> Callable[[nn.Module, Any, Any], Any]:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
                if threading.get_ident() != thread:
                    return None
                return self.keep(name, module, output, inputs)

            return hook

        images, handles = self._images, []
        try:
            with HOOKS_LOCK:
                for name, layer in layers.items():
                    if name not in by_itself:
                        handles.append(layer.register_forward_hook(watch(name)))
            if from_input:
                self.activations[INPUT] = images = images.detach().requires_grad_(self._graph)
                images = images.clone()
            else:
                torch.set_grad_enabled(False)
            yield images
        finally:
            torch.set_grad_enabled(self._graph)
            with HOOKS_LOCK:
                for handle in handles:
                    handle.remove()


@contextmanager
def replace_output(
    name: str, layer: nn.Module, features: Tensor, image: Tensor, default: Form | None
) -> Iterator[None]:
    """Replace a layer's output in this thread's forward pass, and remove the hook after it.

    Args:
        name: of the layer.
        layer: the module.
        features: [n, K, h, w], what replaces its output.
        image: [m, c, H, W], that the features belong to.
        default: the form of the layer where its shape does not tell.

    Raises:
        UserError: the layer runs several times.
    """
    thread = threading.get_ident()
    runs = 0

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        nonlocal runs
        if threading.get_ident() != thread:
            return None
        runs += 1
        if runs > 1:
            raise repeated_layer_error(name)
        _, put_back = to_maps(name, module, output, (image.shape[2], image.shape[3]), default)
        return put_back(features)

    with HOOKS_LOCK:
        handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        with HOOKS_LOCK:
            handle.remove()


def repeated_layer_error(name: str) -> UserError:
    """Return the error of a layer whose output cannot be replaced.

    Args:
        name: of the layer.
    """
    return UserError(
        f"layer {name!r}: it runs several times, so that its output cannot be replaced"
    )
