"""Views: any method averaged over several views of an image, mirrored and at several sizes.

    map = mean_v  (up(back(map_v)) - min) / (max - min)

A larger input makes a finer map, which shows small objects but splits large ones into parts; the
average has both. The map of a view is mirrored back, upsampled to the resolution of the finest view
and scaled to [0, 1] before it is averaged (average.py says why; besides, behind global average
pooling gradients decrease with the number of cells: at twice the side they are a quarter).

The classes are chosen once, on the plain image, whose logits are returned. Views that are larger
than the images take several passes, each with as many pixels as the images at most: activations as
large as those of the plain pass fit the caches of a core, and the C library keeps their memory.

`layercam_multiscale` names the recipe with the best boxes without any training: LayerCAM one block
below the top, mirrored and not, at 1, 1.43 and 2 times the input's side (224, 320, 448).
`layercam_scales` takes half of its time: the middle one of these sizes is mirrored, and the others
are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.protocols import Network, SaliencyMethod
from pipeline.saliency.average import average_maps
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Views:
    """A method averaged over mirrored and scaled views of the image."""

    method: SaliencyMethod  # the name of a choice, or a node with a _target_
    # true: each view mirrored, too; alternate: each second view mirrored, and only so
    flips: bool | Literal["alternate"] = True
    scales: tuple[float, ...] = (1.0,)  # of the input's side; 2 takes four times as long

    def __post_init__(self) -> None:
        if not self.scales:
            raise UserError("saliency.scales=[]: name at least one, as in [1] or [1,1.5,2]")
        for scale in self.scales:
            if not (scale > 0 and math.isfinite(scale)):
                raise UserError(f"saliency.scales: {scale}: expected numbers above 0")

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes in [0, 1], at the resolution of the finest view.

        `colour` is averaged where all views have it at the resolution of the images, else None.
        """
        sizes = [_scale_size(images, scale) for scale in self.scales]
        plain = self.method(network, images, choose) if images.shape[2:] in sizes else None
        if plain is None:
            with torch.no_grad():
                logits = network(images).logits
            classes = choose(logits)
        else:
            logits, classes = plain.logits, plain.classes

        explanations = [
            plain
            if plain and not is_mirrored and size == images.shape[2:]
            else self._explain_view(network, images, classes, size, is_mirrored)
            for n, size in enumerate(sizes)
            for is_mirrored in self._list_mirrored(n)
        ]
        maps = average_maps([explanation.maps for explanation in explanations])
        return Explanation(maps, classes, logits, _average_colour(explanations, images))

    def _list_mirrored(self, number: int) -> tuple[bool, ...]:
        """Return whether each view of a scale is mirrored; `number`: its place in `scales`."""
        if self.flips == "alternate":
            return (number % 2 == 1,)
        return (False, True) if self.flips else (False,)

    def _explain_view(
        self,
        network: Network,
        images: Float[Tensor, "b 3 H W"],
        classes: Int[Tensor, "b t"],
        size: tuple[int, int],
        is_mirrored: bool,
    ) -> Explanation:
        """Return the maps of one view, mirrored back, from passes of as many pixels as `images`."""
        is_plain = size == images.shape[2:]
        pixels = images.shape[2] * images.shape[3] / (size[0] * size[1])
        count = min(len(images), max(1, int(len(images) * pixels)))
        parts = []
        for start in range(0, len(images), count):
            part = slice(start, start + count)
            view = images[part] if is_plain else _resize(images[part], size)
            view = view.flip(3) if is_mirrored else view
            parts.append(self._explain(network, view, classes[part], is_plain))
        explanation = _concatenate(parts)
        return _mirror(explanation) if is_mirrored else explanation

    def _explain(
        self,
        network: Network,
        view: Float[Tensor, "b 3 H W"],
        classes: Int[Tensor, "b t"],
        is_plain: bool,
    ) -> Explanation:
        """Return the maps of a pass; `is_plain`: images have the size that they come in.

        Raises:
            UserError: The network reads images of one size alone.
        """
        try:
            return self.method(network, view, lambda _: classes)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            if is_plain:
                raise
            first_line = (str(error).splitlines() or [type(error).__name__])[0][:80]
            height, width = view.shape[2:]
            raise UserError(
                f"scales={[*self.scales]}: the network cannot read images of {height} x {width} "
                f"pixels ({first_line}), as a transformer or fully connected "
                "layers cannot; scales=[1] keeps the size of its input"
            ) from error


def _scale_size(images: Float[Tensor, "b 3 H W"], scale: float) -> tuple[int, int]:
    height, width = (max(1, round(side * scale)) for side in images.shape[2:])
    return height, width


def _resize(images: Float[Tensor, "b 3 H W"], size: tuple[int, int]) -> Float[Tensor, "b 3 H2 W2"]:
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def _concatenate(parts: Sequence[Explanation]) -> Explanation:
    """Return the maps of all passes of a view; `colour` where all have it."""
    if len(parts) == 1:
        return parts[0]
    colours = [part.colour for part in parts if part.colour is not None]
    return Explanation(
        torch.cat([part.maps for part in parts]),
        torch.cat([part.classes for part in parts]),
        torch.cat([part.logits for part in parts]),
        torch.cat(colours) if len(colours) == len(parts) else None,
    )


def _mirror(explanation: Explanation) -> Explanation:
    colour = None if explanation.colour is None else explanation.colour.flip(4)
    return replace(explanation, maps=explanation.maps.flip(3), colour=colour)


def _average_colour(
    explanations: Sequence[Explanation], images: Float[Tensor, "b 3 H W"]
) -> Float[Tensor, "b t 3 H W"] | None:
    """Average the colours of all views; None unless each has them at the size of the images."""
    colours = [explanation.colour for explanation in explanations]
    usable = [
        colour for colour in colours if colour is not None and colour.shape[3:] == images.shape[2:]
    ]
    return torch.stack(usable).mean(0) if len(usable) == len(colours) else None
