"""Any method over several views of an image: mirrored, and at several sizes.

    map = mean_v  (up(back(map_v)) - min) / (max - min)

A larger input makes a finer map, in which small objects are seen but large ones fall into parts;
the average has both. A view's map is mirrored back, upsampled to the finest view's and scaled to
[0, 1] before it counts (average.py says why; besides, behind global average pooling slopes fall
with the number of cells, so that at twice the side a map's values are a quarter).

The classes are chosen once, on the plain image, whose logits are the ones given.

`layercam_multiscale` names the recipe that found the best boxes without any training: LayerCAM one
block below the top, both ways round, at 1, 1.43 and 2 times the input's side (224, 320, 448).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.protocols import Network, SaliencyMethod
from pipeline.saliency.average import averaged
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Views:
    method: SaliencyMethod  # the name of a choice, or a node with a _target_
    flips: bool = True  # each view mirrored, too
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
        """Maps of the chosen classes in [0, 1], at the resolution of the finest view.

        The colours are averaged where all views have them at the resolution of the images.
        """
        sizes = [_scaled(images, scale) for scale in self.scales]
        plain = self.method(network, images, choose) if images.shape[2:] in sizes else None
        if plain is None:
            with torch.no_grad():
                logits = network(images).logits
            classes = choose(logits)
        else:
            logits, classes = plain.logits, plain.classes

        def chosen(_: Tensor) -> Tensor:
            return classes

        found = []
        for size in sizes:
            here = size == images.shape[2:]
            view = images if here else _resized(images, size)
            found.append(plain if here and plain else self._explain(network, view, chosen, here))
            if self.flips:
                found.append(_mirrored(self._explain(network, view.flip(3), chosen, here)))
        maps = averaged([one.maps for one in found])
        return Explanation(maps, classes, logits, _mean_colour(found, images))

    def _explain(
        self, network: Network, view: Float[Tensor, "b 3 H W"], choose: ClassSelector, here: bool
    ) -> Explanation:
        """Return the maps of one view; `here`: it has the size that the network was asked with.

        Raises:
            UserError: The network reads images of one size alone.
        """
        try:
            return self.method(network, view, choose)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            if here:
                raise
            first_line = (str(error).splitlines() or [type(error).__name__])[0][:80]
            height, width = view.shape[2:]
            raise UserError(
                f"scales={[*self.scales]}: the network cannot read images of {height} x {width} "
                f"pixels ({first_line}), as a transformer or fully connected "
                "layers cannot; scales=[1] keeps the size of its input"
            ) from error


def _scaled(images: Float[Tensor, "b 3 H W"], scale: float) -> tuple[int, int]:
    height, width = (max(1, round(side * scale)) for side in images.shape[2:])
    return height, width


def _resized(images: Float[Tensor, "b 3 H W"], size: tuple[int, int]) -> Float[Tensor, "b 3 H2 W2"]:
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def _mirrored(found: Explanation) -> Explanation:
    colour = None if found.colour is None else found.colour.flip(4)
    return replace(found, maps=found.maps.flip(3), colour=colour)


def _mean_colour(
    found: Sequence[Explanation], images: Float[Tensor, "b 3 H W"]
) -> Float[Tensor, "b t 3 H W"] | None:
    colours = [one.colour for one in found]
    kept = [one for one in colours if one is not None and one.shape[3:] == images.shape[2:]]
    return torch.stack(kept).mean(0) if len(kept) == len(colours) else None
