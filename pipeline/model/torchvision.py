"""torchvision's backbones with a GAP head, each cut where its feature maps end.

`stride=16` doubles the resolution of the last feature maps of networks that end at 32: their last
downsampling step is dropped and what follows is dilated (Yu and Koltun 2016). Where that step is a
convolution (ResNet, MobileNet) every weight still sees what it was trained to see: every second
cell of the finer map is the coarser one. Where it is a pooling (VGG, GoogLeNet, DenseNet) it is
left out, which keeps the map in register with the image, but what follows sees values that are not
pooled.

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
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.classifier import ConvMean, MeanLinear, load_strictly
from pipeline.records import Problem, near

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Cut:
    """Where a network's feature maps end, what follows, and where its last stride is."""

    children: tuple[str, ...]  # the top modules that make the feature maps, in order
    channels: int
    head: str | None  # the layer whose weights make a GAP head of its own; None: it has none
    last_stride: str | None  # the module with the last downsampling; None: it ends at 16
    relu: bool = False  # functional in the original, behind the last module


RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
GOOGLENET = ("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b",
             "maxpool3", "inception4a", "inception4b", "inception4c", "inception4d", "inception4e",
             "maxpool4", "inception5a", "inception5b")  # fmt: skip
CUTS = {
    "resnet18": Cut(RESNET, 512, "fc", "layer4"),
    "resnet34": Cut(RESNET, 512, "fc", "layer4"),
    "resnet50": Cut(RESNET, 2048, "fc", "layer4"),
    "resnet101": Cut(RESNET, 2048, "fc", "layer4"),
    "resnet152": Cut(RESNET, 2048, "fc", "layer4"),
    "resnext50_32x4d": Cut(RESNET, 2048, "fc", "layer4"),
    "wide_resnet50_2": Cut(RESNET, 2048, "fc", "layer4"),
    "mobilenet_v2": Cut(("features",), 1280, "classifier.1", "features.14"),
    "squeezenet1_0": Cut(("features",), 512, "classifier.1", None),
    "squeezenet1_1": Cut(("features",), 512, "classifier.1", None),
    "vgg16": Cut(("features",), 512, None, "features.30"),
    "vgg16_bn": Cut(("features",), 512, None, "features.43"),
    "vgg19": Cut(("features",), 512, None, "features.36"),
    "googlenet": Cut(GOOGLENET, 1024, "fc", "maxpool4"),
    "densenet121": Cut(("features",), 1024, "classifier", "features.transition3", relu=True),
    "densenet169": Cut(("features",), 1664, "classifier", "features.transition3", relu=True),
    "densenet201": Cut(("features",), 1920, "classifier", "features.transition3", relu=True),
}


@dataclass(frozen=True)
class Torchvision:
    """`weights`: imagenet (torchvision's download), a file, or null; `stride`: 32 or 16."""

    name: str
    weights: str | None = "imagenet"
    stride: int | None = None  # None: the network's own

    mean = MEAN
    std = STD

    def __post_init__(self) -> None:
        if self.name not in CUTS:
            raise Problem(f"model.name={self.name}: no such network; {near(self.name, CUTS)}")
        cut = CUTS[self.name]
        allowed = (16,) if cut.last_stride is None else (32, 16)
        if self.stride is not None and self.stride not in allowed:
            raise Problem(
                f"model.stride={self.stride}: {self.name} makes maps at a stride of "
                f"{' or '.join(map(str, allowed))}"
            )
        if self.weight_file is not None and not self.weight_file.is_file():
            raise Problem(
                f"model.weights={self.weights}: no such file; choices: imagenet (torchvision's "
                "own, downloaded once), a file of weights (.pth, .safetensors), or null"
            )

    @property
    def pretrained(self) -> bool:
        return self.weights is not None

    @property
    def weight_file(self) -> Path | None:
        return None if self.weights in (None, "imagenet") else Path(str(self.weights)).expanduser()

    def body(self) -> tuple[nn.Module, int]:
        """The feature maps' part, with random weights, and its number of channels."""
        return self._cut(self._whole(1000))

    def load(self) -> tuple[nn.Module, MeanLinear | ConvMean | None, tuple[str, ...]]:
        """Body with the pretrained weights, the network's own GAP head, and its class names.

        The head is None where the network has none (VGG) or the file's classes are not ImageNet's.
        Raises Problem where weights cannot be had or do not fit.
        """
        if self.weights is None:
            raise Problem(f"model.weights=null: {self.name} has no weights to load")
        file = self.weight_file
        state = _download(self.name) if file is None else read_weights(file)
        state = _renamed(state)
        cut = CUTS[self.name]
        outputs = state.get(f"{cut.head or 'classifier.6'}.weight")
        count = 1000 if outputs is None or not outputs.ndim else len(outputs)
        with torch.device("meta"):  # random weights would only cost time: VGG's take 2 s
            network = self._whole(count)
        load_strictly(network, state, f"model.weights={self.weights}", self.name)
        if cut.head is None or count != 1000:
            return self._cut(network)[0], None, ()
        own = _own_head(network.get_submodule(cut.head))
        return self._cut(network)[0], own, imagenet_classes()

    def _whole(self, classes: int) -> nn.Module:
        import torchvision

        extra: dict[str, Any] = {}
        if self.name == "googlenet":
            extra = {"aux_logits": False, "init_weights": not self.pretrained}
        maker = getattr(torchvision.models, self.name)
        network: nn.Module = maker(weights=None, num_classes=classes, **extra)
        return network

    def _cut(self, network: nn.Module) -> tuple[nn.Module, int]:
        cut = CUTS[self.name]
        if self.stride == 16 and cut.last_stride is not None:
            keep_resolution(network, cut.last_stride)
        modules = OrderedDict((name, network.get_submodule(name)) for name in cut.children)
        if self.name == "googlenet":
            # Its ImageNet weights came from TensorFlow and want their input scaled its way.
            modules = OrderedDict([("input", TransformInput()), *modules.items()])
        if cut.relu:
            modules["relu"] = nn.ReLU()
        return nn.Sequential(modules), cut.channels


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


def _own_head(layer: nn.Module) -> MeanLinear | ConvMean:
    """The network's own last layer as a GAP head."""
    if isinstance(layer, nn.Linear):
        linear = MeanLinear(layer.in_features, layer.out_features)
        linear.linear = layer
        return linear
    assert isinstance(layer, nn.Conv2d)
    conv = ConvMean(layer.in_channels, layer.out_channels)
    conv.conv = layer
    return conv


def select_classes(head: MeanLinear | ConvMean, rows: Sequence[int]) -> MeanLinear | ConvMean:
    """The head with only the chosen classes, in their order."""
    with torch.no_grad():
        chosen = type(head)(head.class_weights.shape[1], len(rows))
        chosen.class_weights.copy_(head.class_weights[list(rows)])
        chosen.bias.copy_(head.bias[list(rows)])
    return chosen


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
        raise Problem(f"{path}: no such file of weights") from None
    except Exception as error:  # torch raises pickle's, zip's and its own errors
        # torch's own advice is to trust the file: not repeated here.
        reason = str(error).strip().split("\n")[0].split("Re-running")[0].split(" (1)")[0][:200]
        raise Problem(
            f"{path}: not a file of weights that loads safely ({type(error).__name__}: {reason}). "
            "Expected tensors by name, as torch.save(network.state_dict(), FILE) or safetensors "
            "write them; a file that is cut short, or holds code or whole objects, is refused"
        ) from error
    for wrapping in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not state:
        raise Problem(f"{path}: expected tensors by name (a state_dict), got {_kind(state)}")
    for name, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if not isinstance(name, str) or not plain or tensor.is_quantized:
            raise Problem(
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

    DenseNet's files say denselayer1.norm.1 for denselayer1.norm1; GoogLeNet's hold the side
    classifiers that only served its training.
    """
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {
        old.sub(r"\1\2", k): v for k, v in state.items() if not k.startswith(("aux1.", "aux2."))
    }


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
            raise Problem(
                f"model.weights=imagenet: {cached} cannot be read ({error}); remove it, and it is "
                "downloaded again"
            ) from error
        raise Problem(
            f"model.weights=imagenet: {weights.url} could not be downloaded ({error}). "
            f"Without a network: fetch that file elsewhere and put it into {cached.parent}, or "
            "give model.weights=FILE, or model.weights=null to train from scratch"
        ) from error
    return dict(state)
