"""A classifier that answers with its activations, and the GAP heads that CAM reads.

body:  image -> feature maps f_k            head: feature maps -> logits

MeanLinear    s_c = sum_k w_k^c mean_ij f_k(i, j) + b_c        Zhou et al. 2016, equation 1
ConvMean      s_c = mean_ij relu(sum_k w_k^c f_k(i, j) + b_c)  SqueezeNet, Iandola et al. 2016
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.records import Answer, Problem

if TYPE_CHECKING:
    from jaxtyping import Float

LAST = "last"


class MeanLinear(nn.Module):
    """Global average pooling, then a linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        return self.linear.weight

    @property
    def bias(self) -> Float[Tensor, "C"]:
        return self.linear.bias

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C"]:
        pooled: Tensor = self.linear(features.mean((2, 3)))
        return pooled


class ConvMean(nn.Module):
    """A 1x1 convolution to one map a class, ReLU, then global average pooling."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, classes, 1)

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        return self.conv.weight[:, :, 0, 0]

    @property
    def bias(self) -> Float[Tensor, "C"]:
        assert self.conv.bias is not None
        return self.conv.bias

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C"]:
        maps: Tensor = self.conv(features)
        return maps.relu().mean((2, 3))


HEADS: dict[str, type[MeanLinear] | type[ConvMean]] = {
    "mean_linear": MeanLinear,
    "conv_mean": ConvMean,
}


class Classifier(nn.Module):
    """Satisfies records.Network. `last` names the feature maps that the head reads."""

    def __init__(self, body: nn.Module, head: nn.Module, classes: Sequence[str]) -> None:
        super().__init__()
        self.body = body
        self.head: Any = head  # a GAP head where `gap` says so
        self.classes = tuple(classes)

    @property
    def gap(self) -> MeanLinear | ConvMean:
        """The head, where it is a GAP head; raises Problem where it is another."""
        if not isinstance(self.head, MeanLinear | ConvMean):
            raise Problem(
                f"the network's head is a {type(self.head).__name__}, no global average pooling "
                "with one linear layer: it has no class weights, which CAM reads"
            )
        return self.head

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        return self.gap.class_weights

    @property
    def head_kind(self) -> str:
        return next(name for name, kind in HEADS.items() if type(self.gap) is kind)

    def forward(self, images: Float[Tensor, "b 3 H W"], at: Sequence[str] = ()) -> Answer:
        """Logits, and the activations of the layers named in `at`.

        The graph starts at the first of them that runs: what comes before keeps none, and no
        gradient reaches `images`. Without `at`, and under no_grad, torch's usual rules hold. A
        layer that runs several times answers with its last run.

        Raises Problem for a layer that is not there, with the near ones.
        """
        if not at:
            return Answer(self.head(self.body(images)))
        with _watching({name: self._layer(name) for name in at}) as found:
            logits = self.head(self.body(images))
        for name in at:
            if name not in found:
                raise Problem(f"layer {name!r}: the network has it but does not run it")
        return Answer(logits, {name: found[name] for name in at})

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b K h w"]:
        maps: Tensor = self.body(images)
        return maps

    def _layer(self, name: str) -> nn.Module:
        if name == LAST:
            return self.body
        try:
            return self.body.get_submodule(name)
        except AttributeError:
            known = [layer for layer, _ in self.body.named_modules() if layer]
            close = difflib.get_close_matches(name, known, n=8, cutoff=0.5)
            shown = close or [layer for layer in known if "." not in layer]
            raise Problem(
                f"layer {name!r}: no such layer; {'near ones' if close else 'the top ones'}: "
                f"{', '.join(shown)}; {LAST!r} is what the head reads"
            ) from None


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], where: str, what: str) -> None:
    """Make the tensors of `state` the network's own; it may lie on the meta device.

    Raises Problem, which begins with `where`, unless names and shapes are those of `what`.
    """
    wanted = network.state_dict()
    given = dict(state)
    for key, tensor in wanted.items():
        if key.endswith("num_batches_tracked"):  # files from before torch 0.4.1 have none
            given.setdefault(key, torch.zeros_like(tensor, device="cpu"))
    missing = [key for key in wanted if key not in given]
    unknown = [key for key in given if key not in wanted]
    shapes = [key for key in wanted if key in given and wanted[key].shape != given[key].shape]
    amiss = [
        f"{len(keys)} of {count} tensors {why} ({example(keys[0])})"
        for keys, count, why, example in (
            (missing, len(wanted), "it needs are missing", str),
            (unknown, len(state), "in the file are not its", str),
            (shapes, len(wanted), "have another shape",
             lambda key: f"{key}: {list(given[key].shape)}, not {list(wanted[key].shape)}"),
        )
        if keys
    ]  # fmt: skip
    if amiss:
        raise Problem(f"{where}: these weights do not fit {what}: {'; '.join(amiss)}")
    network.load_state_dict(given, assign=True)


# torch numbers hooks by a counter that two threads could read at once.
_HOOKS = threading.Lock()


@contextmanager
def _watching(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Activations of `layers` in this thread's forward pass; no hook is left behind.

    The pass starts without a graph; from the first of the layers on it keeps one. An activation
    that hangs on no graph yet becomes its start. What goes on is a copy, so that a ReLU in place
    behind the layer changes nothing that was given out.
    """
    found: dict[str, Tensor] = {}
    owner = threading.get_ident()
    graph = torch.is_grad_enabled()

    def watch(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
            if threading.get_ident() != owner:
                return None
            if not isinstance(output, Tensor) or output.ndim != 4:
                got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise Problem(f"layer {name!r}: expected feature maps [b, K, h, w], got {got}")
            torch.set_grad_enabled(graph)
            if any(output is one for one in inputs):  # Identity, Dropout: others may change it
                output = output.clone()
            if graph and not output.requires_grad:
                output = output.detach().requires_grad_()
            found[name] = output
            passed: Tensor = output.clone()
            return passed

        return hook

    handles = []
    try:
        with _HOOKS:
            for name, layer in layers.items():
                handles.append(layer.register_forward_hook(watch(name)))
        torch.set_grad_enabled(False)
        yield found
    finally:
        torch.set_grad_enabled(graph)
        with _HOOKS:
            for handle in handles:
                handle.remove()
