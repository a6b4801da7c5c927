"""ShapleyCAM: Grad-CAM whose gradient is corrected by the curvature of the class score.

    w_k = mean_ij (d s_c / d A_k - 1/2 (H A)_k)        map = relu(sum_k w_k A_k)

H is the Hessian of s_c at the features A, so that w . A is the second-order estimate of what all
features add to the score, of which the gradient is the first-order one. Cai, "CAMs as Shapley
Value-based Explainers", 2025 (arXiv 2501.06261). Where what follows the layer is linear, or is made
of ReLU, linear layers and sums, H is 0 and it is Grad-CAM.

The Hessian times A comes from a second backward pass to the layer. Attention that torch fuses has
no second derivative, so it is written out for the forward pass of this thread.

Maps of several layers, each with its own H, are divided by their largest magnitude, upsampled to
the largest resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.fused import RectifiedLayerMethod
from pipeline.saliency.gradcam import weight_by_mean_gradient
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class ShapleyCAM(RectifiedLayerMethod):
    """ShapleyCAM of one or several layers."""

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the finest layer.

        Raises:
            UserError: If a layer does not exist or the score does not depend on it.
        """
        with UnfusedAttention():
            return super().__call__(network, images, choose)

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute sum_k w_k A_k from gradients corrected by the curvature."""
        return weight_by_mean_gradient(features, gradients)

    def differentiate(
        self,
        logits: Float[Tensor, "b C"],
        classes: Int[Tensor, "b t"],
        features: Sequence[Float[Tensor, "b K h w"]],
    ) -> list[Tensor]:
        """Compute d s_c / d A_k - 1/2 (H A)_k for each layer."""
        return correct_by_curvature(logits, classes, features)


def correct_by_curvature(
    logits: Float[Tensor, "b C"],
    classes: Int[Tensor, "b t"],
    features: Sequence[Float[Tensor, "b K h w"]],
) -> list[Tensor]:
    """Compute g - 1/2 H A for each layer and class, g the gradient of the class's logit.

    Returns:
        For each layer [b, K, h, w] a tensor [b, t, K, h, w].

    Raises:
        UserError: If the score does not depend on one of the layers.
    """
    columns = []
    for column in range(classes.shape[1]):
        score = logits.gather(1, classes[:, column : column + 1]).sum()
        gradients = torch.autograd.grad(score, features, create_graph=True, allow_unused=True)
        columns.append([_correct(g, a) for g, a in zip(gradients, features, strict=True)])
    return [torch.stack(layer, 1) for layer in zip(*columns, strict=True)]


def _correct(gradient: Tensor | None, features: Tensor) -> Tensor:
    if gradient is None:
        raise UserError("the class score does not depend on this layer: nothing behind reads it")
    if not gradient.requires_grad:
        return gradient
    (product,) = torch.autograd.grad(
        gradient, features, features.detach(), retain_graph=True, allow_unused=True
    )
    return gradient.detach() if product is None else gradient.detach() - product / 2


class UnfusedAttention(TorchFunctionMode):
    """Compute scaled dot-product attention step by step in this thread, for second derivatives."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, or in place of fused attention what computes it step by step."""
        options = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return compute_attention(*args, **options)
        if func is F.multi_head_attention_forward and options.get("need_weights") is False:
            # Calls inside a function that was intercepted are not; with weights it does not fuse.
            output, _ = func(*args, **{**options, "need_weights": True})
            return output, None
        return func(*args, **options)


def compute_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute softmax(q k^T * scale + mask) v, with the arguments of torch's fused function."""
    if enable_gqa:
        key, value = (
            part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value)
        )
    weights = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones_like(weights[0, 0], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        weights = weights.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        weights = weights + attn_mask
    return F.dropout(weights.softmax(-1), dropout_p) @ value
