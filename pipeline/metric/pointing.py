"""Does the map point at the object? With one point, or with all of its energy.

    pointing game           share of images whose highest value lies on an object, or within
                            `tolerance` pixels of one (Zhang et al., "Top-down Neural Attention by
                            Excitation Backprop", ECCV 2016 and IJCV 2018: 15 pixels)
    mean over classes       of each class's share; theirs
    difficult               the same over those images and classes alone whose objects of the class
                            have boxes that together cover less than a quarter of the image, with
                            an object of another class in it (theirs, IJCV 2018)
    energy-based game       sum of the map inside the objects / sum of the map (Wang et al.,
                            "Score-CAM", CVPR-W 2020), averaged over images

A map covers its image at any resolution, and stands for itself at the centres of its pixels;
distances are in pixels of the original image. An object is its boxes, or where there is one its
mask. Of several objects any may be hit. An image of several classes has a map and a result for each
class, against the objects of that class alone. Of equal maxima the first in raster order points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase
from pipeline.metric.scores import chosen, class_mean_score, mean_score
from pipeline.ops.bootstrap import first
from pipeline.ops.growing import GrowingArray
from pipeline.types import EvaluationSettings, Evidence, EvidenceKind, MetricNumber, PairedRows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

    from pipeline.types import Score, Size


MAX_DIFFICULT_SHARE = 1 / 4  # of an image that the objects of a class cover


def peak(values: Float[np.ndarray, "h w"], size: Size) -> tuple[float, float]:
    """(x, y) of the highest value, in pixels of the image of `size` (height, width)."""
    height, width = values.shape
    y, x = divmod(int(np.argmax(values)), width)
    return (x + 0.5) * size[1] / width, (y + 0.5) * size[0] / height


def pointing_hit(
    values: Float[np.ndarray, "h w"],
    boxes: Float[np.ndarray, "M 4"],
    size: Size,
    tolerance: float = 15.0,
    mask: Bool[np.ndarray, "H W"] | None = None,
) -> bool:
    """Return whether the highest value lies at most `tolerance` away from the object.

    `mask`: of the objects, at the image's own size; it then replaces the boxes.
    """
    return peak_distance(values, boxes, size, mask) <= tolerance


def peak_distance(
    values: Float[np.ndarray, "h w"],
    boxes: Float[np.ndarray, "M 4"],
    size: Size,
    mask: Bool[np.ndarray, "H W"] | None = None,
) -> float:
    """Return how far the highest value lies from the nearest object, in pixels of the image.

    0 inside an object, infinite where there is none. `mask`: of the objects, at the image's own
    size; it then replaces the boxes.
    """
    x, y = peak(values, size)
    if mask is not None:
        if mask.shape != tuple(size):
            raise ValueError(f"mask: expected {list(size)}, got {list(mask.shape)}")
        rows, columns = np.nonzero(mask)
        # A pixel of the mask is the square around its centre.
        away = np.hypot(
            np.maximum(np.abs(columns + 0.5 - x) - 0.5, 0),
            np.maximum(np.abs(rows + 0.5 - y) - 0.5, 0),
        )
        return float(away.min()) if len(away) else math.inf
    distances = (
        math.hypot(max(x0 - x, x - x1, 0.0), max(y0 - y, y - y1, 0.0))
        for x0, y0, x1, y1 in np.asarray(boxes, float).reshape(-1, 4).tolist()
    )
    return min(distances, default=math.inf)


def energy_inside(
    values: Float[np.ndarray, "h w"],
    boxes: Float[np.ndarray, "M 4"],
    size: Size,
    mask: Bool[np.ndarray, "h w"] | None = None,
) -> float:
    """Share of the map's energy inside the objects; 0 for a map of zeros. `values`: at least 0.

    `mask`: of the objects, at the map's own size; it then replaces the boxes.
    """
    if values.size and not values.min() >= 0:
        raise ValueError(f"map: expected values of at least 0, got {values.min()}")
    values = np.asarray(values, np.float64)
    total = values.sum()
    if total == 0:
        return 0.0
    if mask is None:
        return float(_values_inside(values, boxes, size).sum() / total)
    if mask.shape != values.shape:
        raise ValueError(f"mask: expected {list(values.shape)}, got {list(mask.shape)}")
    return float(values[mask].sum() / total)


def is_difficult(boxes: Float[np.ndarray, "M 4"], size: Size, has_other: bool) -> bool:
    """Return whether it is difficult to point at a class in an image.

    Args:
        boxes: of the objects of the class.
        size: height and width of the image.
        has_other: whether the image has an object of another class.
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    covered = float(((corners[:, 2:] - corners[:, :2]).prod(1)).sum())
    return has_other and 0 < covered < MAX_DIFFICULT_SHARE * size[0] * size[1]


def inside(boxes: Float[np.ndarray, "M 4"], size: Size, frame: Size) -> Bool[np.ndarray, "h w"]:
    """Which pixels of a `frame` over the image have their centre in a box."""
    covered = np.zeros(frame, bool)
    for rows, columns in _list_slices(boxes, size, frame):
        covered[rows, columns] = True
    return covered


def _list_slices(
    boxes: Float[np.ndarray, "M 4"], size: Size, frame: Size
) -> list[tuple[slice, slice]]:
    """Return rows and columns of the pixels whose centre is in each box."""
    y = (np.arange(frame[0]) + 0.5) * size[0] / frame[0]
    x = (np.arange(frame[1]) + 0.5) * size[1] / frame[1]
    corners = np.asarray(boxes, float).reshape(-1, 4)
    y0, y1 = (np.searchsorted(y, corners[:, n]).tolist() for n in (1, 3))
    x0, x1 = (np.searchsorted(x, corners[:, n]).tolist() for n in (0, 2))
    return [
        (slice(top, bottom), slice(left, right))
        for left, top, right, bottom in zip(x0, y0, x1, y1, strict=True)
    ]


def _values_inside(
    values: Float64[np.ndarray, "h w"], boxes: Float[np.ndarray, "M 4"], size: Size
) -> Float64[np.ndarray, n]:
    """Return the values of the pixels whose centre is in a box, in raster order."""
    frame = values.shape[0], values.shape[1]
    slices = _list_slices(boxes, size, frame)
    if len(slices) == 1:
        return values[slices[0]].ravel()
    return np.asarray(values[inside(boxes, size, frame)])


class Pointing(MetricBase):
    """The pointing game and the energy-based pointing game; `tolerance` is in pixels."""

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="pointing_game",
            title="pointing game",
            row="pointing game, energy-based",
            order=140,
            names_threshold=False,
            beside=("energy_pointing_game",),
            comparison_order=80,
        ),
        MetricNumber(
            name="pointing_game_classes",
            title="pointing game, mean over classes",
            in_table=False,
        ),
        MetricNumber(
            name="energy_pointing_game",
            title="energy pointing game",
            in_table=False,
            comparison_order=90,
        ),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"pointing"})
    order: ClassVar[int] = 10
    row_names: ClassVar[Sequence[str]] = ("hit", "energy")

    def __init__(self, tolerance: float = 15.0, seed: int = 0) -> None:
        self.tolerance = tolerance
        self.seed = seed
        self._hit = GrowingArray(bool)
        self._energy = GrowingArray(float)
        self._label = GrowingArray(int)

    def with_settings(self, settings: EvaluationSettings) -> Pointing:
        """Return an empty accumulator with these settings."""
        return Pointing(self.tolerance, settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add an image whose map was measured."""
        assert evidence.pointing is not None
        distance, energy = evidence.pointing
        self.append(distance <= self.tolerance, energy, evidence.label)

    def add(
        self,
        values: Float[np.ndarray, "h w"],
        boxes: Float[np.ndarray, "M 4"],
        size: Size,
        label: int = -1,
    ) -> None:
        """Measure and add a map.

        Args:
            values: the map, at any resolution.
            boxes: the annotated boxes of the class that the map explains.
            size: height and width of the image.
            label: the class; -1: unknown, and there is no mean over classes.
        """
        hit = pointing_hit(values, boxes, size, self.tolerance)
        self.append(hit, energy_inside(values, boxes, size), label)

    def append(self, hit: bool, energy: float, label: int = -1) -> None:
        """Add an image that was measured already, by `pointing_hit` and `energy_inside`.

        Args:
            hit: whether the maximum lies in a box, or near it.
            energy: the share of the map's sum inside the boxes, from 0 to 1.
            label: the class; -1: unknown, and there is no mean over classes.
        """
        self._label.append(label)
        self._hit.append(hit)
        self._energy.append(energy)

    @property
    def hit(self) -> Bool[np.ndarray, n]:
        """Return whether the maximum of each map lies in a true box."""
        return self._hit.values

    @property
    def energy(self) -> Float64[np.ndarray, n]:
        """Return the share of each map that lies in true boxes."""
        return self._energy.values

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return `hit` and `energy`, [n] each."""
        return {"hit": self.hit, "energy": self.energy}

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterator[PairedRows]:
        """Yield both games, of the images."""
        yield PairedRows("pointing_game", rows["hit"], first)
        yield PairedRows("energy_pointing_game", rows["energy"], first)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute both numbers over the selected images."""
        hit, energy = chosen(self.hit, select), chosen(self.energy, select)
        labels = chosen(self._label.values, select)
        given: dict[str, Any] = {"label": label, "seed": self.seed}
        return (
            mean_score("pointing_game", hit, **given)
            + class_mean_score("pointing_game_classes", hit, labels, **given)
            + mean_score("energy_pointing_game", energy, **given)
        )


class PointingDifficult(MetricBase):
    """The pointing game where it is difficult; `tolerance` is in pixels."""

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="pointing_game_difficult",
            title="pointing game, difficult",
            row="pointing game, difficult: all, mean over classes",
            order=145,
            names_threshold=False,
            beside=("pointing_game_difficult_classes",),
        ),
        MetricNumber(
            name="pointing_game_difficult_classes",
            title="pointing game, difficult, mean over classes",
            in_table=False,
        ),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"pointing", "difficult"})
    order: ClassVar[int] = 20

    def __init__(self, tolerance: float = 15.0, seed: int = 0) -> None:
        self.tolerance = tolerance
        self.seed = seed
        self._hit = GrowingArray(bool)
        self._label = GrowingArray(int)

    def with_settings(self, settings: EvaluationSettings) -> PointingDifficult:
        """Return an empty accumulator with these settings."""
        return PointingDifficult(self.tolerance, settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add a map of a class that it is difficult to point at."""
        assert evidence.pointing is not None
        self._hit.append(evidence.pointing[0] <= self.tolerance)
        self._label.append(evidence.label)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the share over the selected images, and its mean over classes."""
        hit = chosen(self._hit.values, select)
        labels = chosen(self._label.values, select)
        given: dict[str, Any] = {"label": label, "seed": self.seed}
        return mean_score("pointing_game_difficult", hit, **given) + class_mean_score(
            "pointing_game_difficult_classes", hit, labels, **given
        )
