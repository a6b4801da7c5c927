"""Smooth Grad-CAM++: Grad-CAM++ whose derivatives are averaged over noisy copies of the image.

    w_k = sum_ij alpha_k(i, j) relu(D1_k(i, j))        map = relu(sum_k w_k A_k)

    alpha_k(i, j) = D2 / (2 D2 + sum_ab A_k(a, b) D3)    Dp = mean_n (d s_c / d A_k(i, j))^p

Omeiza et al., "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep
Convolutional Neural Network Models", 2019. The features A are those of the image itself. The paper
has D1 in the numerator of alpha; D2 is Grad-CAM++'s, which is then the special case without noise,
and what torchcam computes. torchcam takes relu of the gradient of the last copy instead of the
mean, and sums A_k D3 over the positions instead of A_k: both are the same where gradients are the
same at all positions and copies (a head that is mean then linear), and ours keeps the formula.

Noise as in SmoothGrad: sigma is a share of the image's range of values, all images get the same
noise from a separate generator. Gradients are divided by the largest magnitude of those of the
image itself before they are raised to a power, so that no power of a small gradient is lost.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.fused import average_scaled, check_layers, weight_features
from pipeline.saliency.gradients import MAX_IMAGES_PER_PASS, compute_gradients
from pipeline.saliency.smoothgrad import SmoothGrad
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class SmoothGradCAMPlusPlus:
    """Smooth Grad-CAM++ of one or several layers."""

    layers: tuple[str, ...] = ("last",)  # one, or several whose maps are fused; by name, below
    relu: bool = True  # false: keep values below zero
    samples: int = 5  # noisy copies, each a forward pass and a backward pass to the layer
    noise: float = 0.15  # sigma as a share of the image's range of values
    seed: int = 0  # of the noise

    def __post_init__(self) -> None:
        check_layers(self.layers)
        self._noise()

    def _noise(self) -> SmoothGrad:
        return SmoothGrad(self.samples, self.noise, seed=self.seed)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the finest layer.

        Raises:
            UserError: If a layer does not exist or the score does not depend on it.
        """
        with torch.enable_grad():
            answer = network(images, at=self.layers)
            logits = answer.logits.detach()
            classes = choose(logits)
            features = [answer.activations[name] for name in self.layers]
            plain = compute_gradients(answer.logits, classes, features)
        scales = [_find_scale(gradients.float()) for gradients in plain]
        features = [layer_features.detach().float() for layer_features in features]
        del answer, plain
        moments = self._average_powers(network, images, classes, scales)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            maps = [
                weight_by_moments(layer_features, powers, scale)
                for layer_features, powers, scale in zip(features, moments, scales, strict=True)
            ]
            if self.relu:
                maps = [layer_maps.relu() for layer_maps in maps]
            fused = maps[0] if len(maps) == 1 else average_scaled(maps)
            return Explanation(fused, classes, logits)

    def _average_powers(
        self,
        network: Network,
        images: Float[Tensor, "b 3 H W"],
        classes: Int[Tensor, "b t"],
        scales: Sequence[Float[Tensor, "b t 1 1 1"]],
    ) -> list[list[Tensor]]:
        """Average the first three powers of the scaled gradients over the noisy copies.

        A pass takes at most MAX_IMAGES_PER_PASS images or one copy.

        Returns:
            For each layer the means of the first, second and third power, [b, t, K, h, w].
        """
        copies = self._noise().add_noise(images)
        count = max(1, MAX_IMAGES_PER_PASS // len(images))
        means: list[list[Tensor]] = [[] for _ in self.layers]
        while chunk := [noisy for _, noisy in islice(copies, count)]:
            with torch.enable_grad():
                answer = network(torch.cat(chunk), at=self.layers)
                features = [answer.activations[name] for name in self.layers]
                repeated = classes.repeat(len(chunk), 1)
                gradients = compute_gradients(answer.logits, repeated, features)
            for powers, layer_gradients, scale in zip(means, gradients, scales, strict=True):
                scaled = layer_gradients.float().view(
                    len(chunk), len(images), *layer_gradients.shape[1:]
                )
                scaled = scaled / scale
                terms = [(scaled**power).sum(0) / self.samples for power in (1, 2, 3)]
                powers[:] = [a + b for a, b in zip(powers, terms, strict=True)] if powers else terms
        return means


def _find_scale(gradients: Float[Tensor, "b t K h w"]) -> Float[Tensor, "b t 1 1 1"]:
    """Find the largest magnitude of the gradients of each image and class; 1 where all are 0."""
    peak = gradients.abs().amax((2, 3, 4), keepdim=True)
    return torch.where(peak > 0, peak, 1)


def weight_by_moments(
    features: Float[Tensor, "b K h w"],
    powers: Sequence[Float[Tensor, "b t K h w"]],
    scale: Float[Tensor, "b t 1 1 1"],
) -> Float[Tensor, "b t h w"]:
    """Compute sum_k w_k A_k.

    Args:
        features: Feature maps of the image.
        powers: Means of the first, second and third power of the gradients divided by `scale`.
        scale: What the gradients were divided by.
    """
    first, second, third = powers
    total = features.sum((2, 3))[:, None, :, None, None]
    denominator = 2 * second + total * scale * third
    shares = (second / denominator).masked_fill(denominator == 0, 0)
    return weight_features((shares * first.relu()).sum((3, 4)) * scale[..., 0, 0], features)
