"""Parts of a network that is used as it is: heads that read its answer, and its feature maps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.model.evaluation import HOOKS_LOCK, evaluation_mode
from pipeline.model.forms import Form, to_maps
from pipeline.model.gap import GapHead
from pipeline.model.preprocessing import count_channels, device_of
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float


class ModuleHead(nn.Module):
    """The head of such a network: it reads logits from the answer, perhaps of some classes alone.

    Args:
        read_logits: from what the module gives to its logits.
        classes: how many of them are classes: the first, until `select` chooses.
    """

    rows: Tensor

    def __init__(self, read_logits: Callable[[Any], Tensor], classes: int) -> None:
        super().__init__()
        self._read_logits = read_logits
        self.register_buffer("rows", torch.arange(classes))

    def select(self, rows: Sequence[int]) -> None:
        """Reduce the logits to those of some classes.

        Args:
            rows: positions among the logits as they are now.
        """
        self.rows = self.rows[list(rows)]

    def forward(self, answer: Any) -> Tensor:
        """Return the logits of the classes."""
        return self._read_logits(answer)[:, self.rows]


class ModuleGapHead(ModuleHead):
    """The same of a network that averages its feature maps and is linear then.

    Args:
        read_logits: from what the module gives to its logits.
        classes: how many of them are classes.
        module: the network; its weights are the body's.
        gap: where its class weights are.
    """

    def __init__(
        self, read_logits: Callable[[Any], Tensor], classes: int, module: nn.Module, gap: GapHead
    ) -> None:
        super().__init__(read_logits, classes)
        self._module = (module,)  # in a tuple: it is no part of the head
        self._gap = gap

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The weight of each feature map for each class."""
        return self._gap.class_weights(self._module[0])[self.rows]

    @property
    def relu_of(self) -> str | None:
        """The layer whose ReLU the head reads; None: the head reads the maps themselves."""
        return self._gap.last if self._gap.relu else None


LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey, as Pillow has it (ITU-R 601)


def reads_grey(module: nn.Module, sizes: Sequence[Size]) -> bool:
    """Return whether a network reads images of one channel and none of three.

    Args:
        module: the network.
        sizes: height and width of images to try, until it reads one.
    """
    if count_channels(module) != 1:
        return False
    for size in sizes:
        for channels in (3, 1):
            try:
                with torch.no_grad(), evaluation_mode(module):
                    module(torch.zeros(1, channels, *size, device=device_of(module)))
            except Exception:  # whatever a network of others raises for what it does not read
                continue
            return channels == 1
    return False


def read_colour_as_grey(module: nn.Module) -> None:
    """Let a network of grey images read images of three channels, by their luma.

    Args:
        module: is changed.
    """
    module.forward = partial(_forward_grey, module.forward)


def _forward_grey(forward: Callable[[Tensor], Any], images: Float[Tensor, "b c H W"]) -> Any:
    if images.shape[1] == 1:
        return forward(images)
    luma = images.new_tensor(LUMA)[:, None, None]
    return forward((luma * images).sum(1, keepdim=True))


def end_body_at(
    body: nn.Module, name: str, default: Form | None, images: Float[Tensor, "b 3 H W"]
) -> nn.Module:
    """Let a network return the feature maps of a layer, and freeze what lies behind that layer.

    No step of training would reach the weights behind it.

    Args:
        body: is changed.
        name: of the layer.
        default: the form of the layer where its shape does not tell.
        images: of a size that it reads.

    Returns:
        The same network.
    """
    body.forward = partial(end_at, body.forward, body, name, default)
    if any(tensor.is_meta for tensor in body.parameters()):
        return body
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        maps = body(images)
    learned = [parameter for parameter in body.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(maps.square().sum(), learned, allow_unused=True)
    for parameter, gradient in zip(learned, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    return body


def end_at(
    forward: Callable[[Tensor], Any],
    module: nn.Module,
    name: str,
    default: Form | None,
    images: Float[Tensor, "b 3 H W"],
) -> Float[Tensor, "b K h w"]:
    """Run a module, and return the feature maps that a layer gave last.

    Args:
        forward: of the module.
        module: it.
        name: of the layer.
        default: the form of the layer where its shape does not tell.
        images: as the module reads them.
    """
    maps: list[Tensor] = []
    thread = threading.get_ident()

    def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        given, put_back = to_maps(name, layer, output, (images.shape[2], images.shape[3]), default)
        maps[:] = [given]
        return put_back(given.clone())  # what runs behind the layer may change it in place

    with HOOKS_LOCK:
        handle = module.get_submodule(name).register_forward_hook(hook)
    try:
        forward(images)
    finally:
        with HOOKS_LOCK:
            handle.remove()
    return maps[0]
