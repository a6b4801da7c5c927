"""DDT, deep descriptor transforming: features projected on the first component of many images.

    map(i, j) = v . (f(i, j) - mean)

f(i, j) is the descriptor of the last layer at a position, `mean` and `v` are the mean and the first
principal component of the descriptors at all positions of all training images. What those images
share lies on one side of the mean, their backgrounds on the other. It reads neither class weights
nor boxes. Wei et al., "Unsupervised object discovery and co-localization by deep descriptor
transforming", Pattern Recognition 2019. `per_class` fits a component for each class to the images
that are labelled with it, as the paper does for a set of images of one object; otherwise a single
component is fitted to all images, and all classes get the same map.

The sign of a component is arbitrary, and the paper leaves it open. Here the map grows with
the sum of the features: sum_k v_k > 0, since Cov[v . f, sum_k f_k] = lambda sum_k v_k. Descriptors
are larger on objects than on backgrounds, as the authors' earlier method assumes (Wei et al.,
"Selective Convolutional Descriptor Aggregation", 2017). No label and no box is read. Where features
can be negative, as a transformer's, that assumption has no support: check the maps.
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
    from jaxtyping import Float, Float64

LARGEST = 4 * 2**30  # bytes that the sums may take


@dataclass(frozen=True)
class DDT:
    """A FittableMethod: it is fitted to the training images before it can be called."""

    per_class: bool = False  # a component for each class; false: the same for all
    layer: str = "last"  # whose features are read

    def statistics(
        self, network: Network, images: Float[Tensor, "b 3 H W"], labels: Tensor
    ) -> Mapping[str, Tensor]:
        """Sum 1, f and f f^T over the features f at all positions of a batch, in float64.

        Args:
            network: The classifier.
            images: Training images as the network sees them.
            labels: Their classes [b]; or which classes each has [b, C], of which each counts.

        Returns:
            `count` [], `sum` [K] and `outer` [K, K]. With `per_class` those of each class, as
            `<class>.count` and so on, only for the classes in this batch: another batch may have
            other names.

        Raises:
            UserError: If the sums of all classes would take more than LARGEST bytes.
        """
        with torch.no_grad():
            features = network(images, at=(self.layer,)).activations[self.layer].float()
        if not self.per_class:
            return _sum_descriptors(features)
        _check_size(len(network.classes), features.shape[1])
        has = {
            label: labels == label if labels.ndim == 1 else labels[:, label]
            for label in _list_present(labels)
        }
        return {
            f"{label}.{name}": value
            for label, chosen in has.items()
            for name, value in _sum_descriptors(features[chosen]).items()
        }

    def fitted(self, statistics: Mapping[str, Tensor]) -> Projection:
        """Return the fitted method.

        Args:
            statistics: The statistics of all batches, added up by name.

        Returns:
            A method with a component for all images and, with `per_class`, one for each class that
            has images. A class without images gets the component of all.

        Raises:
            UserError: If there are no statistics.
        """
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in statistics.items():
            label, _, name = key.rpartition(".")
            groups.setdefault(label, {})[name] = value
        if not groups:
            raise UserError("saliency=ddt: no training image to learn from")
        total = {
            name: sum((group[name] for group in groups.values()), torch.zeros(()))
            for name in ("count", "sum", "outer")
        }
        axes = [_fit_axis(total)]
        labels = sorted(int(label) for label in groups if label)
        axes += [_fit_axis(groups[str(label)]) for label in labels]
        means, components = (torch.stack(vectors) for vectors in zip(*axes, strict=True))
        rows = {label: row for row, label in enumerate(labels, 1)}
        return Projection(self.layer, means, components, rows)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Raise UserError: only the fitted method computes maps."""
        raise UserError(
            "saliency=ddt: it is not yet fitted to training images; the stage explain fits it; "
            "from Python: ddt.fitted(sums), where sums are what ddt.statistics returns for each "
            "batch, added up by name"
        )


@dataclass(frozen=True, eq=False)
class Projection:
    """The fitted method: what `DDT.fitted` returns."""

    layer: str
    means: Float[Tensor, "n K"]  # row 0: of all images
    components: Float[Tensor, "n K"]
    rows: Mapping[int, int]  # class to row, for the classes that were fitted by themselves

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute signed maps at the resolution of the layer; values above 0 are like the object.

        Raises:
            UserError: If the layer does not exist.
        """
        with torch.no_grad():
            answer = network(images, at=(self.layer,))
            features = answer.activations[self.layer].float()
            classes = choose(answer.logits)
            rows = torch.tensor([[self.rows.get(c, 0) for c in row] for row in classes.tolist()])
            components, means = self.components[rows], self.means[rows]
            offset = (components * means).sum(2)[..., None, None].to(features)
            with torch.autocast(features.device.type, enabled=False):
                maps = torch.einsum("btk,bkhw->bthw", components.to(features), features) - offset
        return Explanation(maps, classes, answer.logits)


def _list_present(labels: Tensor) -> list[int]:
    """Return the classes that images have: of labels [b] or [b, C]."""
    present = labels if labels.ndim == 1 else labels.any(0).nonzero()[:, 0]
    return sorted(set(present.tolist()))


def _sum_descriptors(features: Float[Tensor, "b K h w"]) -> dict[str, Tensor]:
    descriptors = features.permute(0, 2, 3, 1).flatten(0, 2)
    with torch.autocast(features.device.type, enabled=False):
        outer = descriptors.T @ descriptors
    count = torch.tensor(len(descriptors), dtype=torch.float64)
    # On the CPU, since some accelerators have no float64.
    return {"count": count, "sum": descriptors.cpu().double().sum(0), "outer": outer.cpu().double()}


def _check_size(classes: int, channels: int) -> None:
    size = classes * channels**2 * 8
    if size > LARGEST:
        raise UserError(
            f"saliency.per_class=true: sums of {channels} x {channels} numbers for each of "
            f"{classes} classes are {size / 2**30:.1f} GiB, more than {LARGEST // 2**30}; "
            "saliency=ddt finds one component for all classes"
        )


def _fit_axis(sums: Mapping[str, Tensor]) -> tuple[Float[Tensor, "K"], Float[Tensor, "K"]]:
    """Return mean and first principal component, of length 1 (0 where nothing varies)."""
    mean = sums["sum"] / sums["count"]
    covariance = sums["outer"] / sums["count"] - torch.outer(mean, mean)
    component = _find_first_eigenvector(covariance)
    return mean.float(), (component if component.sum() >= 0 else -component).float()


def _find_first_eigenvector(matrix: Float64[Tensor, "K K"]) -> Float64[Tensor, "K"]:
    """Find the eigenvector of the largest eigenvalue by power iteration.

    That is some hundred times faster than a full decomposition, which is the fallback where the two
    largest eigenvalues are nearly equal.
    """
    start = torch.Generator().manual_seed(0)
    vector = torch.randn(len(matrix), dtype=matrix.dtype, generator=start)
    for _ in range(300):
        before, vector = vector, torch.nn.functional.normalize(matrix @ vector, dim=0)
        if (vector - before).abs().max() < 1e-10:
            return vector
    vectors: Tensor = torch.linalg.eigh(matrix).eigenvectors
    return vectors[:, -1]
