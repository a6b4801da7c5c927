"""DeepDream: a photograph in which a layer sees more of whatever it sees there already.

    argmax_I  1/2 mean_ijk A_k(I)[i, j]^2        A: the activations of a layer, all or some of them

from the photograph, a few steps only. The gradient at A is A itself, so that what excites the layer
a little is made to excite it more. Octaves: the ascent begins on a small copy; what it added is
enlarged and laid over the next larger copy of the photograph, where it goes on, up to the full
size, so that there are patterns of every size, and the photograph keeps its own detail.

Mordvintsev, Olah and Tyka, "Inceptionism: Going Deeper into Neural Networks", 2015, and their
published notebook, whose octaves grow by 1.4 and whose shifts are of 32 pixels, too; it has 4
octaves of 10 steps, of 1.5 grey levels on the mean. Theirs is half the sum of squares; ours is half
their mean, so that octaves can be compared, and a step has a root mean square, which falls to 0
(pipeline/visualize/ascent.py): the direction is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.protocols import Network
from pipeline.types import Size
from pipeline.visualize.ascent import Ascent, Bounds, Climb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

SMALLEST = 32  # pixels of the shorter side: there is no smaller octave


@dataclass(frozen=True)
class Dreamt:
    """The image at the end, and of each octave, smallest first, its size and the score before each
    step and after the last."""

    image: Float[Tensor, "1 3 H W"]
    sizes: Sequence[Size]
    scores: Sequence[Float[Tensor, "steps+1"]]


@dataclass(frozen=True)
class Dream:
    octaves: int = 5
    scale: float = 1.4  # of an octave's sides over those of the one before
    steps: int = 20  # of each octave
    rate: float = 0.06  # root mean square of its first step, in standard deviations of pixels
    jitter: int = 32  # pixels by which the image is shifted at most, another way each step

    def __call__(
        self,
        climb: Climb,
        photo: Float[Tensor, "1 3 H W"],
        seed: int = 0,
        bounds: Bounds | None = None,
    ) -> Dreamt:
        """From a photograph, which is not changed, to one of its size within `bounds`."""
        ascent = Ascent(self.steps, self.rate, penalty=0.0, jitter=self.jitter)
        sizes, scores = self.sizes((photo.shape[2], photo.shape[3])), []
        added = torch.zeros_like(photo)
        image = photo
        for size in sizes:
            copy = resized(photo, size)
            start = copy + resized(added, size)
            found = ascent(climb, start, seed, bounds)
            image, added = found.images, found.images - copy
            scores.append(found.score[0])
        return Dreamt(image, sizes, scores)

    def sizes(self, full: Size) -> list[Size]:
        """Of the octaves, smallest first, the last the full size."""
        every = [
            (max(1, round(full[0] / by)), max(1, round(full[1] / by)))
            for by in (self.scale**n for n in range(self.octaves))
        ]
        return [one for n, one in enumerate(every) if n == 0 or min(one) >= SMALLEST][::-1]


def excited(network: Network, layer: str, channels: Sequence[int] = ()) -> Climb:
    """1/2 mean A^2 of a layer, over all of its feature maps or over `channels`."""

    def climb(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            found = network(images, at=("input", layer)).activations
            maps = found[layer][:, list(channels)] if channels else found[layer]
            score = maps.square().mean((1, 2, 3)) / 2
            (slope,) = torch.autograd.grad(score.sum(), found["input"])
        return score.detach(), slope

    return climb


def resized(image: Float[Tensor, "1 3 H W"], size: Size) -> Float[Tensor, "1 3 h w"]:
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True)
