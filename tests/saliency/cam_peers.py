"""Networks to explain, and how pytorch-grad-cam and torchcam explain them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchvision.models import VisionTransformer

from pipeline.model.classifier import Classifier, MeanLinear

CLASSES = [str(n) for n in range(7)]
STATE_OF_MODULE = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


class Logits(nn.Module):
    """A network as the peers expect it: images in, logits out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images).logits


def _body(strides=(2, 2, 2)):
    """Build a body whose features are 0 in places, those of a channel everywhere."""
    layers: list[nn.Module] = []
    before = 3
    for stride, width in zip(strides, (8, 12, 16), strict=True):
        layers += [nn.Conv2d(before, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    norm: Any = layers[-2]
    nn.init.constant_(norm.weight[3:4], 0)
    nn.init.constant_(norm.bias[3:4], -1)
    return nn.Sequential(*layers)


def mean_linear(strides=(2, 2, 2), seed=0):
    torch.manual_seed(seed)
    net = Classifier(_body(strides), MeanLinear(16, 7), CLASSES, below="5")
    nn.init.normal_(net.head.linear.weight)
    return net.eval()


def connected(seed=0):
    """Build a network with several linear layers behind the features, as AlexNet and VGG have."""
    torch.manual_seed(seed)
    head = nn.Sequential(nn.AdaptiveAvgPool2d((3, 4)), nn.Flatten(), nn.Linear(192, 24),
                         nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(24, 7))  # fmt: skip
    layer: Any
    for layer in (head[2], head[-1]):
        nn.init.normal_(layer.weight, std=0.3)
    return Classifier(_body(), head, CLASSES, below="5").eval()


def transformer(seed=0):
    torch.manual_seed(seed)
    body = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16,
                             mlp_dim=32)  # fmt: skip
    body.heads = nn.Identity()
    place = "encoder.layers.encoder_layer_{}.ln_1"
    head = nn.Linear(16, 7)
    nn.init.normal_(head.weight)
    net = Classifier(body, head, CLASSES, last=place.format(1), below=place.format(0))
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.4)
    return net.eval()


NETWORKS: dict[str, Callable[..., Classifier]] = {
    "mean_linear": mean_linear,
    "connected": connected,
    "transformer": transformer,
}


def pictures(network, batch=2, seed=1):
    size = (32, 32) if isinstance(network.body, VisionTransformer) else (48, 72)
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def grid(tokens):
    """Reshape the tokens of a transformer to a grid, as pytorch-grad-cam expects them."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)


def find_layer(network, name):
    return network.find_layer(name)


def by_pytorch_grad_cam(method, network, images, classes, layers=("last",), **options):
    """Compute the maps [b, t, H, W] of pytorch-grad-cam in [0, 1]: it scales and resizes them."""
    tokens = isinstance(network.body, VisionTransformer)
    columns = []
    for column in classes.T.tolist():
        targets = [find_layer(network, name) for name in layers]
        model = Logits(network)
        with method(model, targets, reshape_transform=grid if tokens else None) as peer:
            for name, value in options.items():
                setattr(peer, name, value)
            columns.append(peer(images, [ClassifierOutputTarget(label) for label in column]))
    return torch.from_numpy(np.stack(columns, 1))


def as_pytorch_grad_cam(maps, images):
    """Scale and resize our raw maps by the function of pytorch-grad-cam, in its order."""
    size = tuple(images.shape[:1:-1])
    positive = maps.clamp(min=0).numpy()
    scaled = [scale_cam_image(scale_cam_image(image_maps, size)) for image_maps in positive]
    return torch.from_numpy(np.stack(scaled))


def by_torchcam(method, network, images, classes, layers=("last",), *options):
    """Compute the raw maps [b, t, h, w] of torchcam, of each layer."""
    columns = []
    for column in classes.T.tolist():
        model = Logits(network)
        with method(model, [find_layer(network, name) for name in layers], *options) as peer:
            scores = model(images)
            columns.append(peer(column, scores, normalized=False))
    return [torch.stack(layer_maps, 1) for layer_maps in zip(*columns, strict=True)]


def state_of(network):
    """Return all that a method could leave behind on a network."""
    return (
        [(n, p.requires_grad, p.grad, p._version, p.data_ptr()) for n, p in
         network.named_parameters()],
        [(n, b._version, b.requires_grad) for n, b in network.named_buffers()],
        [(n, m.training, getattr(m, "inplace", None), type(m),
          *(len(getattr(m, hooks)) for hooks in STATE_OF_MODULE)) for n, m in
         network.named_modules()],
        torch.is_grad_enabled(),
    )  # fmt: skip


@contextmanager
def unchanged(network):
    before = state_of(network)
    yield
    assert state_of(network) == before


def check_contract(method, network, images, tolerance=1e-5):
    """Check a method with any classes, batches, frozen weights, threads and an exception inside."""
    classes = torch.randint(0, 7, (len(images), 3), generator=torch.Generator().manual_seed(2))
    network.requires_grad_(False)
    with unchanged(network):
        explanation = method(network, images, lambda logits: classes)
    network.requires_grad_(True)
    with unchanged(network), torch.no_grad():
        again = method(network, images, lambda logits: classes)
    peak = float(explanation.maps.abs().max())
    assert peak > 0
    assert explanation.maps.shape[:2] == (len(images), 3)
    assert torch.equal(explanation.classes, classes)
    assert not explanation.maps.requires_grad
    assert not explanation.logits.requires_grad
    torch.testing.assert_close(explanation.logits, network(images).logits.detach())
    close = {"rtol": 0, "atol": tolerance * peak}
    torch.testing.assert_close(again.maps, explanation.maps, **close)
    alone_equals_the_batch(method, network, images, classes, explanation.maps, close)
    threads_do_not_meet(method, network, images, classes, explanation.maps, close)
    an_exception_leaves_nothing_behind(method, network, images)


def alone_equals_the_batch(method, network, images, classes, maps, close):
    for n in range(len(images)):
        for label in range(3):
            column = classes[n : n + 1, label : label + 1]
            alone = method(network, images[n : n + 1], lambda logits, column=column: column)
            torch.testing.assert_close(alone.maps[0, 0], maps[n, label], **close)


def threads_do_not_meet(method, network, images, classes, maps, close):
    wrong = []

    def work(n):
        part = images[n : n + 1]
        for _ in range(5):
            alone = method(network, part, lambda logits: classes[n : n + 1])
            if not torch.allclose(alone.maps[0], maps[n], **close):
                wrong.append(n)

    def guarded(n):
        try:
            work(n)
        except Exception as error:
            wrong.append(error)

    with unchanged(network):
        threads = [threading.Thread(target=guarded, args=(n % len(images),)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def an_exception_leaves_nothing_behind(method, network, images):
    def fail(logits):
        raise ZeroDivisionError

    with unchanged(network):
        try:
            method(network, images, fail)
            raise AssertionError("the exception is gone")
        except ZeroDivisionError:
            pass
