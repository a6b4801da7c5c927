"""DeepDream: change a photograph so that a layer responds more to what it responds to already.

    argmax_I  1/2 mean_ijk A_k(I)[i, j]^2        A: the activations of a layer, all or some of them

starting from the photograph, for a few steps. The gradient of the score at A is A itself, so that
weak activations are amplified. Octaves: the ascent begins on a small copy; its change is enlarged
and added to the next larger copy of the photograph, where the ascent continues, up to the full
size. This gives patterns of every size, and the photograph keeps its detail.

Mordvintsev, Olah and Tyka, "Inceptionism: Going Deeper into Neural Networks", 2015, and their
published notebook, which also has octaves that grow by 1.4 and shifts of 32 pixels; it has 4
octaves of 10 steps, of 1.5 grey levels on the mean. Their score is half the sum of squares; ours is
half the mean, so that octaves can be compared, and the root mean square of a step falls to 0
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
from pipeline.visualize.ascent import Ascent, Bounds, ScoreFunction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

MIN_SIDE = 32  # pixels of an octave's shorter side, unless the photograph is smaller


@dataclass(frozen=True)
class DreamResult:
    """The final image, and the size and scores of each octave, smallest first.

    Scores are those before each step and after the last.
    """

    image: Float[Tensor, "1 3 H W"]
    sizes: Sequence[Size]
    scores: Sequence[Float[Tensor, "steps+1"]]


@dataclass(frozen=True)
class Dream:
    """Gradient ascent from a photograph in octaves."""

    octaves: int = 5
    scale: float = 1.4  # of an octave's sides over those of the next smaller octave
    steps: int = 20  # of each octave
    rate: float = 0.06  # root mean square of its first step, in standard deviations of pixels
    jitter: int = (
        32  # pixels by which the image is shifted at most, in a random direction in each step
    )

    def __call__(
        self,
        score_function: ScoreFunction,
        photo: Float[Tensor, "1 3 H W"],
        seed: int = 0,
        bounds: Bounds | None = None,
    ) -> DreamResult:
        """Change a photograph so that it scores higher.

        Args:
            score_function: From images to scores and gradients, at any size.
            photo: Standardized as the network reads it; not changed.
            seed: Of the random shifts.
            bounds: The range of each channel; None: unlimited.
        """
        ascent = Ascent(self.steps, self.rate, penalty=0.0, jitter=self.jitter)
        sizes, scores = self.list_sizes((photo.shape[2], photo.shape[3])), []
        added = torch.zeros_like(photo)
        image = photo
        for size in sizes:
            scaled = resize_image(photo, size)
            start = scaled + resize_image(added, size)
            ascended = ascent(score_function, start, seed, bounds)
            image, added = ascended.images, ascended.images - scaled
            scores.append(ascended.score[0])
        return DreamResult(image, sizes, scores)

    def list_sizes(self, full: Size) -> list[Size]:
        """Return the sizes of the octaves, smallest first, the last the full size."""
        sizes = [
            (max(1, round(full[0] / scale)), max(1, round(full[1] / scale)))
            for scale in (self.scale**n for n in range(self.octaves))
        ]
        return [size for n, size in enumerate(sizes) if n == 0 or min(size) >= MIN_SIDE][::-1]


def build_layer_score(network: Network, layer: str, channels: Sequence[int] = ()) -> ScoreFunction:
    """Return the score 1/2 mean A^2 of a layer as a function of images.

    Args:
        network: The network.
        layer: Whose activations.
        channels: The feature maps that count; empty: all.
    """

    def score_function(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            activations = network(images, at=("input", layer)).activations
            features = activations[layer]
            maps = features[:, list(channels)] if channels else features
            score = maps.square().mean((1, 2, 3)) / 2
            (gradient,) = torch.autograd.grad(score.sum(), activations["input"])
        return score.detach(), gradient

    return score_function


def resize_image(image: Float[Tensor, "1 3 H W"], size: Size) -> Float[Tensor, "1 3 h w"]:
    """Resize an image bilinearly, with antialiasing where it shrinks."""
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True)
