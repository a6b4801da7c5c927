"""torchvision's networks, each split into the part up to its last feature maps and its head.

`stride=16` doubles the resolution of the last feature maps of networks whose stride is 32: their
last downsampling step is removed and what follows is dilated (Yu and Koltun 2016). Where that step
is a convolution (ResNet, MobileNet) each weight still reads the values that it was trained on: each
second cell of the finer map is a cell of the coarser map. Where it is a pooling (VGG, GoogLeNet,
DenseNet) it is left out; the map stays aligned with the image, but what follows reads values that
are not pooled. Inception, ConvNeXt and the vision transformer keep their stride.

The map of a side of n pixels has, at a stride of 32 and 16, the side n/32, n/16 rounded up in
ResNet and MobileNet; n/32, n/16 rounded down in VGG; n'/8, n'/4 rounded down with n' = n/4 rounded
up in DenseNet; about n/32, n/16 in GoogLeNet. At 224 it is 7 and 14. SqueezeNet has only the stride
16, and pools without margin: 13.
"""

from __future__ import annotations

import http.client
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError, suggest_choices
from pipeline.model.classes import IMAGENET_CLASSES, list_imagenet_classes
from pipeline.model.classifier import ConvMean, MeanLinear, load_strictly
from pipeline.model.gap import GapHead, find_gap_head
from pipeline.model.layouts import LAYOUTS
from pipeline.model.module_parts import end_body_at
from pipeline.model.pretrained import (
    Fitted,
    Target,
    Weighted,
    complete_with_shapes,
    find_missing,
    fit_tensors,
)
from pipeline.model.trace import record_trace

if TYPE_CHECKING:
    from jaxtyping import Float

# Of red, green and blue of ImageNet's images, from 0 to 1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

MAPS = "maps"  # what a head reads, in a trial of it
PROBE_CLASSES = 10


@dataclass(frozen=True)
class Torchvision(Weighted):
    """Builder of a torchvision network.

    Args:
        name: a key of LAYOUTS.
        weights: imagenet (torchvision's download), a file, or null for random weights.
        stride: of the feature maps, 32 or 16; null: as torchvision builds it.
        classes: names of the rows of the head in the file of weights, in their order; or a file of
            these names, a line each; null: those that the file has, else ImageNet's for 1000 rows.

    Raises:
        UserError: There is no such network, stride or file.
    """

    name: str
    weights: str | None = "imagenet"
    stride: int | None = None
    classes: str | tuple[str, ...] | None = None

    mean = MEAN
    std = STD

    def __post_init__(self) -> None:
        if self.name not in LAYOUTS:
            raise UserError(
                f"model.name={self.name}: no such network; {suggest_choices(self.name, LAYOUTS)}"
            )
        layout = LAYOUTS[self.name]
        allowed = (layout.stride,) if layout.last_stride is None else (32, 16)
        if self.stride is not None and self.stride not in allowed:
            raise UserError(
                f"model.stride={self.stride}: {self.name} makes maps at a stride of "
                f"{' or '.join(map(str, allowed))}"
            )
        self.check_weights()

    @property
    def last(self) -> str:
        """The layer of the last feature maps; empty: the body's output."""
        return LAYOUTS[self.name].last

    @property
    def below(self) -> str:
        """The layer that the last block reads."""
        return LAYOUTS[self.name].below

    @property
    def known(self) -> tuple[str, ...]:
        """The classes of the pretrained head: ImageNet's, or those of the file's head."""
        if self.weight_file is not None:
            return self.describe_file().classes
        return list_imagenet_classes() if self.pretrained else ()

    def at_trained_stride(self) -> Torchvision:
        """Return the network with the stride that it was trained at."""
        return replace(self, stride=None)

    def body(self) -> tuple[nn.Module, int]:
        """Return the part that computes feature maps, with random weights, and its channels."""
        body = self._extract_body(self._build(IMAGENET_CLASSES))
        return self.features(body), LAYOUTS[self.name].channels

    def features(self, body: nn.Module) -> nn.Module:
        """Let a transformer, which gives its class token, return the patches' tokens as a grid.

        Args:
            body: as `load` returns it; it is changed.
        """
        last = LAYOUTS[self.name].last
        if not last:
            return body
        return end_body_at(body, last, None, torch.zeros(2, 3, 224, 224, device="cpu"))

    def recorded(self) -> dict[str, Any]:
        """Return nothing, as the name of the network tells its layers."""
        return {}

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Return body and torchvision's head for so many classes, with random weights."""
        network = self._build(classes)
        head = self._extract_head(
            network
        )  # first: extracting the body removes a transformer's head
        return self._extract_body(network), head

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Return the body with its pretrained weights, the pretrained head, and its classes.

        Returns:
            Body, head and the names of its classes; None and no names where the file has no head
            that can be kept.

        Raises:
            UserError: The weights cannot be downloaded or read, or do not fit.
        """
        if self.weights is None:
            raise UserError(f"model.weights=null: {self.name} has no weights to load")
        is_file = self.weight_file is not None
        fitted = self.load_file() if is_file else self.fit(_download_weights(self.name))
        with torch.device("meta"):  # random weights would take time, 2 s for VGG
            network = self._build(fitted.rows or IMAGENET_CLASSES)
        load_fitted(self, network, fitted)
        if not fitted.rows:
            return self._extract_body(network), None, ()
        head = self._extract_head(network)
        return self._extract_body(network), head, self.known

    def target(self) -> Target:
        """Return the network, on the meta device, that the tensors of a file are fitted to."""
        with torch.device("meta"):
            network = self._build(IMAGENET_CLASSES)
        layout = LAYOUTS[self.name]
        tops = layout.tail or (str(layout.head).split(".")[0],)
        layers = [
            name
            for name, module in network.named_modules()
            if name.split(".")[0] in tops and isinstance(module, nn.Linear | nn.Conv2d)
        ]
        head = layout.head or layers[-1]
        side = ("aux1.", "aux2.", "AuxLogits.")  # auxiliary classifiers, used in training alone
        return Target(network, self.name, head, f"{head.split('.')[0]}.", side)

    def rename_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename tensors of torchvision's older files: denselayer1.norm.1 is denselayer1.norm1.

        Args:
            tensors: by name.
        """
        old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
        return {old.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}

    def _build(self, classes: int) -> nn.Module:
        import torchvision

        extra: dict[str, Any] = {}
        if self.name in ("googlenet", "inception_v3"):
            extra = {"aux_logits": False, "init_weights": not self.pretrained}
        network: nn.Module = torchvision.models.get_model(
            self.name, weights=None, num_classes=classes, **extra
        )
        return network

    def _extract_body(self, network: nn.Module) -> nn.Module:
        layout = LAYOUTS[self.name]
        if layout.last:
            setattr(network, layout.tail[0], nn.Identity())
            return network
        if self.stride == 16 and layout.last_stride is not None:
            remove_downsampling(network, layout.last_stride)
        modules = OrderedDict((name, network.get_submodule(name)) for name in layout.children)
        if self.name in ("googlenet", "inception_v3"):
            # Their ImageNet weights are TensorFlow's, which were trained on images scaled so.
            modules = OrderedDict([("input", TransformInput()), *modules.items()])
        if layout.relu:
            modules["relu"] = nn.ReLU()
        return nn.Sequential(modules)

    def _extract_head(self, network: nn.Module) -> nn.Module:
        layout = LAYOUTS[self.name]
        if layout.head is not None:
            return _wrap_gap_head(network.get_submodule(layout.head))
        steps = _list_head_steps(network, self.name)
        gap = _find_gap_in_head(self.name)
        return nn.Sequential(steps) if gap is None else GapSequential(steps, gap)


class GapSequential(nn.Sequential):
    """A head of several modules that averages the feature maps and is linear then (ConvNeXt).

    Args:
        steps: its modules by name.
        gap: where its class weights are.
    """

    def __init__(self, steps: OrderedDict[str, nn.Module], gap: GapHead) -> None:
        super().__init__(steps)
        self._gap = gap

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The weight of each feature map for each class."""
        return self._gap.class_weights(self)


def _list_head_steps(network: nn.Module, name: str) -> OrderedDict[str, nn.Module]:
    """Return the modules of a network's head, where that is no single layer, by name."""
    return OrderedDict(
        (step, nn.Flatten(1) if step == "flatten" else network.get_submodule(step))
        for step in LAYOUTS[name].tail
    )


@cache
def _find_gap_in_head(name: str) -> GapHead | None:
    """Find where a head of several modules has class weights, by what it computes of random maps.

    Args:
        name: a key of LAYOUTS.

    Returns:
        The names of its layers within the head; None: it is no GAP head.
    """
    layout = LAYOUTS[name]
    with torch.device("meta"):
        network = Torchvision(name, None)._build(PROBE_CLASSES)
    steps = _list_head_steps(network, name)
    # Of two linear layers no head is linear; VGG's would take a second to run.
    linear = [m for step in steps.values() for m in step.modules() if isinstance(m, nn.Linear)]
    if layout.last or len(linear) != 1:
        return None
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Sequential(OrderedDict([(MAPS, nn.Identity()), *steps.items()]))
        head = head.to_empty(device="cpu").eval()
        for parameter in head.parameters():
            nn.init.normal_(parameter)
        trace = record_trace(head, torch.randn(2, layout.channels, 3, 4))
    (maps,) = [call for call in trace.calls if call.name == MAPS]
    return find_gap_head(trace, maps, trace.output)


class TransformInput(nn.Module):
    """Rescale images from ImageNet's mean and deviation to 0.5 and 0.5, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        self.register_buffer("scale", (std / 0.5)[:, None, None])
        self.register_buffer("shift", ((mean - 0.5) / 0.5)[:, None, None])
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Rescale images [b, 3, H, W] that are standardised by MEAN and STD."""
        return images * self.scale + self.shift


class DilatedMaxPool(nn.Module):
    """A 3x3 maximum at a stride of 1, dilated by 2, which keeps the size of the maps.

    nn.MaxPool2d allows no padding of 2 for a kernel of 3.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the maxima of maps [b, K, h, w]."""
        return F.max_pool2d(F.pad(maps, (2, 2, 2, 2), value=float("-inf")), 3, 1, dilation=2)


def remove_downsampling(network: nn.Module, start: str) -> None:
    """Remove the downsampling in a module, and dilate convolutions and pooling behind it by 2.

    Args:
        network: is changed.
        start: the name of the module with the network's last downsampling.
    """
    modules = dict(network.named_modules())
    names = list(modules)
    for name in names[names.index(start) :]:
        module = modules[name]
        if isinstance(module, nn.Conv2d):
            if module.stride == (2, 2):
                module.stride = (1, 1)
            elif module.kernel_size != (1, 1):
                across, down = cast(tuple[int, int], module.padding)
                module.dilation, module.padding = (2, 2), (2 * across, 2 * down)
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            pooling: nn.Module = nn.Identity() if module.stride == 2 else DilatedMaxPool()
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, pooling)


@runtime_checkable
class HasLastLayer(Protocol):
    """A head whose last layer is none of its submodules."""

    @property
    def last_layer(self) -> nn.Module:
        """The layer with a row of weights for each class."""
        ...


@runtime_checkable
class SelectsClasses(Protocol):
    """A head that reduces itself to some classes."""

    def select(self, rows: Sequence[int]) -> None:
        """Keep the logits at these positions, in their order."""
        ...


def _wrap_gap_head(layer: nn.Module) -> MeanLinear | ConvMean:
    """Wrap the last layer of a network, which keeps its weights, as a GAP head."""
    if isinstance(layer, nn.Linear):
        linear = MeanLinear(layer.in_features, layer.out_features)
        linear.linear = layer
        return linear
    assert isinstance(layer, nn.Conv2d)
    conv = ConvMean(layer.in_channels, layer.out_channels)
    conv.conv = layer
    return conv


def select_classes(head: nn.Module, rows: Sequence[int]) -> nn.Module:
    """Reduce a head to some of its classes.

    Args:
        head: is changed. Its last layer is linear or a convolution.
        rows: positions of the classes among those of the head, in the order that is wanted.

    Returns:
        The same head.
    """
    last: Any
    if isinstance(head, SelectsClasses):
        head.select(rows)
        return head
    if isinstance(head, HasLastLayer):
        last = head.last_layer
    else:
        last = [m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    for name in ("weight", "bias"):
        tensor = getattr(last, name)
        if tensor is not None:
            setattr(last, name, nn.Parameter(tensor.detach()[list(rows)].clone()))
    setattr(last, "out_features" if isinstance(last, nn.Linear) else "out_channels", len(rows))
    return head


def load_fitted(builder: Weighted, network: nn.Module, fitted: Fitted) -> None:
    """Load tensors that were fitted to a network.

    Args:
        builder: of the network, for its target and for messages.
        network: is changed.
        fitted: what `Weighted.fit` returned.

    Raises:
        UserError: Tensors are missing or of another shape; if they are those of another network of
            torchvision, the message names it.
    """
    state = complete_with_shapes(fitted, builder.target())
    try:
        load_strictly(network, state, f"model.weights={builder.weights}", builder.name)
    except UserError as error:
        raise UserError(f"{error}{suggest_network(fitted.tensors)}") from None


def suggest_network(tensors: Mapping[str, Tensor]) -> str:
    """Return which network the tensors of a file are of, for an error; empty where none fits."""
    for name in LAYOUTS:
        builder = Torchvision(name, None)
        target = builder.target()
        fitted = fit_tensors(builder.rename_tensors(tensors), target)
        if not find_missing(fitted.tensors, target):
            return (f". They are those of torchvision's {name}: "
                    f"model=mobilenet_v2 model.name={name}")  # fmt: skip
    return ""


def _download_weights(name: str) -> dict[str, Tensor]:
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    # The first weights of each network, which published numbers were measured with.
    weights = getattr(type(weights), "IMAGENET1K_V1", weights)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        state = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (
        OSError,
        http.client.HTTPException,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        if cached.is_file():
            raise UserError(
                f"model.weights=imagenet: {cached} cannot be read ({error}); remove it, and it is "
                "downloaded again"
            ) from error
        raise UserError(
            f"model.weights=imagenet: {weights.url} could not be downloaded ({error}). "
            f"Without a network: fetch that file elsewhere and put it into {cached.parent}, or "
            "give model.weights=FILE, or model.weights=null to train from scratch"
        ) from error
    return dict(state)
