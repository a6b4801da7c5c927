"""Layouts of torchvision's networks: where their feature maps end, and what their heads are."""

from __future__ import annotations

from dataclasses import dataclass


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
