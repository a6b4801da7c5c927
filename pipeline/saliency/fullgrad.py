"""FullGrad: the score as a sum over the image and over all biases, each term at its position.

    s_c = sum_ij image(i, j) d s_c / d image(i, j)  +  sum_l sum_kij b_l(k) d s_c / d z_l(k, i, j)

z_l is the output of operation l, b_l its bias: the part of it that does not come from its input.

    map = psi(image * d s_c / d image) + sum_l sum_k psi(b_l(k) * d s_c / d z_l(k))
    psi = absolute value, scaled to [0, 1], upsampled bilinearly

Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019.
The first line is exact, once all biases are counted:

    convolution, linear layer    its bias
    batch norm                   beta - gamma mean / deviation
    constants that are added     the constant
    activations                  phi(x) - phi'(x) x: 0 for ReLU, 6 where ReLU6 is saturated (the
                                 paper's implicit bias)
    products of activations      - x y, since the gradient counts a product twice

Each call checks it, so a network with an operation that is not in this list is refused rather than
explained wrongly. Biases without a position (of a linear head) are no part of the map.

`rescale`: `layer` scales a layer as a whole, as the authors' code does. `channel` scales each
channel to [0, 1], as the paper's formula has it literally: a channel with a tiny contribution then
counts as much as the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pipeline.errors import UserError
from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

# The largest difference of the terms' sum from the score, relative to the sum of their magnitudes.
# Rounding gives some 1e-7, TF32 on an accelerator less than 1e-3; a missing operation seldom less
# than 0.1.
TOLERANCE = 5e-3


@dataclass(frozen=True)
class FullGrad:
    """FullGrad maps, whose completeness is checked in each call."""

    rescale: Literal["layer", "channel"] = "layer"  # what psi scales to [0, 1]

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image, in float32.

        Maps are never negative.

        Raises:
            UserError: If the network has an operation whose bias is not known.
        """
        with full_precision(images):
            with _Biases() as biases:
                answer = network(images, at=("input",))
            classes = choose(answer.logits)
            ends = [get_gradient_edge(answer.activations["input"]), *biases.edges]
            values = [images, *biases.values]
            maps = []
            for n, column in enumerate(classes.T):
                scores = answer.logits.gather(1, column[:, None])[:, 0]
                gradients = torch.autograd.grad(
                    scores.sum(), ends, retain_graph=n + 1 < classes.shape[1], allow_unused=True
                )
                pairs = [(g, v) for g, v in zip(gradients, values, strict=True) if g is not None]
                maps.append(self._build_map(scores.detach(), pairs))
        return Explanation(torch.stack(maps, 1), classes, answer.logits.detach())

    def _build_map(
        self, scores: Float[Tensor, "b"], pairs: Sequence[tuple[Tensor, Tensor]]
    ) -> Float[Tensor, "b H W"]:
        """Add up the maps of all terms; raise UserError unless the terms add up to the scores.

        Args:
            scores: The class score of each image.
            pairs: Each gradient with the value that it is multiplied with, the image's pair first.
        """
        size = pairs[0][0].shape[2:]
        total, weight = torch.zeros_like(scores), scores.abs()
        maps = scores.new_zeros((len(scores), *size))
        for gradient, value in pairs:
            share = gradient * value
            part = share.flatten(1).sum(1)
            total, weight = total + part, weight + part.abs()
            if share.ndim == 4:
                maps += self._psi(share, size)
        excess = (total - scores).abs() - TOLERANCE * weight
        if (excess > 0).any():
            worst = excess.argmax()
            raise UserError(
                f"saliency=fullgrad: image and biases make {total[worst]:.4g} of a score of "
                f"{scores[worst]:.4g}: this network has an operation whose bias is not known here "
                "(layer norm, attention); on any network: gradient_times_input, "
                "integrated_gradients, gradcam"
            )
        return maps

    def _psi(self, share: Float[Tensor, "b K h w"], size: Sequence[int]) -> Float[Tensor, "b H W"]:
        """Compute sum_k psi(share_k); upsampling is linear, so it may come after the sum."""
        share = share.abs()
        over = (2, 3) if self.rescale == "channel" else (1, 2, 3)
        low, high = share.amin(over, keepdim=True), share.amax(over, keepdim=True)
        share = ((share - low) / torch.where(high > low, high - low, 1)).sum(1, keepdim=True)
        return F.interpolate(share, tuple(size), mode="bilinear")[:, 0]


class _Biases(TorchFunctionMode):
    """The biases of all operations that this thread runs within the mode.

    torch passes each call of an operation to a mode, whether a module or a function calls it. A
    mode ends with its block: there is no hook, and nothing to clean up.
    """

    def __init__(self) -> None:
        super().__init__()
        # Edges of the graph, not tensors: a ReLU in place behind an operation changes its tensor.
        self.edges: list[GradientEdge] = []
        self.values: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        rule = RULES.get(getattr(func, "__name__", "").strip("_"))
        bias = None if rule is None or not any(map(_depends, args)) else rule(func, args, kwargs)
        output = func(*args, **kwargs)
        if bias is not None and output.requires_grad:
            self.edges.append(get_gradient_edge(output))
            self.values.append(bias.detach())
        return output


def _depends(value: Any) -> bool:
    """Return whether `value` is a tensor that was computed from the image."""
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)


# The bias of each kind of operation, computed before it runs, since it may run in place. What has
# no rule has no bias (ReLU, pooling, concatenation), or `_build_map` refuses the network.
Operation = Callable[..., Tensor]
Rule = Callable[[Operation, Sequence[Any], Mapping[str, Any]], "Tensor | None"]


def _bias_of_convolution(
    func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """Return the bias argument, shaped so that it lies along the channels."""
    bias: Tensor | None = kwargs.get("bias", args[2] if len(args) > 2 else None)
    return None if bias is None else bias.view(-1, *[1] * (args[0].ndim - 2))


def _bias_of_linear(
    func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """Return the bias argument; None for inputs of more axes than [b, K], which have positions."""
    # Channels come last here: with more than two axes the bias would lie along positions.
    return _bias_of_convolution(func, args, kwargs) if args[0].ndim == 2 else None


def _bias_of_batch_norm(
    func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """Return the output at an input of zeros; None in training mode."""
    if kwargs.get("training", args[5] if len(args) > 5 else False):
        return None  # normalised by the batch itself: not affine
    zeros = args[0].new_zeros(1, args[0].shape[1])
    return func(zeros, *args[1:], **kwargs).view(-1, *[1] * (args[0].ndim - 2))


def _bias_of_sum(func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the constant that is added; None where both terms come from the image."""
    if all(map(_depends, args[:2])):
        return None
    without_image = [
        torch.zeros_like(a) if _depends(a) else a.clone() if isinstance(a, Tensor) else a
        for a in args
    ]
    return func(*without_image, **kwargs)


def _bias_of_product(
    func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """Return - x y where both factors come from the image, else None."""
    if not all(map(_depends, args[:2])):
        return None
    product: Tensor = args[0].detach() * args[1].detach()
    return -product


def _bias_of_activation(
    func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """Return phi(x) - phi'(x) x of an activation phi."""
    point = args[0].detach().clone().requires_grad_()
    value = func(point.clone(), *args[1:], **kwargs)
    (gradient,) = torch.autograd.grad(value.sum(), point)
    bias: Tensor = value - gradient * point
    return bias


RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv_transpose2d"), _bias_of_convolution),
    "linear": _bias_of_linear,
    "batch_norm": _bias_of_batch_norm,
    **dict.fromkeys(("add", "radd", "iadd", "sub", "rsub", "isub"), _bias_of_sum),
    **dict.fromkeys(("mul", "rmul", "imul", "multiply"), _bias_of_product),
    **dict.fromkeys(
        ("hardtanh", "relu6", "clamp", "hardswish", "hardsigmoid", "silu", "gelu", "mish", "elu",
         "celu", "selu", "softplus", "sigmoid", "tanh"),
        _bias_of_activation,
    ),
}  # fmt: skip
