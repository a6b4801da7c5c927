"""From one value per image to a Score with its interval: what most accumulators end with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.ops.bootstrap import interval
from pipeline.types import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Shaped


def chosen(
    values: Shaped[np.ndarray, "n *k"], select: Bool[np.ndarray, n] | None
) -> Shaped[np.ndarray, "m *k"]:
    """Select the values of a subset of images; None: of all."""
    if select is None:
        return values
    if select.dtype != bool or select.shape != values.shape[:1]:
        raise ValueError(
            f"select: expected bool [{len(values)}], one for each image added, "
            f"got {select.dtype} {list(select.shape)}"
        )
    return np.asarray(values[select])


def mean_score(
    name: str,
    values: Shaped[np.ndarray, n],
    *,
    iou: float | None = None,
    threshold: Mapping[str, Any] | None = None,
    label: str | None = None,
    seed: int = 0,
) -> list[Score]:
    """Compute the mean over images with its 95 % interval; no score where there is no image."""
    if len(values) == 0:
        return []
    return [
        Score(
            name=name,
            value=float(np.mean(values, dtype=np.float64)),
            n=len(values),
            iou=iou,
            threshold=threshold,
            label=label,
            interval=interval(values, seed=seed),
        )
    ]


def mean_over_classes(
    values: Shaped[np.ndarray, n], labels: Int[np.ndarray, n]
) -> tuple[float, dict[int, float]]:
    """Compute the mean over classes of each class's mean over its images, and that of each class.

    Args:
        values: one for each image.
        labels: the class of each image.
    """
    each = {int(c): float(np.mean(values[labels == c], dtype=float)) for c in np.unique(labels)}
    return float(np.mean(list(each.values()))), each


def class_mean_score(
    name: str,
    values: Shaped[np.ndarray, n],
    labels: Int[np.ndarray, n],
    *,
    iou: float | None = None,
    threshold: Mapping[str, Any] | None = None,
    label: str | None = None,
    seed: int = 0,
) -> list[Score]:
    """Compute the mean over classes of each class's mean over its images, with its 95 % interval.

    There is no score where there is no image, or where one has no class (a label below 0).
    """
    if len(values) == 0 or labels.min() < 0:
        return []
    value, each = mean_over_classes(values, labels)
    # It is a mean over images, each weighed by how rare its class is.
    counts = {c: int((labels == c).sum()) for c in each}
    weight = np.array([len(values) / (len(each) * counts[int(c)]) for c in labels])
    bounds = interval(
        np.stack([values * weight, weight], 1),
        lambda means: means[..., 0] / means[..., 1],
        seed=seed,
    )
    return [Score(name, value, len(values), iou, threshold, label, bounds)]
