"""torchvision's backbones, each cut where its feature maps end, with their own heads.

`stride=16` doubles the resolution of the last feature maps of networks that end at 32: their last
downsampling step is dropped and what follows is dilated (Yu and Koltun 2016). Where that step is a
convolution (ResNet, MobileNet) every weight still sees what it was trained to see: every second
cell of the finer map is the coarser one. Where it is a pooling (VGG, GoogLeNet, DenseNet) it is
left out, which keeps the map in register with the image, but what follows sees values that are not
pooled. Inception, ConvNeXt and the vision transformer keep the stride that they have.

For a side of n pixels the map's is, at 32 and 16, rounded up: ResNet, MobileNet n/32, n/16; rounded
down: VGG n/32, n/16, DenseNet n'/8, n'/4 with n' = n/4 rounded up; by its own rule of rounding
about n/32, n/16: GoogLeNet. At 224: 7 and 14. SqueezeNet has only 16, and pools without margin: 13.
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
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError, suggest_choices
from pipeline.model.builder import Builder
from pipeline.model.classifier import ConvMean, MeanLinear, load_strictly

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Cut:
    """Where a network's feature maps end, what follows, and where its last stride is."""

    children: tuple[str, ...]  # the top modules that make the feature maps, in order
    channels: int
    head: str | None  # the layer whose weights make a GAP head of its own; None: it has none
    last_stride: str | None  # the module with the last downsampling; None: it is not to be undone
    relu: bool = False  # functional in the original, behind the last module
    tail: tuple[str, ...] = ()  # the top modules of its own head, where that is no GAP head
    stride: int = 32  # of the feature maps, unless the last downsampling is undone
    below: str = ""  # what the last block reads
    last: str = ""  # the feature maps, where the body gives another thing: a class token


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


def _resnet(channels: int, below: str) -> Cut:
    return Cut(RESNET, channels, "fc", "layer4", below=below)


def _vgg(last_stride: int) -> Cut:
    return Cut(FEATURES, 512, None, f"features.{last_stride}", tail=CONNECTED,
               below=f"features.{last_stride - 2}")  # fmt: skip


def _densenet(channels: int) -> Cut:
    return Cut(FEATURES, channels, "classifier", "features.transition3", relu=True,
               below="features.transition3")  # fmt: skip


CUTS = {
    "alexnet": Cut(FEATURES, 256, None, "features.12", tail=CONNECTED, below="features.9"),
    "resnet18": _resnet(512, "layer4.0"),
    "resnet34": _resnet(512, "layer4.1"),
    "resnet50": _resnet(2048, "layer4.1"),
    "resnet101": _resnet(2048, "layer4.1"),
    "resnet152": _resnet(2048, "layer4.1"),
    "resnext50_32x4d": _resnet(2048, "layer4.1"),
    "wide_resnet50_2": _resnet(2048, "layer4.1"),
    "mobilenet_v2": Cut(FEATURES, 1280, "classifier.1", "features.14", below="features.16"),
    "mobilenet_v3_small": Cut(FEATURES, 576, None, "features.9", tail=CONNECTED,
                              below="features.10"),
    "mobilenet_v3_large": Cut(FEATURES, 960, None, "features.13", tail=CONNECTED,
                              below="features.14"),
    "efficientnet_b0": Cut(FEATURES, 1280, "classifier.1", "features.6.0", below="features.6"),
    "convnext_tiny": Cut(FEATURES, 768, None, None, tail=("avgpool", "classifier"),
                         below="features.7.1"),
    "squeezenet1_0": Cut(FEATURES, 512, "classifier.1", None, stride=16, below="features.11"),
    "squeezenet1_1": Cut(FEATURES, 512, "classifier.1", None, stride=16, below="features.11"),
    "vgg16": _vgg(30),
    "vgg16_bn": _vgg(43),
    "vgg19": _vgg(36),
    "googlenet": Cut(GOOGLENET, 1024, "fc", "maxpool4", below="inception5a"),
    "inception_v3": Cut(INCEPTION, 2048, "fc", None, below="Mixed_7b"),
    "densenet121": _densenet(1024),
    "densenet169": _densenet(1664),
    "densenet201": _densenet(1920),
    # Its classifier reads the class token; what the patches' tokens say to it last is a grid.
    "vit_b_16": Cut((), 768, None, None, tail=("heads",), stride=16,
                    last="encoder.layers.encoder_layer_11.ln_1",
                    below="encoder.layers.encoder_layer_10.ln_1"),
}  # fmt: skip


class Weighted(Builder):
    """A network whose `weights` are imagenet (its library's download), a file, or null."""

    has_own_head = True

    @property
    def weight_file(self) -> Path | None:
        return None if self.weights in (None, "imagenet") else Path(str(self.weights)).expanduser()

    def check_weights(self) -> None:
        """Raises UserError where a file is named that is not there."""
        if self.weight_file is not None and not self.weight_file.is_file():
            raise UserError(
                f"model.weights={self.weights}: no such file; choices: imagenet (the library's "
                "own, downloaded once), a file of weights (.pth, .safetensors), or null"
            )


@dataclass(frozen=True)
class Torchvision(Weighted):
    """`weights`: imagenet (torchvision's download), a file, or null; `stride`: 32 or 16."""

    name: str
    weights: str | None = "imagenet"
    stride: int | None = None  # None: the network's own

    mean = MEAN
    std = STD

    def __post_init__(self) -> None:
        if self.name not in CUTS:
            raise UserError(
                f"model.name={self.name}: no such network; {suggest_choices(self.name, CUTS)}"
            )
        cut = CUTS[self.name]
        allowed = (cut.stride,) if cut.last_stride is None else (32, 16)
        if self.stride is not None and self.stride not in allowed:
            raise UserError(
                f"model.stride={self.stride}: {self.name} makes maps at a stride of "
                f"{' or '.join(map(str, allowed))}"
            )
        self.check_weights()

    @property
    def last(self) -> str:
        return CUTS[self.name].last

    @property
    def below(self) -> str:
        return CUTS[self.name].below

    @property
    def known(self) -> tuple[str, ...]:
        """The classes that the network's own head tells apart, where it is ImageNet's."""
        return imagenet_classes() if self.pretrained else ()

    def at_trained_stride(self) -> Torchvision:
        """Return the network with the stride that it was trained at."""
        return replace(self, stride=None)

    def body(self) -> tuple[nn.Module, int]:
        """The feature maps' part, with random weights, and its number of channels.

        Raises UserError where there are no feature maps that a GAP head could read.
        """
        if CUTS[self.name].last:
            raise UserError(
                f"model={self.name}: a transformer's classifier reads a class token, which no GAP "
                "head can; train.head=own keeps its own, or choose a CNN"
            )
        return self._body(self._whole(1000)), CUTS[self.name].channels

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Body and own head, with random weights."""
        network = self._whole(classes)
        head = self._head(network)  # first: a transformer's body loses it
        return self._body(network), head

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Body with the pretrained weights, the network's own head, and its class names.

        The head is None where the file's classes are not ImageNet's. Raises UserError where weights
        cannot be had or do not fit.
        """
        if self.weights is None:
            raise UserError(f"model.weights=null: {self.name} has no weights to load")
        file = self.weight_file
        state = _download(self.name) if file is None else read_weights(file)
        state = _renamed(state)
        count = _outputs_of(state)
        with torch.device("meta"):  # random weights would only cost time: VGG's take 2 s
            network = self._whole(count)
        load_strictly(network, state, f"model.weights={self.weights}", self.name)
        if count != 1000:
            return self._body(network), None, ()
        head = self._head(network)
        return self._body(network), head, imagenet_classes()

    def _whole(self, classes: int) -> nn.Module:
        import torchvision

        extra: dict[str, Any] = {}
        if self.name in ("googlenet", "inception_v3"):
            extra = {"aux_logits": False, "init_weights": not self.pretrained}
        maker = getattr(torchvision.models, self.name)
        network: nn.Module = maker(weights=None, num_classes=classes, **extra)
        return network

    def _body(self, network: nn.Module) -> nn.Module:
        cut = CUTS[self.name]
        if cut.last:
            setattr(network, cut.tail[0], nn.Identity())
            return network
        if self.stride == 16 and cut.last_stride is not None:
            keep_resolution(network, cut.last_stride)
        modules = OrderedDict((name, network.get_submodule(name)) for name in cut.children)
        if self.name in ("googlenet", "inception_v3"):
            # Their ImageNet weights came from TensorFlow and want their input scaled its way.
            modules = OrderedDict([("input", TransformInput()), *modules.items()])
        if cut.relu:
            modules["relu"] = nn.ReLU()
        return nn.Sequential(modules)

    def _head(self, network: nn.Module) -> nn.Module:
        cut = CUTS[self.name]
        if cut.head is not None:
            return _gap_head(network.get_submodule(cut.head))
        steps = OrderedDict(
            (name, nn.Flatten(1) if name == "flatten" else network.get_submodule(name))
            for name in cut.tail
        )
        return nn.Sequential(steps)


class TransformInput(nn.Module):
    """From ImageNet's mean and deviation to 0.5 and 0.5, as torchvision's GoogLeNet does inside."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        self.register_buffer("scale", (std / 0.5)[:, None, None])
        self.register_buffer("shift", ((mean - 0.5) / 0.5)[:, None, None])
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


class DilatedMaxPool(nn.Module):
    """3x3 maximum at a stride of 1, its taps 2 apart: torch's own allows no margin that wide."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(maps, (2, 2, 2, 2), value=float("-inf")), 3, 1, dilation=2)


def keep_resolution(network: nn.Module, place: str) -> None:
    """Undo the downsampling in `place` and dilate every convolution and pooling behind it by 2."""
    modules = dict(network.named_modules())
    names = list(modules)
    for name in names[names.index(place) :]:
        module = modules[name]
        if isinstance(module, nn.Conv2d):
            if module.stride == (2, 2):
                module.stride = (1, 1)
            elif module.kernel_size != (1, 1):
                across, down = cast(tuple[int, int], module.padding)
                module.dilation, module.padding = (2, 2), (2 * across, 2 * down)
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            behind: nn.Module = nn.Identity() if module.stride == 2 else DilatedMaxPool()
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, behind)


def _gap_head(layer: nn.Module) -> MeanLinear | ConvMean:
    """The network's own last layer as a GAP head."""
    if isinstance(layer, nn.Linear):
        linear = MeanLinear(layer.in_features, layer.out_features)
        linear.linear = layer
        return linear
    assert isinstance(layer, nn.Conv2d)
    conv = ConvMean(layer.in_channels, layer.out_channels)
    conv.conv = layer
    return conv


def select_classes(head: nn.Module, rows: Sequence[int]) -> nn.Module:
    """The head with only the chosen classes, in their order: it is changed itself."""
    last: Any = getattr(head, "last_layer", None)
    if last is None:
        last = [m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    for name in ("weight", "bias"):
        tensor = getattr(last, name)
        if tensor is not None:
            setattr(last, name, nn.Parameter(tensor.detach()[list(rows)].clone()))
    setattr(last, "out_features" if isinstance(last, nn.Linear) else "out_channels", len(rows))
    return head


def _outputs_of(state: Mapping[str, Tensor]) -> int:
    """How many classes weights are for: the rows of the last layer's."""
    heads = [v for k, v in state.items() if k.startswith(("fc.", "classifier", "heads."))
             and k.endswith(".weight") and v.ndim in (2, 4)]  # fmt: skip
    return len(heads[-1]) if heads else 1000


@cache
def imagenet_classes() -> tuple[str, ...]:
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def rows_by_name(classes: Sequence[str], known: Sequence[str]) -> list[int] | None:
    """The row of each class among `known`, by name; None unless every class has one of its own.

    The exact name comes first: ImageNet has a Cardigan (a dog) and a cardigan (to wear).
    """
    exact, folded = _places(known), _places([_folded(name) for name in known])
    rows = [exact.get(name) or folded.get(_folded(name), []) for name in classes]
    chosen = [row[0] for row in rows if len(row) == 1]
    return chosen if len(set(chosen)) == len(classes) else None


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        places.setdefault(name, []).append(row)
    return places


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file or a torch.save file, never as a trusted pickle."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            state: Any = load(path.read_bytes())
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of weights") from None
    except Exception as error:  # torch raises pickle's, zip's and its own errors
        # torch's own advice is to trust the file: not repeated here.
        reason = str(error).strip().split("\n")[0].split("Re-running")[0].split(" (1)")[0][:200]
        raise UserError(
            f"{path}: not a file of weights that loads safely ({type(error).__name__}: {reason}). "
            "Expected tensors by name, as torch.save(network.state_dict(), FILE) or safetensors "
            "write them; a file that is cut short, or holds code or whole objects, is refused"
        ) from error
    for wrapping in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path}: expected tensors by name (a state_dict), got {_kind(state)}")
    for name, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if not isinstance(name, str) or not plain or tensor.is_quantized:
            raise UserError(
                f"{path}: expected tensors by name (a state_dict), got {_kind(tensor)} at {name!r}"
            )
    return {
        name.removeprefix("module."): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _kind(value: Any) -> str:
    return "nothing" if isinstance(value, dict) and not value else f"a {type(value).__name__}"


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's files with the names its networks have now.

    DenseNet's files say denselayer1.norm.1 for denselayer1.norm1; GoogLeNet's and Inception's hold
    the side classifiers that only served their training.
    """
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    side = ("aux1.", "aux2.", "AuxLogits.")
    return {old.sub(r"\1\2", k): v for k, v in state.items() if not k.startswith(side)}


def _download(name: str) -> dict[str, Tensor]:
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    # The first set of each network, which the field's numbers were made with.
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
