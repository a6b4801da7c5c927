"""Maps of the chosen classes of a batch where images have different numbers of them: each once.

A method computes as many maps of each image of a batch: [b, t, h, w]. Where an image has fewer
classes than another, the rest of its row would be computed in vain, and gradients are computed for
each class anew. So images with as many classes are explained together:

    batch      {a: 3 classes, b: 1, c: 3, d: 2}      ->      {a, c} x 3, {d} x 2, {b} x 1

What a class has in common with the others of its image, as the forward passes of most methods, is
computed once for all of them, as within any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.ops.precision import disable_autocast
from pipeline.protocols import Network, SaliencyMethod
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Int64
    from torch import Tensor

SelectorOf = Callable[["Int[Tensor, 'n']"], ClassSelector]
"""From images of a batch, by their rows, to the function that selects their classes."""


@dataclass(frozen=True)
class ClassMaps:
    """Maps of classes of the images of a batch, a row each, image by image.

    Attributes:
        image: which image of the batch each map is of, ascending.
        classes: the class of each map, of each image in the order in which it was selected.
        maps: at the method's resolution, not normalized.
        logits: of the network, a row for each image.
        colour: the values of red, green and blue of each map, if the method has them.
    """

    image: Int64[np.ndarray, "m"]
    classes: Int64[np.ndarray, "m"]
    maps: Float[Tensor, "m h w"]
    logits: Float[Tensor, "b C"]
    colour: Float[Tensor, "m 3 H W"] | None = None

    def take(self, kept: Bool[np.ndarray, "m"]) -> ClassMaps:
        """Return some of the maps, with the logits of all images.

        Args:
            kept: which maps.
        """
        rows = torch.from_numpy(np.flatnonzero(kept)).to(self.maps.device)
        return ClassMaps(
            image=self.image[kept],
            classes=self.classes[kept],
            maps=self.maps[rows],
            logits=self.logits,
            colour=None if self.colour is None else self.colour[rows],
        )


def explain_each_once(
    method: SaliencyMethod,
    network: Network,
    images: Float[Tensor, "b 3 H W"],
    select: SelectorOf,
    counts: Int[Tensor, "b"] | None,
) -> ClassMaps:
    """Compute the maps of the classes that are selected in each image of a batch.

    Args:
        method: fitted, if it needs fitting.
        network: the classifier.
        images: normalized by mean and std.
        select: from rows of `images` to the function that selects their classes. A class that it
            selects twice for an image has one map.
        counts: how many classes each image has; 0: not known, and those of these images are
            selected together. None: all are selected together.
    """
    all_rows = torch.arange(len(images), device=images.device)
    distinct = [] if counts is None else sorted(set(counts.tolist()))
    if counts is None or len(distinct) == 1:
        return _take_maps(method(network, images, select(all_rows)), all_rows)
    parts = []
    for count in distinct:
        rows = all_rows[counts == count]
        parts.append((rows, _take_maps(method(network, images[rows], select(rows)), rows)))
    return _join(parts)


def select_before(
    network: Network, images: Float[Tensor, "b 3 H W"], select: SelectorOf
) -> tuple[SelectorOf, Int[Tensor, "b"]]:
    """Select the classes by a forward pass of its own, in float32, so that their number is known.

    Args:
        network: the classifier.
        images: normalized by mean and std.
        select: from rows of `images` to the function that selects their classes.

    Returns:
        The same function for images with as many classes, and how many classes each image has.
    """
    with torch.no_grad(), disable_autocast(images):
        logits = network(images).logits
        chosen = select(torch.arange(len(images), device=images.device))(logits)
    is_first = torch.from_numpy(_mark_first(chosen)).to(chosen.device)
    counts = is_first.sum(1)
    # Stable: the classes of an image stay in the order in which they were selected.
    classes = chosen.gather(1, is_first.byte().argsort(stable=True, dim=1, descending=True))

    def select_known(rows: Int[Tensor, "n"]) -> ClassSelector:
        most = int(counts[rows].max())
        return lambda logits: classes[rows, :most]

    return select_known, counts


def _take_maps(explained: Explanation, rows: Int[Tensor, "n"]) -> ClassMaps:
    """Return the maps of an explanation, of a class that an image has twice the first."""
    classes = explained.classes.cpu().numpy()
    image, column = np.nonzero(_mark_first(explained.classes))
    return ClassMaps(
        image=rows.cpu().numpy()[image],
        classes=classes[image, column].astype(np.int64),
        maps=explained.maps.detach()[image, column],
        logits=explained.logits.detach(),
        colour=None if explained.colour is None else explained.colour.detach()[image, column],
    )


def _mark_first(classes: Int[Tensor, "b t"]) -> np.ndarray:
    """Return of each class whether it is the first of its kind in its row, bool [b, t]."""
    return np.array([[c not in row[:n] for n, c in enumerate(row)] for row in classes.tolist()])


def _join(parts: list[tuple[Int[Tensor, "n"], ClassMaps]]) -> ClassMaps:
    """Join the maps of several parts of a batch in the order of its images."""
    rows = torch.cat([part_rows for part_rows, _ in parts])
    image = np.concatenate([part.image for _, part in parts])
    order = np.argsort(image, kind="stable")
    places = torch.from_numpy(order).to(rows.device)
    colours = [part.colour for _, part in parts if part.colour is not None]
    return ClassMaps(
        image=image[order],
        classes=np.concatenate([part.classes for _, part in parts])[order],
        maps=torch.cat([part.maps for _, part in parts])[places],
        logits=torch.cat([part.logits for _, part in parts])[rows.argsort()],
        colour=torch.cat(colours)[places] if len(colours) == len(parts) else None,
    )
