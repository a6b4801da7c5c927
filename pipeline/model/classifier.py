"""A classifier that answers with its activations, and the GAP heads that CAM reads.

body:  image -> feature maps f_k            head: feature maps -> logits

MeanLinear    s_c = sum_k w_k^c mean_ij f_k(i, j) + b_c        Zhou et al. 2016, equation 1
ConvMean      s_c = mean_ij relu(sum_k w_k^c f_k(i, j) + b_c)  SqueezeNet, Iandola et al. 2016

Any other head (VGG's fully connected layers, a transformer's class token) has no class weights: CAM
cannot explain it, methods that read no class weights can.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.attention import record_attentions
from pipeline.model.compiled import Compiled
from pipeline.model.forms import Form
from pipeline.model.recording import INPUT as INPUT
from pipeline.model.recording import Recording, Steps, repeated_layer_error, replace_output
from pipeline.ops.probabilities import HasProbabilities
from pipeline.types import Attentions, NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float

LAST, BELOW = "last", "below"
FOREGROUND = "foreground"  # the branch that was trained to localize
OBJECT_CLASS = "object_class"  # the branch that classifies by the foreground alone
OWN = "own"  # `head_kind` of a network without a GAP head


class MeanLinear(nn.Module):
    """A GAP head: global average pooling, then a linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The weight of each feature map for each class."""
        return self.linear.weight

    @property
    def bias(self) -> Float[Tensor, "C"]:
        """The constant of each class's score."""
        return self.linear.bias

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C"]:
        """Compute logits from feature maps."""
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


class ConvMean(nn.Module):
    """A GAP head: a 1x1 convolution to one map a class, ReLU, then global average pooling."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, classes, 1)

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The weight of each feature map for each class."""
        return self.conv.weight[:, :, 0, 0]

    @property
    def bias(self) -> Float[Tensor, "C"]:
        """The constant of each class's score, added to its map before the ReLU."""
        assert self.conv.bias is not None
        return self.conv.bias

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C"]:
        """Compute logits from feature maps."""
        maps: Tensor = self.conv(features)
        return maps.relu().mean((2, 3))


HEADS: dict[str, type[MeanLinear] | type[ConvMean]] = {
    "mean_linear": MeanLinear,
    "conv_mean": ConvMean,
}


@runtime_checkable
class HasClassWeights(Protocol):
    """A head that averages the feature maps and is linear then, whoever wrote it."""

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The weight of each feature map for each class."""


@runtime_checkable
class ReadsRelu(Protocol):
    """A head that may read the ReLU of a layer's feature maps."""

    @property
    def relu_of(self) -> str | None:
        """The layer; None: it reads the maps themselves."""


@runtime_checkable
class ComparedBranch(Protocol):
    """A branch whose map was compared with the map that it was trained on."""

    @property
    def alone(self) -> bool:
        """Whether its map is better alone than in the mean with the map that it was trained on."""


class Classifier(HasProbabilities, nn.Module):
    """A body, a head and further branches; satisfies `pipeline.protocols.Network`.

    A layer is named by its path within the body, as in `body.named_modules()`. Four names have a
    meaning of their own: `input` (the images), `last` (the feature maps that the head reads),
    `below` (what the last block reads), and the body itself, the empty string.

    Args:
        body: from images [b, 3, H, W] to feature maps [b, K, h, w], or to what the head reads.
        head: from the body's output to logits [b, C].
        classes: names of the C classes.
        last: the layer `last`; empty where it is the body's output. A transformer's body gives the
            class token, and `last` names the layer of the patches' tokens.
        below: the layer `below`; empty where none is known.

    Attributes:
        branches: further heads by name. A branch answers to its name as a layer does. It is a
            module with `reads`, the names of the layers and branches that it reads, and is called
            with their activations (model/foreground.py, model/second_order.py).
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
        self.head: Any = head
        self.classes = tuple(classes)
        self.last = last
        self.below = below
        self.branches = nn.ModuleDict()
        self._form: Form | None = "channels_first"  # where a layer's shape does not tell
        self.compiled: Compiled | None = None  # what runs without gradients; None: torch runs it

    @property
    def gap(self) -> MeanLinear | ConvMean:
        """The head, where it is a GAP head.

        Raises:
            UserError: The head is another.
        """
        if not isinstance(self.head, MeanLinear | ConvMean):
            raise UserError(
                "the network's head is its own, no global average pooling with one linear layer: "
                "it has no class weights, which CAM reads. Methods that need none: gradcam, "
                "layercam, gradient and all others; train.head=new trains a GAP head"
            )
        return self.head

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The class weights of the GAP head.

        Raises:
            UserError: The head is another.
        """
        return (self.head if isinstance(self.head, HasClassWeights) else self.gap).class_weights

    @property
    def stands_alone(self) -> bool:
        """Whether `foreground` is better alone than in the mean with the map it was trained on."""
        if FOREGROUND not in self.branches:
            return True
        branch = self.branches[FOREGROUND]
        return not isinstance(branch, ComparedBranch) or bool(branch.alone)

    def with_foreground(self, branch: str) -> Classifier:
        """Return a network that shares all modules with this one, with another localization head.

        Args:
            branch: the name of the branch that is `foreground` there.
        """
        other = Classifier(self.body, self.head, self.classes, self.last, self.below)
        for name, module in self.branches.items():
            other.branches[name] = self.branches[branch] if name == FOREGROUND else module
        other.answers = self.answers
        return other.train(self.training)

    @property
    def tells_objects(self) -> bool:
        """Whether there is a branch `object_class`: logits [b, C] by the foreground alone."""
        return OBJECT_CLASS in self.branches

    @property
    def channels(self) -> int | None:
        """K of the feature maps that a GAP head reads; None where the head is another."""
        return None if self.head_kind == OWN else int(self.class_weights.shape[1])

    @property
    def head_kind(self) -> str:
        """The key of the head in HEADS; `own` where it is another."""
        return next((name for name, kind in HEADS.items() if type(self.head) is kind), OWN)

    def forward(self, images: Float[Tensor, "b 3 H W"], at: Sequence[str] = ()) -> NetworkOutput:
        """Compute logits, and the activations of the layers and branches named in `at`.

        The graph starts at the first of these layers that runs: what runs before it keeps none. No
        gradient reaches the images unless `input` is among the layers. Without `at`, and under
        no_grad, torch's usual rules hold. A layer that runs several times answers with its last
        run. Tokens of a transformer [b, n, K] are returned as a grid [b, K, h, w] without the class
        token, which runs on unchanged.

        Args:
            images: float, standardised by the network's mean and deviation.
            at: names of layers and branches.

        Returns:
            Logits [b, C], and activations by name, in the order of `at`.

        Raises:
            UserError: A layer is not there (similar names are listed), does not run, or gives
                neither feature maps nor tokens.
        """
        if self.compiled is not None and (answer := self.compiled.answer(self, images, at)):
            return answer
        return self.run_in_torch(images, at)

    def run_in_torch(
        self, images: Float[Tensor, "b 3 H W"], at: Sequence[str], behind: Steps | None = None
    ) -> NetworkOutput:
        """Compute what `forward` computes by torch alone.

        Args:
            images: as of `forward`.
            at: as of `forward`.
            behind: the steps of the body that are left, where others have run; None: all are.
        """
        if not at:
            return NetworkOutput(self.head(self.body(images)))
        branches = self._order_branches(at)
        names = self.list_layers(at)
        layers = {name: self.find_layer(name) for name in names if name != INPUT}
        recording = Recording(images, self._read_maps, self._form)
        with recording.record(layers, INPUT in names, behind) as inputs:
            logits = self.head(self.body(inputs) if behind is None else behind(recording))
        activations = recording.activations
        for name in names:
            if name not in activations:
                raise UserError(f"layer {name!r}: the network has it but does not run it")
        for name, branch in branches.items():
            activations[name] = branch(*(activations[layer] for layer in branch.reads))
        return NetworkOutput(logits, {name: activations[name] for name in at})

    def list_layers(self, at: Sequence[str]) -> list[str]:
        """Return the layers among some names, and those that the branches among them read.

        Args:
            at: names of layers and branches.
        """
        branches = self._order_branches(at)
        read = [name for branch in branches.values() for name in branch.reads]
        return list(dict.fromkeys(name for name in (*at, *read) if name not in branches))

    def _read_maps(self, name: str, maps: Tensor) -> Tensor:
        """Return the activation of a layer as what is behind the layer reads it."""
        reads = isinstance(self.head, ReadsRelu) and self.resolve_path(name) == self.head.relu_of
        return maps.relu() if reads else maps

    def _order_branches(self, at: Sequence[str]) -> dict[str, Any]:
        """Return the branches among `at` and those that they read, each after what it reads."""
        ordered: dict[str, Any] = {}
        for name in at:
            if name in self.branches:
                branch: Any = self.branches[name]
                ordered |= {**self._order_branches(branch.reads), name: branch}
        return ordered

    def behind(
        self, layer: str, features: Float[Tensor, "n K h w"], image: Float[Tensor, "m 3 H W"]
    ) -> Float[Tensor, "n C"]:
        """Compute the logits that follow if the layer's output is replaced.

        What runs before the layer runs once or not at all, as far as the body is made of
        nn.Sequential; it runs n times where only the code of a module defines the order.

        Args:
            layer: its name.
            features: replace the layer's output. They may be overwritten.
            image: the image that all features belong to (m = 1), or the image of each (m = n).

        Returns:
            Logits for each of the features.

        Raises:
            UserError: The layer is not there, or runs several times.
        """
        if layer == INPUT:
            return self.forward(features).logits
        before, step, after = self._split_at(layer)
        if step is not None:
            maps = image
            for module in before:
                maps = module(maps)
            if len(maps) == 1:
                maps = maps.repeat(len(features), *[1] * (maps.ndim - 1))
            with replace_output(layer, self.find_layer(layer), features, image, self._form):
                features = step(maps)
        for module in after:
            features = module(features)
        logits: Tensor = self.head(features)
        return logits

    def attentions(
        self, images: Float[Tensor, "b 3 H W"], reduce: Callable[[Tensor], Tensor] | None = None
    ) -> Attentions:
        """Compute the logits, and the attention and the tokens of each block of a transformer.

        Args:
            images: float, standardised by the network's mean and deviation.
            reduce: what is kept of each block's attention; None: all of it, and its graph.

        Raises:
            UserError: It has no self-attention between all tokens, or within Swin's windows.
        """
        run = self.forward if self.compiled is None else partial(self.run_in_torch, at=())
        return record_attentions(self.body, lambda batch: run(batch).logits, images, reduce)

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b K h w"]:
        """Compute the body's output; of a CNN, the last feature maps."""
        if self.compiled is not None and (maps := self.compiled.features(self, images)) is not None:
            return maps
        return self.features_in_torch(images)

    def features_in_torch(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b K h w"]:
        """Compute the body's output of `images` by torch alone."""
        maps: Tensor = self.body(images)
        return maps

    def resolve_path(self, name: str) -> str:
        """Return a layer's path within the body; empty: it is the body itself.

        Args:
            name: of the layer.
        """
        if name == LAST:
            return self.last
        return self.below if name == BELOW and self.below else name

    def _split_at(self, name: str) -> tuple[list[nn.Module], nn.Module | None, list[nn.Module]]:
        """Split the body into what runs before a layer, what contains it, and what runs after.

        The second is the innermost part of chains (nn.Sequential) that contains the layer; None
        where that is the layer itself.
        """
        layer = self.find_layer(name)
        modules = self.body.named_modules(remove_duplicate=False)
        if sum(module is layer for _, module in modules) > 1:
            raise repeated_layer_error(name)
        before: list[nn.Module] = []
        after: list[nn.Module] = []
        within: nn.Module = self.body
        for part in filter(None, self.resolve_path(name).split(".")):
            if "forward" in vars(within) or type(within).forward is not nn.Sequential.forward:
                return before, within, after
            names, steps = zip(*within._modules.items(), strict=True)
            place = names.index(part)
            before += steps[:place]
            after[:0] = steps[place + 1 :]
            within = steps[place]
        return before, None, after

    def find_layer(self, name: str) -> nn.Module:
        """Return the layer `name`.

        Raises:
            UserError: It is not there; similar names are listed.
        """
        try:
            return self.body.get_submodule(self.resolve_path(name))
        except AttributeError:
            if name == FOREGROUND:
                raise UserError(
                    "the network has no branch 'foreground', which was trained to localize: "
                    "+experiment=best and stages=[train,refine,...] train one"
                ) from None
            if name == BELOW:
                raise UserError(
                    "layer 'below': which layer the last block reads is not known; name it: "
                    "model.below=NAME of model=module, or as in saliency.layers=[NAME]"
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
    """Replace a network's parameters and buffers by the tensors of a state dict.

    Args:
        network: may be on the meta device, as its tensors are replaced and not copied into.
        state: tensors by name.
        where: what an error begins with: the file or the option that the state is from.
        what: the network's name, for an error.

    Raises:
        UserError: Names or shapes are not those of the network.
    """
    wanted = network.state_dict()
    given = dict(state)
    for key, tensor in wanted.items():
        if key.endswith("num_batches_tracked"):  # files from before torch 0.4.1 have none
            given.setdefault(key, torch.zeros_like(tensor, device="cpu"))
    missing = [key for key in wanted if key not in given]
    unknown = [key for key in given if key not in wanted]
    shapes = [key for key in wanted if key in given and wanted[key].shape != given[key].shape]
    differences = [
        f"{len(keys)} of {count} tensors {why} ({example(keys[0])})"
        for keys, count, why, example in (
            (missing, len(wanted), "it needs are missing", str),
            (unknown, len(state), "in the file are not its", str),
            (shapes, len(wanted), "have another shape",
             lambda key: f"{key}: {list(given[key].shape)}, not {list(wanted[key].shape)}"),
        )
        if keys
    ]  # fmt: skip
    if differences:
        raise UserError(f"{where}: these weights do not fit {what}: {'; '.join(differences)}")
    network.load_state_dict(given, assign=True)
