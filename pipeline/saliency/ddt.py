"""DDT, deep descriptor transforming: what the features of many images vary in most.

    map(i, j) = v . (f(i, j) - mean)

f(i, j) is what the last layer says of a place, `mean` and `v` are the mean and the first principal
component of all places of all training images. What those images share lies on one side of the
mean, their backgrounds on the other: no class weight is read, and no box. Wei et al., "Unsupervised
object discovery and co-localization by deep descriptor transforming", Pattern Recognition 2019.
`per_class` finds a component for each class in the images that are labelled with it, as the paper
does for a set of images of one object; otherwise all images make one, and every class gets the same
map.

The sign of a component is arbitrary, and the paper leaves it open. Here it is the one by which the
map grows with the sum of the features, sum_k v_k > 0, for Cov[v . f, sum_k f_k] = lambda sum_k v_k:
descriptors are larger on objects than on backgrounds, which the authors' earlier method rests on
(Wei et al., "Selective Convolutional Descriptor Aggregation", 2017). No label and no box is asked.
On features that go below zero, as a transformer's, nothing holds that up: look at the maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int

LARGEST = 4 * 2**30  # bytes that the sums may take


@dataclass(frozen=True)
class DDT:
    """Satisfies records.Fitted: it looks at the training images before it can be called."""

    per_class: bool = False  # a component for each class, not one for all
    layer: str = "last"  # whose features are looked at

    def statistics(
        self, network: Network, images: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> Mapping[str, Tensor]:
        """`count`, `sum` [K] and `outer` [K, K] of the features f of all places: sums of 1, f and
        f f^T, in float64.

        With `per_class` those of each class apart, as `<class>.count` and so on, for the classes in
        this batch alone: another batch may have other names. Raises UserError where all of them
        would take more than LARGEST.
        """
        with torch.no_grad():
            features = network(images, at=(self.layer,)).activations[self.layer].float()
        if not self.per_class:
            return _sums(features)
        _check_size(len(network.classes), features.shape[1])
        return {
            f"{label}.{name}": value
            for label in sorted(set(labels.tolist()))
            for name, value in _sums(features[labels == label]).items()
        }

    def fitted(self, statistics: Mapping[str, Tensor]) -> Projection:
        """The method that was learned. A class that no image was of gets the component of all."""
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in statistics.items():
            label, _, name = key.rpartition(".")
            groups.setdefault(label, {})[name] = value
        if not groups:
            raise UserError("saliency=ddt: no training image to learn from")
        every = {
            name: sum((group[name] for group in groups.values()), torch.zeros(()))
            for name in ("count", "sum", "outer")
        }
        axes = [_first_axis(every)]
        labels = sorted(int(label) for label in groups if label)
        axes += [_first_axis(groups[str(label)]) for label in labels]
        means, components = (torch.stack(some) for some in zip(*axes, strict=True))
        rows = {label: row for row, label in enumerate(labels, 1)}
        return Projection(self.layer, means, components, rows)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        raise UserError(
            "saliency=ddt: it has not yet looked at training images, which the stage explain has "
            "it do; from Python: ddt.fitted(sums), with what ddt.statistics gives for each batch "
            "added up by name"
        )


@dataclass(frozen=True, eq=False)
class Projection:
    """DDT once it has looked: what `DDT.fitted` gives."""

    layer: str
    means: Float[Tensor, "n K"]  # row 0: of all images
    components: Float[Tensor, "n K"]
    rows: Mapping[int, int]  # of the classes that have their own

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Maps at the resolution of the layer, signed: what is above 0 is like the object."""
        with torch.no_grad():
            answer = network(images, at=(self.layer,))
            features = answer.activations[self.layer].float()
            classes = choose(answer.logits)
            rows = torch.tensor([[self.rows.get(c, 0) for c in row] for row in classes.tolist()])
            components, means = self.components[rows], self.means[rows]
            middle = (components * means).sum(2)[..., None, None].to(features)
            with torch.autocast(features.device.type, enabled=False):
                maps = torch.einsum("btk,bkhw->bthw", components.to(features), features) - middle
        return Explanation(maps, classes, answer.logits)


def _sums(features: Float[Tensor, "b K h w"]) -> dict[str, Tensor]:
    places = features.permute(0, 2, 3, 1).flatten(0, 2)
    with torch.autocast(features.device.type, enabled=False):
        outer = places.T @ places
    count = torch.tensor(len(places), dtype=torch.float64)
    # On the CPU, since not every accelerator knows float64.
    return {"count": count, "sum": places.cpu().double().sum(0), "outer": outer.cpu().double()}


def _check_size(classes: int, channels: int) -> None:
    size = classes * channels**2 * 8
    if size > LARGEST:
        raise UserError(
            f"saliency.per_class=true: sums of {channels} x {channels} numbers for each of "
            f"{classes} classes are {size / 2**30:.1f} GiB, more than {LARGEST // 2**30}; "
            "saliency=ddt finds one component for all classes"
        )


def _first_axis(sums: Mapping[str, Tensor]) -> tuple[Float[Tensor, "K"], Float[Tensor, "K"]]:
    """Mean and first principal component, which has a length of 1 (0 where nothing varies)."""
    mean = sums["sum"] / sums["count"]
    covariance = sums["outer"] / sums["count"] - torch.outer(mean, mean)
    component = _first_eigenvector(covariance)
    return mean.float(), (component if component.sum() >= 0 else -component).float()


def _first_eigenvector(matrix: Float64[Tensor, "K K"]) -> Float64[Tensor, "K"]:
    """By power iteration, some hundred times faster than all of them, unless two are as large."""
    start = torch.Generator().manual_seed(0)
    vector = torch.randn(len(matrix), dtype=matrix.dtype, generator=start)
    for _ in range(300):
        before, vector = vector, torch.nn.functional.normalize(matrix @ vector, dim=0)
        if (vector - before).abs().max() < 1e-10:
            return vector
    every: Tensor = torch.linalg.eigh(matrix).eigenvectors
    return every[:, -1]
