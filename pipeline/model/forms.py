"""The forms in which a layer gives its activations, and their form as feature maps [b, K, h, w].

    channels first   [b, K, h, w]       convolutions, and most CNNs
    channels last    [b, h, w, K]       Swin, ConvNeXt in part
    tokens           [b, n, K]          vision transformers: n = other tokens + h w patches

A layer may give a tuple, as Hugging Face's do: its first tensor is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float

Form = Literal["channels_first", "channels_last", "tokens"]
MAX_OTHER_TOKENS = 8  # class token and registers, before the tokens of the patches
MAX_ROUNDING = 1  # a side of n pixels at a stride of s has n / s cells, give or take this many


def first_tensor(output: Any) -> Any:
    """Return the first tensor of a tuple, list or mapping; anything else as it is."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        return next((part for part in output if isinstance(part, Tensor)), None)
    return output


def replace_first_tensor(output: Any, tensor: Tensor) -> Any:
    """Return a layer's output with its first tensor replaced."""
    if isinstance(output, Tensor):
        return tensor
    old = first_tensor(output)
    if isinstance(output, Mapping):
        return type(output)({k: tensor if v is old else v for k, v in output.items()})  # type: ignore[call-arg]
    parts = [tensor if part is old else part for part in output]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)


def infer_form(
    name: str, layer: nn.Module, output: Any, image: Size, default: Form | None = None
) -> Form:
    """Infer the form of a layer's activations from their shape.

    The spatial axes of [b, ., ., .] are those whose ratio is that of the image. Where both readings
    fit, as for [b, 7, 7, 7], or none does, the modules within the layer decide: a convolution or
    batch norm gives channels first, a layer norm over the last axis channels last.

    Args:
        name: of the layer, for errors.
        layer: the module.
        output: what it gave.
        image: height and width of the images.
        default: the form where neither shape nor modules tell; None: refuse.

    Raises:
        UserError: the output is no feature map and no grid of tokens, or its form is unknown.
    """
    tensor = first_tensor(output)
    if not isinstance(tensor, Tensor) or tensor.ndim not in (3, 4):
        got = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise UserError(
            f"layer {name!r}: expected feature maps [b, K, h, w] or [b, h, w, K], or tokens "
            f"[b, n, K], got {got}"
        )
    if tensor.ndim == 3:
        return "tokens"
    _, first, second, third = tensor.shape
    is_first = _may_be_grid((second, third), image)
    if is_first != _may_be_grid((first, second), image):
        return "channels_first" if is_first else "channels_last"
    kind = _form_of_modules(layer, third) or default
    if kind is None:
        raise UserError(
            f"layer {name!r}: {list(tensor.shape)} could be [b, K, h, w] or [b, h, w, K]; name the "
            "convolution or the norm before it, or explain images of another ratio"
        )
    return kind


def default_form(network: nn.Module) -> Form | None:
    """Return the form of a network's layers where their shapes do not tell.

    Grids with channels last are made for a layer norm over them or for attention: a network without
    any has channels first.
    """
    kinds = [type(module).__name__.lower() for module in network.modules()]
    others = ("layernorm", "rmsnorm", "attention")
    is_plain = not any(other in kind for kind in kinds for other in others)
    return "channels_first" if is_plain else None


def to_maps(
    name: str, layer: nn.Module, output: Any, image: Size, default: Form | None = None
) -> tuple[Float[Tensor, "b K h w"], Callable[[Tensor], Any]]:
    """Return a layer's activations as feature maps, and the function that puts maps back.

    Args:
        name: of the layer, for errors.
        layer: the module.
        output: what it gave.
        image: height and width of the images.
        default: the form where neither shape nor modules tell; None: refuse.

    Returns:
        The maps, a view where that is possible; and the function from maps to an output in the
        layer's form, with the class token and all else as it was.

    Raises:
        UserError: the output is no feature map and no grid of tokens.
    """
    form = infer_form(name, layer, output, image, default)
    tensor: Tensor = first_tensor(output)
    if form == "channels_first":
        return tensor, lambda maps: replace_first_tensor(output, maps)
    if form == "channels_last":
        return tensor.permute(0, 3, 1, 2), lambda maps: replace_first_tensor(
            output, maps.permute(0, 2, 3, 1)
        )
    from torch import cat

    others, (height, width) = infer_token_grid(name, tensor, image)
    grid = tensor[:, others:].mT.reshape(len(tensor), -1, height, width)
    return grid, lambda maps: replace_first_tensor(
        output, cat((tensor[:, :others], maps.permute(0, 2, 3, 1).flatten(1, 2)), 1)
    )


def infer_token_grid(name: str, tokens: Tensor, image: Size) -> tuple[int, Size]:
    """Infer the number of tokens before those of the patches, and the grid (h, w) of the patches.

    Patches are square and cover the image: n = others + (H / p) (W / p). The others are the class
    token and registers. Of several solutions the one with the smallest patches is returned.

    Raises:
        UserError: there is no solution.
    """
    height, width = image
    count = tokens.shape[1]
    for patch in range(1, min(height, width) + 1):
        if height % patch == 0 and width % patch == 0:
            others = count - (height // patch) * (width // patch)
            if 0 <= others <= MAX_OTHER_TOKENS:
                return others, (height // patch, width // patch)
    raise UserError(
        f"layer {name!r}: {count} tokens of an image of {height} x {width} are no grid of patches"
    )


def _may_be_grid(cells: Size, image: Size) -> bool:
    """Return whether one stride, up to rounding, takes the image to so many cells a side."""
    ranges = [
        (side / (count + MAX_ROUNDING), side / max(count - MAX_ROUNDING, 1e-9))
        for side, count in zip(image, cells, strict=True)
    ]
    return max(low for low, _ in ranges) <= min(high for _, high in ranges)


def _form_of_modules(layer: nn.Module, last: int) -> Form | None:
    """Return the form that the last convolution or norm within a layer gives; None: it has none.

    Args:
        layer: the module.
        last: the size of the output's last axis.
    """
    for module in reversed(list(layer.modules())):
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm | nn.MaxPool2d):
            return "channels_first"
        if type(module) is nn.LayerNorm and module.normalized_shape == (last,):
            return "channels_last"
    return None
