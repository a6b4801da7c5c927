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
    """A network as the peers know one: images in, logits out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images).logits


def _body(strides=(2, 2, 2)):
    """Features that are 0 in places, one channel of them everywhere."""
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
    """Several linear layers behind the features, as in AlexNet and VGG."""
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
    """A transformer's tokens as pytorch-grad-cam wants to be told of them."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)


def layer_of(network, name):
    return network.body.get_submodule(network._path(name))


def by_pytorch_grad_cam(method, network, images, classes, layers=("last",), **options):
    """Its maps [b, t, H, W] in [0, 1]: it scales and resizes them."""
    tokens = isinstance(network.body, VisionTransformer)
    found = []
    for column in classes.T.tolist():
        targets = [layer_of(network, name) for name in layers]
        model = Logits(network)
        with method(model, targets, reshape_transform=grid if tokens else None) as peer:
            for name, value in options.items():
                setattr(peer, name, value)
            found.append(peer(images, [ClassifierOutputTarget(label) for label in column]))
    return torch.from_numpy(np.stack(found, 1))


def as_pytorch_grad_cam(maps, images):
    """Our raw maps scaled and resized by its own function, in its order."""
    size = tuple(images.shape[:1:-1])
    found = [scale_cam_image(scale_cam_image(one, size)) for one in maps.clamp(min=0).numpy()]
    return torch.from_numpy(np.stack(found))


def by_torchcam(method, network, images, classes, layers=("last",), *options):
    """Its raw maps [b, t, h, w] of each layer."""
    found = []
    for column in classes.T.tolist():
        model = Logits(network)
        with method(model, [layer_of(network, name) for name in layers], *options) as peer:
            scores = model(images)
            found.append(peer(column, scores, normalized=False))
    return [torch.stack(one, 1) for one in zip(*found, strict=True)]


def state_of(network):
    """All that a method could leave behind on a network."""
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


def held_to_the_contract(method, network, images, tolerance=1e-5):
    """Any classes, one image or many, frozen or not, two threads, an exception inside."""
    classes = torch.randint(0, 7, (len(images), 3), generator=torch.Generator().manual_seed(2))
    network.requires_grad_(False)
    with unchanged(network):
        found = method(network, images, lambda logits: classes)
    network.requires_grad_(True)
    with unchanged(network), torch.no_grad():
        again = method(network, images, lambda logits: classes)
    peak = float(found.maps.abs().max())
    assert peak > 0
    assert found.maps.shape[:2] == (len(images), 3)
    assert torch.equal(found.classes, classes)
    assert not found.maps.requires_grad
    assert not found.logits.requires_grad
    torch.testing.assert_close(found.logits, network(images).logits.detach())
    close = {"rtol": 0, "atol": tolerance * peak}
    torch.testing.assert_close(again.maps, found.maps, **close)
    alone_equals_the_batch(method, network, images, classes, found.maps, close)
    threads_do_not_meet(method, network, images, classes, found.maps, close)
    an_exception_leaves_nothing_behind(method, network, images)


def alone_equals_the_batch(method, network, images, classes, maps, close):
    for n in range(len(images)):
        for label in range(3):
            column = classes[n : n + 1, label : label + 1]
            one = method(network, images[n : n + 1], lambda logits, column=column: column)
            torch.testing.assert_close(one.maps[0, 0], maps[n, label], **close)


def threads_do_not_meet(method, network, images, classes, maps, close):
    wrong = []

    def work(n):
        part = images[n : n + 1]
        for _ in range(5):
            one = method(network, part, lambda logits: classes[n : n + 1])
            if not torch.allclose(one.maps[0], maps[n], **close):
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
