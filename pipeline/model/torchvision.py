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
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError, suggest_choices
from pipeline.model.builder import Builder
from pipeline.model.classifier import ConvMean, MeanLinear, load_strictly
from pipeline.model.weights import read_weights
from pipeline.ops.text import to_nfc

# Of red, green and blue of ImageNet's images, from 0 to 1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Layout:
    """Where a network's feature maps end, what its head is, and where it downsamples last.

    Attributes:
        children: the top modules that compute the feature maps, in order.
        channels: of the feature maps.
        head: the layer whose weights become a GAP head; None: the network's head is no GAP head.
        last_stride: the module with the last downsampling; None: it cannot be removed.
        relu: whether the original applies a functional ReLU behind the last of `children`.
        tail: the top modules of the head, where that is no GAP head.
        stride: of the feature maps, unless the last downsampling is removed.
        below: the layer that the last block reads.
        last: the layer of the feature maps, where the body's output is a class token; else empty.
    """

    children: tuple[str, ...]
    channels: int
    head: str | None
    last_stride: str | None
    relu: bool = False
    tail: tuple[str, ...] = ()
    stride: int = 32
    below: str = ""
    last: str = ""


RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
GOOGLENET = ("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b",
             "maxpool3", "inception4a", "inception4b", "inception4c", "inception4d", "inception4e",
             "maxpool4", "inception5a", "inception5b")  # fmt: skip
INCEPTION = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1",
             "Conv2d_4a_3x3", "maxpool2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a",
             "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b",
             "Mixed_7c")  # fmt: skip
FEATURES = ("features",)
CONNECTED = ("avgpool", "flatten", "classifier")


def _resnet(channels: int, below: str) -> Layout:
    return Layout(RESNET, channels, "fc", "layer4", below=below)


def _vgg(last_stride: int) -> Layout:
    return Layout(FEATURES, 512, None, f"features.{last_stride}", tail=CONNECTED,
                  below=f"features.{last_stride - 2}")  # fmt: skip


def _densenet(channels: int) -> Layout:
    return Layout(FEATURES, channels, "classifier", "features.transition3", relu=True,
                  below="features.transition3")  # fmt: skip


LAYOUTS = {
    "alexnet": Layout(FEATURES, 256, None, "features.12", tail=CONNECTED, below="features.9"),
    "resnet18": _resnet(512, "layer4.0"),
    "resnet34": _resnet(512, "layer4.1"),
    "resnet50": _resnet(2048, "layer4.1"),
    "resnet101": _resnet(2048, "layer4.1"),
    "resnet152": _resnet(2048, "layer4.1"),
    "resnext50_32x4d": _resnet(2048, "layer4.1"),
    "wide_resnet50_2": _resnet(2048, "layer4.1"),
    "mobilenet_v2": Layout(FEATURES, 1280, "classifier.1", "features.14", below="features.16"),
    "mobilenet_v3_small": Layout(FEATURES, 576, None, "features.9", tail=CONNECTED,
                                 below="features.10"),
    "mobilenet_v3_large": Layout(FEATURES, 960, None, "features.13", tail=CONNECTED,
                                 below="features.14"),
    "efficientnet_b0": Layout(FEATURES, 1280, "classifier.1", "features.6.0", below="features.6"),
    "convnext_tiny": Layout(FEATURES, 768, None, None, tail=("avgpool", "classifier"),
                            below="features.7.1"),
    "squeezenet1_0": Layout(FEATURES, 512, "classifier.1", None, stride=16, below="features.11"),
    "squeezenet1_1": Layout(FEATURES, 512, "classifier.1", None, stride=16, below="features.11"),
    "vgg16": _vgg(30),
    "vgg16_bn": _vgg(43),
    "vgg19": _vgg(36),
    "googlenet": Layout(GOOGLENET, 1024, "fc", "maxpool4", below="inception5a"),
    "inception_v3": Layout(INCEPTION, 2048, "fc", None, below="Mixed_7b"),
    "densenet121": _densenet(1024),
    "densenet169": _densenet(1664),
    "densenet201": _densenet(1920),
    # The head reads the class token; `last` are the patches' tokens that this token reads last.
    "vit_b_16": Layout((), 768, None, None, tail=("heads",), stride=16,
                       last="encoder.layers.encoder_layer_11.ln_1",
                       below="encoder.layers.encoder_layer_10.ln_1"),
}  # fmt: skip


class Weighted(Builder):
    """A builder whose `weights` are imagenet (its library's download), a file, or null."""

    has_own_head = True

    @property
    def weight_file(self) -> Path | None:
        """The file that `weights` names; None where it names none."""
        return None if self.weights in (None, "imagenet") else Path(str(self.weights)).expanduser()

    def check_weights(self) -> None:
        """Raise UserError where `weights` names a file that is not there."""
        if self.weight_file is not None and not self.weight_file.is_file():
            raise UserError(
                f"model.weights={self.weights}: no such file; choices: imagenet (the library's "
                "own, downloaded once), a file of weights (.pth, .safetensors), or null"
            )


@dataclass(frozen=True)
class Torchvision(Weighted):
    """Builder of a torchvision network.

    Args:
        name: a key of LAYOUTS.
        weights: imagenet (torchvision's download), a file, or null for random weights.
        stride: of the feature maps, 32 or 16; null: as torchvision builds it.

    Raises:
        UserError: There is no such network, stride or file.
    """

    name: str
    weights: str | None = "imagenet"
    stride: int | None = None

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
        """ImageNet's classes where there are pretrained weights; otherwise empty."""
        return list_imagenet_classes() if self.pretrained else ()

    def at_trained_stride(self) -> Torchvision:
        """Return the network with the stride that it was trained at."""
        return replace(self, stride=None)

    def body(self) -> tuple[nn.Module, int]:
        """Return the part that computes feature maps, with random weights, and its channels.

        Raises:
            UserError: The network is a transformer, whose class token no GAP head can read.
        """
        if LAYOUTS[self.name].last:
            raise UserError(
                f"model={self.name}: a transformer's classifier reads a class token, which no GAP "
                "head can; train.head=own keeps its own, or choose a CNN"
            )
        return self._extract_body(self._build(IMAGENET_CLASSES)), LAYOUTS[self.name].channels

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
            Body, head and the names of its classes; None and no names where the file is for other
            classes than ImageNet's.

        Raises:
            UserError: The weights cannot be downloaded or read, or do not fit.
        """
        if self.weights is None:
            raise UserError(f"model.weights=null: {self.name} has no weights to load")
        file = self.weight_file
        state = _download_weights(self.name) if file is None else read_weights(file)
        state = _rename_old_tensors(state)
        count = _count_classes(state)
        with torch.device("meta"):  # random weights would take time, 2 s for VGG
            network = self._build(count)
        load_strictly(network, state, f"model.weights={self.weights}", self.name)
        if count != IMAGENET_CLASSES:
            return self._extract_body(network), None, ()
        head = self._extract_head(network)
        return self._extract_body(network), head, list_imagenet_classes()

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
        steps = OrderedDict(
            (name, nn.Flatten(1) if name == "flatten" else network.get_submodule(name))
            for name in layout.tail
        )
        return nn.Sequential(steps)


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


def _count_classes(state: Mapping[str, Tensor]) -> int:
    """Count the classes that weights are for: the rows of the last layer's weights."""
    heads = [v for k, v in state.items() if k.startswith(("fc.", "classifier", "heads."))
             and k.endswith(".weight") and v.ndim in (2, 4)]  # fmt: skip
    return len(heads[-1]) if heads else IMAGENET_CLASSES


@cache
def list_imagenet_classes() -> tuple[str, ...]:
    """List the names of ImageNet's 1000 classes, in the order of torchvision's weights."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def match_classes(classes: Sequence[str], known: Sequence[str]) -> list[int] | None:
    """Match classes with the known classes of a head by name.

    Names are compared in NFC. The exact name is preferred, as ImageNet has a Cardigan (a dog) and a
    cardigan (to wear); else case, hyphens, underscores and spaces are ignored.

    Args:
        classes: names to look for.
        known: names of the head's classes.

    Returns:
        The position of each class among `known`; None unless each has exactly one position, which
        no other class has.
    """
    known, classes = list(map(to_nfc, known)), list(map(to_nfc, classes))
    exact, folded = _group_rows(known), _group_rows([_fold_name(name) for name in known])
    candidates = [exact.get(name) or folded.get(_fold_name(name), []) for name in classes]
    rows = [matching[0] for matching in candidates if len(matching) == 1]
    return rows if len(set(rows)) == len(classes) else None


def _group_rows(names: Sequence[str]) -> dict[str, list[int]]:
    """Group positions by name."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return rows


def _fold_name(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _rename_old_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of torchvision's files as in its networks of today.

    DenseNet's files have denselayer1.norm.1 for denselayer1.norm1. GoogLeNet's and Inception's hold
    auxiliary classifiers, which are used in training alone and dropped here.
    """
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    side = ("aux1.", "aux2.", "AuxLogits.")
    return {old.sub(r"\1\2", k): v for k, v in state.items() if not k.startswith(side)}


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
