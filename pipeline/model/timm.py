"""timm's networks by name: `model=timm model.name=resnet50.a1_in1k`; an extra, `label2box[timm]`.

The body is what timm calls forward_features, the head what it calls forward_head. A head that is a
mean and one linear layer becomes a GAP head, which CAM reads; this is decided by comparing the
logits of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.classes import IMAGENET_CLASSES, list_imagenet_classes, number_classes
from pipeline.model.classifier import MeanLinear
from pipeline.model.pretrained import Target, Weighted
from pipeline.model.torchvision import MEAN, STD, load_fitted


class OwnHead(nn.Module):
    """The head of a timm network: its forward_head. The weights belong to the body."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple: its weights are the body's, not this module's

    @property
    def last_layer(self) -> nn.Module:
        """The layer with a row of weights for each class."""
        layer: nn.Module = self._network[0].get_classifier()
        return layer

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits from what the body gives."""
        logits: Tensor = self._network[0].forward_head(features)
        return logits


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

    below = ""

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
        """The layer of the last feature maps: the body's output; in a transformer, a layer."""
        with torch.device("meta"):
            network = self._build(IMAGENET_CLASSES)
        blocks = getattr(network, "blocks", None)
        tokens = hasattr(network, "patch_embed") and isinstance(blocks, nn.Sequential)
        return f"blocks.{len(blocks) - 1}.norm1" if tokens and blocks is not None else ""

    def body(self) -> tuple[nn.Module, int]:
        """Return the part that computes feature maps, with random weights, and its channels.

        Raises:
            UserError: The network is a transformer, or gives its channels last.
        """
        if self.last:
            raise UserError(
                f"model.name={self.name}: a transformer gives tokens, which no GAP head reads; "
                "train.head=own keeps its own, or choose a CNN"
            )
        network = self._build(0)
        return _keep_features(network), int(network.num_features)

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Return body and timm's head for so many classes, with random weights."""
        network = self._build(classes)
        return _keep_features(network), OwnHead(network)

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
            return _keep_features(network), None, ()
        classes = self.known if self.weight_file else _name_classes(network.num_classes)
        linear = network.get_classifier()
        head: nn.Module = OwnHead(network)
        if not self.last and _is_gap_head(network, linear):
            head = MeanLinear(linear.in_features, linear.out_features)
            head.linear = linear
            network.reset_classifier(0)
        return _keep_features(network), head, classes

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
        if str(getattr(network, "output_fmt", "")).endswith("NHWC"):
            raise UserError(
                f"model.name={self.name}: gives its feature maps channels last, which is not "
                "supported; choose a CNN or a plain vision transformer"
            )
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


def _keep_features(network: Any) -> nn.Module:
    """Let a network return its feature maps; its layers keep their names."""
    network.forward = network.forward_features
    body: nn.Module = network
    return body


def _is_gap_head(network: Any, linear: Any) -> bool:
    """Return whether the head is the mean of the feature maps and one linear layer."""
    if not isinstance(linear, nn.Linear) or linear.in_features != network.num_features:
        return False
    features = torch.randn(2, linear.in_features, 3, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = network.forward_head(features), linear(features.mean((2, 3)))
    return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
