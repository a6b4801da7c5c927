"""timm's networks by name: `model=timm model.name=resnet50.a1_in1k`; an extra, `label2box[timm]`.

The body is what timm calls forward_features, the head what it calls forward_head. The layers
`last` and `below` and the kind of the head are found by what the network computes
(pipeline/model/discovery.py). A head that is a mean and one linear layer becomes a GAP head. One
with a norm between (ConvNeXt, Swin) stays as it is, and gives its class weights to CAM. A new GAP
head of a transformer reads the patches' tokens of `last`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.classes import IMAGENET_CLASSES, list_imagenet_classes, number_classes
from pipeline.model.classifier import MeanLinear
from pipeline.model.discovery import Layers, find_layers
from pipeline.model.evaluation import evaluation_mode
from pipeline.model.forms import Form, default_form, infer_form
from pipeline.model.gap import GapHead
from pipeline.model.module_parts import end_body_at
from pipeline.model.pretrained import Target, Weighted
from pipeline.model.torchvision import MEAN, STD, load_fitted
from pipeline.model.wrapped import Wrapped
from pipeline.types import Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

PROBE_SIDE = 128  # of the images that layers are found with, where the network reads any size
PROBE_CLASSES = 10


class OwnHead(nn.Module):
    """The head of a timm network: its forward_head. The weights belong to the body.

    Args:
        network: the network.
        form: of what its forward_features gives; the body gives channels first.
    """

    def __init__(self, network: Any, form: Form) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple: its weights are the body's, not this module's
        self._form = form

    @property
    def last_layer(self) -> nn.Module:
        """The layer with a row of weights for each class."""
        layer: nn.Module = self._network[0].get_classifier()
        return layer

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits from what the body gives."""
        given = features.permute(0, 2, 3, 1) if self._form == "channels_last" else features
        logits: Tensor = self._network[0].forward_head(given)
        return logits


class OwnGapHead(OwnHead):
    """The head of a timm network that averages the feature maps and is linear then.

    Args:
        network: the network.
        form: of what its forward_features gives.
        gap: where its class weights are.
    """

    def __init__(self, network: Any, form: Form, gap: GapHead) -> None:
        super().__init__(network, form)
        self._gap = gap

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The weight of each feature map for each class."""
        return self._gap.class_weights(self._network[0])


@dataclass(frozen=True)
class Parts:
    """What is known of a timm network by its name.

    Attributes:
        form: of what forward_features gives.
        last: the layer of the last feature maps; empty: the body's output.
        below: the layer that the last block reads; empty: none was recognised.
        head: where the class weights are; None: the head is no GAP head of the feature maps.
        channels: of the last feature maps; 0 where no layer was found.
        size: height and width of images that it reads.
    """

    form: Form
    last: str
    below: str
    head: GapHead | None
    channels: int
    size: Size


@dataclass(frozen=True)
class Timm(Weighted):
    """Builder of a timm network.

    Args:
        name: as in timm.list_models(), perhaps with the tag of the weights.
        weights: imagenet (timm's download), a file, or null for random weights.
        classes: names of the rows of the head in the file of weights, in their order; or a file of
            these names, a line each; null: those that the file has, else ImageNet's for 1000 rows.

    Raises:
        UserError: timm is not installed, or has no such network; or the file is not there.
    """

    name: str = "resnet50"
    weights: str | None = "imagenet"
    classes: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        timm = _import_timm()
        bare = self.name.split(".")[0]
        if not timm.is_model(bare):
            from difflib import get_close_matches

            close = get_close_matches(bare, timm.list_models(), n=8)
            raise UserError(
                f"model.name={self.name}: timm has no such network; near ones: "
                f"{', '.join(close) or 'none'}; timm.list_models() has all"
            )
        self.check_weights()

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of red, green and blue, from 0 to 1."""
        return tuple(self._settings().mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Deviation of red, green and blue, from 0 to 1."""
        return tuple(self._settings().std)

    @property
    def known(self) -> tuple[str, ...]:
        """The classes of the pretrained head; numbered where nobody names them."""
        if self.weight_file is not None:
            return self.describe_file().classes
        return _name_classes(self._settings().num_classes) if self.pretrained else ()

    @property
    def last(self) -> str:
        """The layer of the last feature maps; empty: the body's output."""
        return find_parts(self.name).last

    @property
    def below(self) -> str:
        """The layer that the last block reads; empty where none was recognised."""
        return find_parts(self.name).below

    def body(self) -> tuple[nn.Module, int]:
        """Return the part that computes feature maps, with random weights, and its channels.

        Raises:
            UserError: The network gives tokens, and no layer whose tokens are a grid was found.
        """
        network, parts = self._build(0), find_parts(self.name)
        channels = parts.channels if parts.form == "tokens" else int(network.num_features)
        return self.features(self._keep_features(network)), channels

    def features(self, body: nn.Module) -> nn.Module:
        """Let a network that gives tokens return those of the layer `last` as a grid.

        Args:
            body: as `load` returns it; it is changed.

        Raises:
            UserError: No layer whose tokens are a grid was found.
        """
        parts = find_parts(self.name)
        if parts.form != "tokens":
            return body
        if not parts.last:
            raise UserError(
                f"model.name={self.name}: gives tokens that are no grid, which no GAP head reads; "
                "train.head=own keeps its own head where that knows the classes, or choose another "
                "network"
            )
        return end_body_at(body, parts.last, None, torch.zeros(2, 3, *parts.size, device="cpu"))

    def recorded(self) -> dict[str, Any]:
        """Return nothing, as the name of the network tells its layers."""
        return {}

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Return body and timm's head for so many classes, with random weights."""
        network = self._build(classes)
        head = self._extract_head(network)
        return self._keep_features(network), head

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Return the body with its pretrained weights, the pretrained head, and its classes.

        Returns:
            Body, head and the names of its classes; None and no names where the weights have no
            head that can be kept.

        Raises:
            UserError: The weights cannot be downloaded or read, or do not fit.
        """
        network = self._download() if self.weight_file is None else self._load_network()
        if network.num_classes == 0:
            return self._keep_features(network), None, ()
        classes = self.known if self.weight_file else _name_classes(network.num_classes)
        head = self._extract_head(network)
        return self._keep_features(network), head, classes

    def _extract_head(self, network: Any) -> nn.Module:
        """Return the head of a network, which keeps its weights."""
        parts, linear = find_parts(self.name), network.get_classifier()
        if parts.head is None:
            return OwnHead(network, parts.form)
        is_plain = not parts.last and parts.head.norm is None and isinstance(linear, nn.Linear)
        if not is_plain:
            return OwnGapHead(network, parts.form, parts.head)
        head = MeanLinear(linear.in_features, linear.out_features)
        head.linear = linear
        network.reset_classifier(0)
        return head

    def _keep_features(self, network: Any) -> nn.Module:
        """Let a network return its feature maps, channels first; its layers keep their names."""
        features = network.forward_features
        is_last = find_parts(self.name).form == "channels_last"
        # A partial, as copies of the network are to run their own weights.
        network.forward = partial(_put_channels_first, features) if is_last else features
        body: nn.Module = network
        return body

    def _load_network(self) -> Any:
        """Return the network with the weights of the file, without a head where that is dropped."""
        fitted = self.load_file()
        network = self._build(fitted.rows or IMAGENET_CLASSES)
        load_fitted(self, network, fitted)
        if not fitted.rows:
            network.reset_classifier(0)
        return network

    def target(self) -> Target:
        """Return the network, on the meta device, that the tensors of a file are fitted to.

        Raises:
            UserError: The network's classifier is not a single layer.
        """
        with torch.device("meta"):
            network = self._build(IMAGENET_CLASSES)
        layer = network.get_classifier()
        names = [name for name, module in network.named_modules() if module is layer]
        if not names or not isinstance(layer, nn.Linear | nn.Conv2d):
            raise UserError(
                f"model.name={self.name}: its classifier is not a single layer, so that a file of "
                "weights cannot be read; choose another network, or model.weights=imagenet"
            )
        return Target(network, self.name, names[0], f"{names[0]}.")

    def _settings(self) -> Any:
        settings = _import_timm().get_pretrained_cfg(self.name, allow_unregistered=False)
        return settings or _import_timm().models.PretrainedCfg(mean=MEAN, std=STD)  # fmt: skip

    def _build(self, classes: int) -> Any:
        network = _import_timm().create_model(self.name, pretrained=False, num_classes=classes)
        return network.eval()

    def _download(self) -> Any:
        try:
            return _import_timm().create_model(self.name, pretrained=True).eval()
        except Exception as error:  # errors of the hub, of the network connection and of timm
            raise UserError(
                f"model.weights=imagenet: timm's weights of {self.name} could not be had "
                f"({type(error).__name__}: {str(error).splitlines()[0]:.200}). Without a network: "
                "fetch them elsewhere and give model.weights=FILE, or model.weights=null"
            ) from error


def _name_classes(count: int) -> tuple[str, ...]:
    """Return ImageNet's classes for a head of 1000 rows, and numbers for any other."""
    return list_imagenet_classes() if count == IMAGENET_CLASSES else number_classes(count)


def _import_timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError(
            "model=timm: timm is not installed; pip install 'label2box[timm]'"
        ) from None
    return timm


def _put_channels_first(features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Compute feature maps [b, K, h, w] by a function that gives [b, h, w, K]."""
    return features(images).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def find_parts(name: str) -> Parts:
    """Find the layers and the head of a network by running it with random weights.

    Args:
        name: as in timm.list_models().

    Raises:
        UserError: What the network gives is neither feature maps nor tokens.
    """
    # On the CPU also where shapes alone are computed; no random number of the caller is used.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _import_timm().create_model(name, pretrained=False, num_classes=PROBE_CLASSES)
        _fill_zeros(network)
        images = torch.randn(2, *_find_input_size(network))
        layers = find_layers(network, images, _read_logits)
        with torch.no_grad(), evaluation_mode(network):
            features = network.forward_features(images)
            size = (images.shape[2], images.shape[3])
            form = infer_form("", network, features, size, default_form(network))
            head = layers.head if layers.head is not None and not layers.head.relu else None
            if form == "tokens":
                channels = _count_channels(network, layers, images)
                return Parts(form, layers.last, layers.below, head, channels, size)
            maps = features.permute(0, 3, 1, 2) if form == "channels_last" else features
            is_output = _gives(network, layers, images, maps)
    head = head if is_output else None
    return Parts(form, "", layers.below, head, int(maps.shape[1]), size)


def _find_input_size(network: Any) -> tuple[int, int, int]:
    """Return channels, height and width of images that a network reads, small where any do."""
    settings = network.pretrained_cfg
    channels, height, width = settings["input_size"]
    if settings.get("fixed_input_size"):
        return channels, height, width
    return channels, min(height, PROBE_SIDE), min(width, PROBE_SIDE)


def _fill_zeros(network: nn.Module) -> None:
    """Fill weights that start at zero, through which an answer would depend on nothing."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def _count_channels(network: nn.Module, layers: Layers, images: Tensor) -> int:
    """Return the channels of the last feature maps that were found; 0 where none were."""
    if layers.problem is not None:
        return 0
    wrapped = Wrapped(network, (), layers, _read_logits)
    return int(wrapped(images, at=("last",)).activations["last"].shape[1])


def _gives(network: nn.Module, layers: Layers, images: Tensor, maps: Tensor) -> bool:
    """Return whether the last feature maps that were found are these maps."""
    if layers.problem is not None:
        return False
    wrapped = Wrapped(network, (), layers, _read_logits)
    last = wrapped(images, at=("last",)).activations["last"]
    return last.shape == maps.shape and torch.allclose(last, maps, rtol=1e-4, atol=1e-5)


def _read_logits(output: Any) -> Tensor:
    logits: Tensor = output
    return logits
