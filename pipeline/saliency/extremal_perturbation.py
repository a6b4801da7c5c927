"""Extremal perturbation: the smooth mask of a fixed area that keeps the class score highest.

    m = argmax  s_c(m * image) - lambda mean (sort(m) - r_a)^2        r_a = 0 ... 0 1 ... 1
    m(u) = smax_u' k(|u - u'| / sigma) p(u')        k(z) = exp(-2 max(0, z - 1/2)^2)
    smax f = sum f exp(20 f) / sum exp(20 f)

Fong, Patrick and Vedaldi, "Understanding Deep Networks via Extremal Perturbations and Smooth
Masks", ICCV 2019. r_a has the share a of ones; p, from 0 to 1, is what is optimized, a value a cell
also around the image. m * image is the image blurred by a Gaussian of `blur` (1 - m(u)) at u, from
a pyramid of blurred images, or `fade`: the product. `preserve` searches what is enough for the
class, `delete` what it cannot do without (the mask is what is blurred, and the score is minimized).
Several areas give the mean of their masks.

Kernel, smooth maximum, lambda (300, 0.35 % more each step), SGD with momentum (0.01, 0.9, dampening
0.9), 800 steps and sizes (32 cells of 7 pixels, sigma 21 and blur 20 at 224 pixels) are those of
the authors' code; here sizes grow with the shorter side, and the image is not shifted at random. m
is computed at two points a cell in each direction and bilinear between them, and k ends at 1.5
sigma. p starts where the image is as it is: at 1, or at 0 to delete.

Each mask is optimized by itself, whatever batch it is in. Float32 always, as the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.saliency.gradients import compute_gradients
from pipeline.saliency.option_checks import check_counts
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

COLDNESS = 20.0  # 1 / T of the smooth maximum
KERNEL_END = 1.5  # sigmas, where the kernel is 0.14
LEVELS = 8  # of the pyramid of blurred images
AREA_WEIGHT, AREA_GROWTH = 300.0, 1.0035  # lambda, and its factor for each step
RATE, MOMENTUM = 0.01, 0.9


@dataclass(frozen=True)
class ExtremalPerturbation:
    """Extremal perturbation: a smooth mask of fixed area, optimized for the class."""

    areas: tuple[float, ...] = (0.1,)  # of the mask, as shares of the image; a mask for each
    steps: int = 800  # a forward and a backward pass each, for each class and area
    variant: Literal["preserve", "delete"] = "preserve"  # what the mask does to the score
    perturbation: Literal["blur", "fade"] = "blur"  # fade: to 0, the mean colour
    blur: float = 0.09  # standard deviation where the mask is 0, in shorter sides of the image
    cells: int = 32  # values of the mask along the shorter side
    sigma: float = 3.0  # radius of what a value marks, in cells: how smooth the mask is
    batch: int = 8  # masks in a pass

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, cells=self.cells, batch=self.batch)
        for name, size in {"blur": self.blur, "sigma": self.sigma}.items():
            if not 0 < size < math.inf:
                raise UserError(f"saliency.{name}={size}: expected more than 0")
        if not self.areas or not all(0 < area < 1 for area in self.areas):
            raise UserError(
                f"saliency.areas={[*self.areas]}: expected one or more shares of the image between "
                "0 and 1, as in [0.1] or [0.05,0.1,0.2]"
            )

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute masks of the chosen classes at the resolution of the image, from 0 to 1."""
        with full_precision(images, graph=False):
            logits = network(images).logits
            classes = choose(logits)
            wanted = torch.cartesian_prod(
                torch.arange(len(images)),
                torch.arange(classes.shape[1]),
                torch.arange(len(self.areas)),
            )
            masks = []
            for rows in torch.split(wanted, self.batch):
                n, column, area = rows.to(images.device).T
                areas = images.new_tensor(self.areas)[area]
                masks.append(self._optimize(network, images[n], classes[n, column], areas))
        maps = torch.cat(masks).view(*classes.shape, len(self.areas), *images.shape[2:])
        return Explanation(maps.mean(2), classes, logits)

    def build_mask(
        self, size: tuple[int, int], device: torch.device
    ) -> tuple[Float[Tensor, "1 rows columns"], Callable[[Tensor], Tensor]]:
        """Return the start of p, and the function from p [m, rows, columns] to masks [m, H, W].

        Args:
            size: Height and width of the image.
            device: Where p and the masks are.
        """
        step = max(1, round(min(size) / self.cells))
        reach = math.ceil(KERNEL_END * self.sigma)
        rows, columns = (math.ceil(side / step) for side in size)
        side = 2 * reach + 1
        kernel = _build_kernel(reach, self.sigma).to(device)
        marked = kernel.any(0).nonzero()[:, 0]  # not the corners
        kernel = kernel[:, marked, None]
        ended = torch.where(kernel > 0, 0.0, -math.inf)

        def smooth(values: Float[Tensor, "m rows columns"]) -> Float[Tensor, "m H W"]:
            near = F.unfold(values[:, None], side)[:, None, marked] * kernel
            shares = (COLDNESS * near + ended).softmax(2)
            points = F.pixel_shuffle((near * shares).sum(2).view(-1, 4, rows, columns), 2)
            covered = (rows * step, columns * step)
            large = F.interpolate(points, covered, mode="bilinear", align_corners=False)
            return large[:, 0, : size[0], : size[1]]

        whole = 1.0 if self.variant == "preserve" else 0.0
        shape = (1, rows + 2 * reach, columns + 2 * reach)
        start = torch.full(shape, whole, device=device)
        return start, smooth

    def perturb(
        self, images: Float[Tensor, "b 3 H W"]
    ) -> Callable[[Float[Tensor, "b H W"]], Float[Tensor, "b 3 H W"]]:
        """Return the function from a mask for each image to the images perturbed outside it.

        Args:
            images: Images as the network sees them.
        """
        if self.perturbation == "fade":
            return lambda masks: images * masks[:, None]
        largest = self.blur * min(images.shape[2:])
        pyramid = torch.stack(
            [_blur(images, largest * level / (LEVELS - 1)) for level in range(LEVELS)], 1
        )
        levels = torch.arange(LEVELS, device=images.device)[:, None, None]

        def blur(masks: Float[Tensor, "b H W"]) -> Float[Tensor, "b 3 H W"]:
            wanted = (1 - masks[:, None]) * (LEVELS - 1)
            shares = (1 - (wanted - levels).abs()).clamp(min=0)
            return torch.einsum("blhw,blchw->bchw", shares, pyramid)

        return blur

    def _optimize(
        self,
        network: Network,
        images: Float[Tensor, "m 3 H W"],
        classes: Int[Tensor, "m"],
        areas: Float[Tensor, "m"],
    ) -> Float[Tensor, "m H W"]:
        """Return the mask of each image's class that has its area."""
        start, smooth = self.build_mask((images.shape[2], images.shape[3]), images.device)
        perturb = self.perturb(images)
        values = start.repeat(len(images), 1, 1)
        velocity = torch.zeros_like(values)
        for step in range(self.steps):
            weight = AREA_WEIGHT * AREA_GROWTH**step
            with torch.enable_grad():
                masks = smooth(values.requires_grad_())
                kept = masks if self.variant == "preserve" else 1 - masks
                perturbed = perturb(kept)
                slopes = self._differentiate(network, perturbed.detach(), classes)
                goal = (slopes * perturbed).sum() - weight * measure_area(masks, areas).sum()
            (gradient,) = torch.autograd.grad(goal, values)
            velocity = MOMENTUM * velocity + (1 - MOMENTUM) * gradient
            values = (values.detach() + RATE * velocity).clamp(0, 1)
        return smooth(values)

    def _differentiate(
        self, network: Network, images: Float[Tensor, "m 3 H W"], classes: Int[Tensor, "m"]
    ) -> Float[Tensor, "m 3 H W"]:
        """Compute the gradient of the score, or of its negative where it is minimized."""
        answer = network(images, at=("input",))
        inputs = [answer.activations["input"]]
        (gradients,) = compute_gradients(answer.logits, classes[:, None], inputs)
        return gradients[:, 0] if self.variant == "preserve" else -gradients[:, 0]


def measure_area(masks: Float[Tensor, "m H W"], areas: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
    """Compute the mean square of sort(m) - r_a: 0 for a mask of ones on its area, else zeros.

    Args:
        masks: From 0 to 1.
        areas: The wanted shares of ones.
    """
    ordered = masks.flatten(1).sort(1).values
    count = ordered.shape[1]
    zeros = torch.round(count * (1 - areas))[:, None]
    wanted = (torch.arange(count, device=masks.device) >= zeros).to(masks)
    return (ordered - wanted).square().mean(1)


def _build_kernel(reach: int, sigma: float) -> Float[Tensor, "4 n"]:
    """Return k at the cells around a cell, seen from the four points in it."""
    cells = np.arange(-reach, reach + 1)
    points = np.array([-0.25, 0.25])
    square = (points[:, None] - cells) ** 2
    distance = np.sqrt(square[:, None, :, None] + square[None, :, None, :]) / sigma
    kernel = np.exp(-2 * np.clip(distance - 0.5, 0, None) ** 2)
    kernel[distance > KERNEL_END] = 0
    return torch.from_numpy(kernel.reshape(4, -1).astype(np.float32))


def _blur(images: Float[Tensor, "b 3 H W"], sigma: float) -> Float[Tensor, "b 3 H W"]:
    """Blur images by a Gaussian of so many pixels; the border is repeated outside."""
    if sigma == 0:
        return images
    reach = math.ceil(3 * sigma)
    places = torch.arange(-reach, reach + 1, device=images.device)
    weights = (-places.square() / (2 * sigma**2)).exp()
    weights = (weights / weights.sum()).to(images)
    flat = images.flatten(0, 1)[:, None]
    padded = F.pad(flat, (reach, reach, reach, reach), mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, weights[None, None, None]), weights[None, None, :, None])
    return blurred.view_as(images)
