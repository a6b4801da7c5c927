"""Can a change too small to see move the map, though the prediction stays? Fragility.

    x_{t+1} = clip(x_t - step * sign(d D(x_t) / d x))        |x_t - x| <= epsilon, all pixels valid
    D(x)    = the share of the map that lies on the k pixels that stood out before

Ghorbani et al., "Interpretation of Neural Networks is Fragile", AAAI 2019, algorithm 1, the top-k
attack. Of the images on this way whose predicted class is that of the original, the one counts
whose own map shares the fewest of its top k pixels with the original's: so what is found is a lower
bound, whatever the slopes were taken from. Where the class was lost on the way, a step goes back
towards it. Random signs of the same epsilon are the yardstick.

A method's map is nothing to take slopes of in general, so D is that of a map of its kind: where
maps are as fine as the image, the magnitude of the gradient; where they are coarse, Grad-CAM at the
layer that the head reads. For gradient and gradcam themselves this is the paper's attack; others
are attacked by transfer, and may be more fragile than what is found.

The gradient's own slope is a product with the Hessian, H u with u = d D / d g. A ReLU network's
Hessian is zero almost everywhere. The paper puts softplus in place of ReLU; here the product is a
difference, g(x + u) - g(x), over half of epsilon: it needs no other network, which would predict
another class, costs two gradients, and found smaller shares in a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.audit.likeness import enlarged, importance, rank_correlation, top_cells, top_k_shared
from pipeline.protocols import Network

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Explain = Callable[[nn.Module, Tensor], Tensor]

TOP = 0.02  # of the pixels: 1000 of 224 x 224, as in the paper
LOOKS = 5  # on the way, at the method's own map


@dataclass(frozen=True)
class Bounds:
    """What a pixel may be, and how far it may go, on the network's scale: [3, 1, 1] each."""

    low: Tensor
    high: Tensor
    epsilon: Tensor

    @classmethod
    def of(
        cls, mean: Sequence[float], std: Sequence[float], epsilon: float, device: torch.device
    ) -> Bounds:
        """`epsilon`: for pixels in [0, 1]."""
        m, s = (torch.tensor(one, device=device)[:, None, None] for one in (mean, std))
        return cls(-m / s, (1 - m) / s, epsilon / s)

    def clip(self, images: Tensor, around: Tensor) -> Tensor:
        near = images.clamp(around - self.epsilon, around + self.epsilon)
        # An image may touch the bounds up to rounding: it may stay where it is.
        return near.clamp(torch.minimum(self.low, around), torch.maximum(self.high, around))


@dataclass(frozen=True)
class Moved:
    """The worst image found within the bounds, and its map."""

    images: Float[Tensor, "b 3 H W"]
    maps: Float[Tensor, "b h w"]
    top_k: Float[Tensor, "b"]
    rank: Float[Tensor, "b"]
    kept: Bool[Tensor, "b"]  # any image on the way kept the class; else it is the original


def fragility(
    network: Network,
    explain: Explain,
    logits: Callable[[Tensor], Tensor],
    images: Float[Tensor, "b 3 H W"],
    classes: Int[Tensor, "b"],
    bounds: Bounds,
    seeds: Sequence[int],
    steps: int,
) -> tuple[Float[Tensor, "b h w"], dict[str, Moved]]:
    """The maps before, and what random signs and the attack made of them."""
    assert isinstance(network, nn.Module)
    predicted = logits(images).argmax(1)
    before = explain(network, images)
    size = images.shape[2:]
    order = importance(enlarged(before, size), seeds)
    k = max(1, round(TOP * order.shape[1]))
    marked = top_cells(order, k).view(len(images), *size)
    fine = list(before.shape[1:]) == list(size)

    def worse(than: Moved, some: Tensor) -> Moved:
        """Of each image the one whose map shares less, where the class is kept."""
        maps = explain(network, some)
        shared = top_k_shared(order, importance(enlarged(maps, size), seeds), k)
        same = logits(some).argmax(1) == predicted
        take = same & (shared < than.top_k)

        def chosen(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(take.view(-1, *[1] * (new.ndim - 1)), new, old)

        return Moved(
            chosen(some, than.images),
            chosen(maps, than.maps),
            chosen(shared, than.top_k),
            chosen(rank_correlation(before, maps), than.rank),
            than.kept | same,
        )

    whole = torch.ones(len(images), dtype=torch.float64, device=images.device)
    untouched = Moved(images, before, whole, whole, whole == 0)
    noise = torch.from_numpy(np.stack(
        [np.random.default_rng(seed).choice([-1.0, 1.0], images.shape[1:]) for seed in seeds]
    )).to(images)  # fmt: skip
    signs = worse(untouched, bounds.clip(images + bounds.epsilon * noise, images))
    attacked, some = untouched, images
    looks = {round(steps * (n + 1) / LOOKS) for n in range(LOOKS)}
    for step in range(1, steps + 1):
        slope = downhill(network, some, classes, predicted, marked, bounds, fine)
        # 2.5 times the radius over all steps: it can be crossed, and turned in.
        some = bounds.clip(some + 2.5 / steps * bounds.epsilon * slope.sign(), images)
        if step in looks:
            attacked = worse(attacked, some)
    return before, {"random": signs, "attack": attacked}


def downhill(
    network: Network,
    images: Float[Tensor, "b 3 H W"],
    classes: Int[Tensor, "b"],
    predicted: Int[Tensor, "b"],
    marked: Bool[Tensor, "b H W"],
    bounds: Bounds,
    fine: bool,
) -> Float[Tensor, "b 3 H W"]:
    """Where to go so that less of the map lies on the marked pixels; or back to the class."""
    with torch.enable_grad():
        answer = network(images, at=("input", "last"))
        pixels, features = answer.activations["input"], answer.activations["last"]
        logits, score = answer.logits, answer.logits.gather(1, classes[:, None]).sum()
        lost = logits.argmax(1) != predicted
        if lost.any():
            others = logits.scatter(1, predicted[:, None], -torch.inf).amax(1)
            margin = (logits.gather(1, predicted[:, None])[:, 0] - others).sum()
            (back,) = torch.autograd.grad(margin, pixels, retain_graph=True)
        if fine:
            (slope,) = torch.autograd.grad(score, pixels)
        else:
            (alpha,) = torch.autograd.grad(score, features, create_graph=True)
            maps = (alpha.mean((2, 3), keepdim=True) * features).sum(1).relu()
            share = _share(enlarged(maps, images.shape[2:]), marked)
            (down,) = torch.autograd.grad(-share.sum(), pixels)
    if fine:
        with torch.enable_grad():
            leaf = slope.requires_grad_()
            (way,) = torch.autograd.grad(_share(leaf.abs().sum(1), marked).sum(), leaf)
        largest = way.abs().amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(way.dtype).tiny)
        down = slope.detach() - _gradient(
            network, images + bounds.epsilon / 2 * way / largest, classes
        )
    return torch.where(lost[:, None, None, None], back, down) if lost.any() else down


def _share(maps: Float[Tensor, "b H W"], marked: Bool[Tensor, "b H W"]) -> Float[Tensor, "b"]:
    return (maps * marked).sum((1, 2)) / maps.sum((1, 2)).clamp(min=1e-20)


def _gradient(
    network: Network, images: Float[Tensor, "b 3 H W"], classes: Int[Tensor, "b"]
) -> Float[Tensor, "b 3 H W"]:
    with torch.enable_grad():
        answer = network(images, at=("input",))
        score = answer.logits.gather(1, classes[:, None]).sum()
        (slope,) = torch.autograd.grad(score, answer.activations["input"])
    return slope
