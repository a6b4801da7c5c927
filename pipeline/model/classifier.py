"""A classifier that answers with its activations, and the GAP heads that CAM reads.

body:  image -> feature maps f_k            head: feature maps -> logits

MeanLinear    s_c = sum_k w_k^c mean_ij f_k(i, j) + b_c        Zhou et al. 2016, equation 1
ConvMean      s_c = mean_ij relu(sum_k w_k^c f_k(i, j) + b_c)  SqueezeNet, Iandola et al. 2016

Any other head (VGG's fully connected layers, a transformer's class token) is a network's own: every
method that reads no class weights works on it.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float

INPUT, LAST, BELOW = "input", "last", "below"
FOREGROUND = "foreground"  # the branch that was trained to localize
OBJECT_CLASS = "object_class"  # the branch that tells the class by what is foreground
OWN = "own"  # the head of a card whose network has no GAP head


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
    """Satisfies records.Network. `last` are the feature maps that the head reads.

    They are what the body gives; or what the argument `last` names within it, where the body gives
    something else (a transformer: its class token). `below` names what the last block reads.

    `branches` are further heads, each of which answers to its name as a layer does: a module with
    `reads`, the names of layers and of branches before it, that is called with their activations
    (model/foreground.py, model/second_order.py).
    """

    def __init__(
        self,
        body: nn.Module,
        head: nn.Module,
        classes: Sequence[str],
        last: str = "",
        below: str = "",
    ) -> None:
        super().__init__()
        self.body = body
        self.head: Any = head  # a GAP head where `gap` says so
        self.classes = tuple(classes)
        self.last = last
        self.below = below
        self.branches = nn.ModuleDict()

    @property
    def gap(self) -> MeanLinear | ConvMean:
        """The head, where it is a GAP head; raises UserError where it is another."""
        if not isinstance(self.head, MeanLinear | ConvMean):
            raise UserError(
                "the network's head is its own, no global average pooling with one linear layer: "
                "it has no class weights, which CAM reads. Methods that need none: gradcam, "
                "layercam, gradient and all others; train.head=new trains a GAP head"
            )
        return self.head

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        return self.gap.class_weights

    @property
    def stands_alone(self) -> bool:
        """Whether the branch `foreground` is better alone than with the map that taught it."""
        return FOREGROUND not in self.branches or bool(
            getattr(self.branches[FOREGROUND], "alone", True)
        )

    @property
    def tells_objects(self) -> bool:
        """Whether it answers at `object_class`: logits by what is foreground alone."""
        return OBJECT_CLASS in self.branches

    @property
    def channels(self) -> int | None:
        """K of the feature maps that a GAP head reads; None where the head is another."""
        return None if self.head_kind == OWN else int(self.class_weights.shape[1])

    @property
    def head_kind(self) -> str:
        return next((name for name, kind in HEADS.items() if type(self.head) is kind), OWN)

    def forward(self, images: Float[Tensor, "b 3 H W"], at: Sequence[str] = ()) -> NetworkOutput:
        """Logits, and the activations of the layers named in `at`.

        The graph starts at the first of them that runs: what comes before keeps none. The layer
        `input` is the images themselves: without it no gradient reaches them. Without `at`, and
        under no_grad, torch's usual rules hold. A layer that runs several times answers with its
        last run. Tokens of a transformer [b, n, d] come as a grid [b, d, h, w] without the class
        token, which stays what it is.

        Raises UserError for a layer that is not there, with the near ones.
        """
        if not at:
            return NetworkOutput(self.head(self.body(images)))
        branches = self._branches(at)
        read = [name for branch in branches.values() for name in branch.reads]
        names = dict.fromkeys(name for name in (*at, *read) if name not in branches)
        layers = {name: self._layer(name) for name in names if name != INPUT}
        with _watching(layers, images, INPUT in names) as (found, watched):
            logits = self.head(self.body(watched))
        for name in names:
            if name not in found:
                raise UserError(f"layer {name!r}: the network has it but does not run it")
        for name, branch in branches.items():
            found[name] = branch(*(found[layer] for layer in branch.reads))
        return NetworkOutput(logits, {name: found[name] for name in at})

    def _branches(self, at: Sequence[str]) -> dict[str, Any]:
        """The branches that are asked for, each behind those that it reads."""
        found: dict[str, Any] = {}
        for name in at:
            if name in self.branches:
                branch: Any = self.branches[name]
                found |= {**self._branches(branch.reads), name: branch}
        return found

    def behind(
        self, layer: str, features: Float[Tensor, "n K h w"], image: Float[Tensor, "m 3 H W"]
    ) -> Float[Tensor, "n C"]:
        """Logits if `layer` answered with `features` instead of its own: those of one image, or
        each that of an image of its own.

        What comes before the layer runs once or not at all, as far as the body is made of
        nn.Sequential, and n times where only its code could tell what that is. `features` may be
        written over.

        Raises UserError for a layer that is not there, or runs several times.
        """
        if layer == INPUT:
            return self.forward(features).logits
        before, step, after = self._around(layer)
        if step is not None:
            maps = image
            for module in before:
                maps = module(maps)
            if len(maps) == 1:
                maps = maps.repeat(len(features), *[1] * (maps.ndim - 1))
            with _replacing(layer, self._layer(layer), features, image):
                features = step(maps)
        for module in after:
            features = module(features)
        logits: Tensor = self.head(features)
        return logits

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b K h w"]:
        maps: Tensor = self.body(images)
        return maps

    def _path(self, name: str) -> str:
        """Where within the body a layer is; empty: it is the body itself."""
        if name == LAST:
            return self.last
        return self.below if name == BELOW and self.below else name

    def _around(self, name: str) -> tuple[list[nn.Module], nn.Module | None, list[nn.Module]]:
        """What the body runs before a layer, what the layer lies in, and what runs after that.

        The middle is None where it is the layer itself.
        """
        layer = self._layer(name)
        every = self.body.named_modules(remove_duplicate=False)
        if sum(module is layer for _, module in every) > 1:
            raise _runs_several_times(name)
        before: list[nn.Module] = []
        after: list[nn.Module] = []
        within: nn.Module = self.body
        for part in filter(None, self._path(name).split(".")):
            if type(within).forward is not nn.Sequential.forward:
                return before, within, after
            names, steps = zip(*within._modules.items(), strict=True)
            place = names.index(part)
            before += steps[:place]
            after[:0] = steps[place + 1 :]
            within = steps[place]
        return before, None, after

    def _layer(self, name: str) -> nn.Module:
        try:
            return self.body.get_submodule(self._path(name))
        except AttributeError:
            if name == FOREGROUND:
                raise UserError(
                    "the network has no branch 'foreground', which was trained to localize: "
                    "+experiment=best and stages=[train,refine,...] train one"
                ) from None
            known = [layer for layer, _ in self.body.named_modules() if layer]
            close = difflib.get_close_matches(name, known, n=8, cutoff=0.5)
            shown = close or [layer for layer in known if "." not in layer]
            raise UserError(
                f"layer {name!r}: no such layer; {'near ones' if close else 'the top ones'}: "
                f"{', '.join(shown)}; {LAST!r} is what the head reads, {BELOW!r} what the last "
                f"block reads, {INPUT!r} the image"
            ) from None


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], where: str, what: str) -> None:
    """Make the tensors of `state` the network's own; it may lie on the meta device.

    Raises UserError, which begins with `where`, unless names and shapes are those of `what`.
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
        raise UserError(f"{where}: these weights do not fit {what}: {'; '.join(amiss)}")
    network.load_state_dict(given, assign=True)


def _check_activation(name: str, output: Any) -> None:
    """Raise UserError unless a layer gave feature maps [b, K, h, w] or tokens [b, n, K]."""
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"layer {name!r}: expected feature maps [b, K, h, w], got {got}")


# torch numbers hooks by a counter that two threads could read at once.
_HOOKS = threading.Lock()


@contextmanager
def _watching(
    layers: Mapping[str, nn.Module], images: Tensor, from_input: bool
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Activations of `layers` in this thread's forward pass; no hook is left behind.

    The pass starts without a graph; from the first of the layers on it keeps one. An activation
    that hangs on no graph yet becomes its start. What goes on is a copy, so that a ReLU in place
    behind the layer changes nothing that was given out. Yields the activations, filled as the pass
    goes, and the images to run it on.
    """
    found: dict[str, Tensor] = {}
    owner = threading.get_ident()
    graph = torch.is_grad_enabled()

    def start(output: Tensor) -> Tensor:
        return output.detach().requires_grad_() if graph and not output.requires_grad else output

    def watch(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
            if threading.get_ident() != owner:
                return None
            _check_activation(name, output)
            torch.set_grad_enabled(graph)
            if output.ndim == 3:  # tokens of a transformer
                others, (height, width) = _token_grid(name, output, images)
                grid = output[:, others:].mT.reshape(len(output), -1, height, width)
                found[name] = grid = start(grid)
                behind = grid.permute(0, 2, 3, 1).flatten(1, 2)
                return torch.cat((output[:, :others], behind), 1)
            if any(output is one for one in inputs):  # Identity, Dropout: others may change it
                output = output.clone()
            found[name] = output = start(output)
            passed: Tensor = output.clone()
            return passed

        return hook

    handles = []
    try:
        with _HOOKS:
            for name, layer in layers.items():
                handles.append(layer.register_forward_hook(watch(name)))
        if from_input:
            found[INPUT] = images = images.detach().requires_grad_(graph)
            images = images.clone()
        else:
            torch.set_grad_enabled(False)
        yield found, images
    finally:
        torch.set_grad_enabled(graph)
        with _HOOKS:
            for handle in handles:
                handle.remove()


@contextmanager
def _replacing(name: str, layer: nn.Module, features: Tensor, image: Tensor) -> Iterator[None]:
    """In this thread's forward pass `layer` answers with `features`; no hook is left behind."""
    owner = threading.get_ident()
    runs = 0

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        nonlocal runs
        if threading.get_ident() != owner:
            return None
        runs += 1
        if runs > 1:
            raise _runs_several_times(name)
        if output.ndim == 3:
            others, _ = _token_grid(name, output, image)
            return torch.cat((output[:, :others], features.permute(0, 2, 3, 1).flatten(1, 2)), 1)
        return features

    with _HOOKS:
        handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        with _HOOKS:
            handle.remove()


def _runs_several_times(name: str) -> UserError:
    return UserError(
        f"layer {name!r}: it runs several times, so that its answer is not one to replace"
    )


def _token_grid(name: str, tokens: Tensor, images: Tensor) -> tuple[int, tuple[int, int]]:
    """How many tokens come before those of the patches (class token, registers), and their grid.

    Patches are square and cover the image: n = others + (H / p) (W / p).
    """
    height, width = images.shape[2:]
    count = tokens.shape[1]
    for patch in range(1, min(height, width) + 1):
        if height % patch == 0 and width % patch == 0:
            others = count - (height // patch) * (width // patch)
            if 0 <= others <= 8:
                return others, (height // patch, width // patch)
    raise UserError(
        f"layer {name!r}: {count} tokens of an image of {height} x {width} are no grid of patches"
    )
