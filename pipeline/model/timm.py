"""timm's networks by name: `model=timm model.name=resnet50.a1_in1k`; an extra, `label2box[timm]`.

What timm calls forward_features is the body and forward_head the head. Where the head is a mean
and one linear layer it is a GAP head, which CAM reads; this is found out by comparing the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.classifier import MeanLinear, load_strictly
from pipeline.model.torchvision import Weighted, imagenet_classes, read_weights


class OwnHead(nn.Module):
    """timm's forward_head; the weights are the body's, which is the whole network."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple: no module of this one

    @property
    def last_layer(self) -> nn.Module:
        layer: nn.Module = self._network[0].get_classifier()
        return layer

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self._network[0].forward_head(features)
        return logits


@dataclass(frozen=True)
class Timm(Weighted):
    """`weights`: imagenet (timm's download), a file, or null."""

    name: str = "resnet50"  # as timm.list_models() has it
    weights: str | None = "imagenet"

    below = ""

    def __post_init__(self) -> None:
        timm = _timm()
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
        return tuple(self._settings().mean)

    @property
    def std(self) -> tuple[float, ...]:
        return tuple(self._settings().std)

    @property
    def known(self) -> tuple[str, ...]:
        own = self.pretrained and self._settings().num_classes == 1000
        return imagenet_classes() if own else ()

    @property
    def last(self) -> str:
        """The feature maps: what forward_features gives; of a transformer, its last block's."""
        with torch.device("meta"):
            network = self._whole(1000)
        blocks = getattr(network, "blocks", None)
        tokens = hasattr(network, "patch_embed") and isinstance(blocks, nn.Sequential)
        return f"blocks.{len(blocks) - 1}.norm1" if tokens and blocks is not None else ""

    def body(self) -> tuple[nn.Module, int]:
        """The feature maps' part, with random weights, and its number of channels.

        Raises UserError where there are no feature maps that a GAP head could read.
        """
        if self.last:
            raise UserError(
                f"model.name={self.name}: a transformer gives tokens, which no GAP head reads; "
                "train.head=own keeps its own, or choose a CNN"
            )
        network = self._whole(0)
        return _features_only(network), int(network.num_features)

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Body and own head, with random weights."""
        network = self._whole(classes)
        return _features_only(network), OwnHead(network)

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Body with the pretrained weights, the network's own head, and its class names.

        The head is None where its classes are not ImageNet's. Raises UserError where weights cannot
        be had or do not fit.
        """
        if self.weight_file is None:
            network = self._download()
        else:
            network = self._whole(1000)
            state = read_weights(self.weight_file)
            load_strictly(network, state, f"model.weights={self.weights}", self.name)
        if network.num_classes != 1000:
            network.reset_classifier(0)
            return _features_only(network), None, ()
        linear = network.get_classifier()
        head: nn.Module = OwnHead(network)
        if not self.last and _is_gap(network, linear):
            head = MeanLinear(linear.in_features, linear.out_features)
            head.linear = linear
            network.reset_classifier(0)
        return _features_only(network), head, imagenet_classes()

    def _settings(self) -> Any:
        settings = _timm().get_pretrained_cfg(self.name, allow_unregistered=False)
        return settings or _timm().models.PretrainedCfg(mean=(0.485, 0.456, 0.406),
                                                        std=(0.229, 0.224, 0.225))  # fmt: skip

    def _whole(self, classes: int) -> Any:
        network = _timm().create_model(self.name, pretrained=False, num_classes=classes)
        if str(getattr(network, "output_fmt", "")).endswith("NHWC"):
            raise UserError(
                f"model.name={self.name}: gives its feature maps channels last, which is not "
                "supported; choose a CNN or a plain vision transformer"
            )
        return network.eval()

    def _download(self) -> Any:
        try:
            return _timm().create_model(self.name, pretrained=True).eval()
        except Exception as error:  # the hub's, the network's and timm's own kinds
            raise UserError(
                f"model.weights=imagenet: timm's weights of {self.name} could not be had "
                f"({type(error).__name__}: {str(error).splitlines()[0]:.200}). Without a network: "
                "fetch them elsewhere and give model.weights=FILE, or model.weights=null"
            ) from error


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError(
            "model=timm: timm is not installed; pip install 'label2box[timm]'"
        ) from None
    return timm


def _features_only(network: Any) -> nn.Module:
    """The network, its layers called what timm calls them, giving its feature maps."""
    network.forward = network.forward_features
    whole: nn.Module = network
    return whole


def _is_gap(network: Any, linear: Any) -> bool:
    """Whether its head is the mean of the feature maps and one linear layer."""
    if not isinstance(linear, nn.Linear) or linear.in_features != network.num_features:
        return False
    features = torch.randn(2, linear.in_features, 3, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = network.forward_head(features), linear(features.mean((2, 3)))
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
