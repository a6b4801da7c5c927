"""Composite scores: one number from coherency, complexity and faithfulness.

    coherency   (1 + r(M, M')) / 2, r Pearson's correlation, M' the map of the image times M:
                is what the map marks what the network looks at there, too? high is good
    complexity  mean |M| over the pixels, the L1 norm of the map relative to a map of ones: how much
                of the image is marked? low is good
    ADCC        3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - average drop)), high is good
    ARCC        3 / (1 / coherency + 1 / (1 - complexity) + 1 / ROAD), high is good;
                ROAD = clip(LeRF - MoRF, 0, 1), of the probability of the class

Poppi et al., "Revisiting the Evaluation of Class Activation Mapping for Explainability", CVPR
Workshops 2021, has the first three; "How to Evaluate and Refine your CAM", 2026 (arXiv 2605.14641)
puts ROAD in the place of the average drop. M is the map at the size of the image, scaled to [0, 1].
A harmonic mean is 0 where one of its parts is: of three parts, none can be bought with another.

Average drop and ROAD are those of faithfulness.py; here ROAD is of probabilities, as in ARCC, where
the number `road` counts predictions. A constant map marks nothing: its coherency is 0, and so are
ADCC and ARCC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.audit.faithfulness import (
    Logits,
    RoadSettings,
    compute_probability,
    measure_drop_and_increase,
    measure_road,
)
from pipeline.audit.likeness import (
    enlarge,
    normalize_min_max,
    order_by_importance,
    pearson_correlation,
)
from pipeline.audit.pictures import (
    MAX_ROWS,
    Arrays,
    colour_map,
    draw_rows,
    format_mean,
    start_rows,
    to_pixels,
    write_heading,
)
from pipeline.ops.tensors import to_numpy
from pipeline.types import AuditBatch, AuditNumber, AuditSubject, PartValues

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from PIL import Image

Explain = Callable[[Tensor], Tensor]
"""From images to their maps [b, h, w], of fixed classes."""

ROAD = RoadSettings(shares=(0.2, 0.4, 0.6, 0.8))  # the percentiles of ARCC
NAMES = {
    "coherency": "coherency",
    "complexity": "complexity",
    "composite_drop": "average drop",
    "composite_road": "ROAD",
    "adcc": "ADCC",
    "arcc": "ARCC",
}


@dataclass(frozen=True)
class Composite:
    """Measure coherency and complexity of maps, and their means with faithfulness: ADCC, ARCC."""

    numbers: ClassVar[tuple[AuditNumber, ...]] = (
        AuditNumber("coherency", "coherency", "high"),
        AuditNumber("complexity", "complexity", "low"),
        AuditNumber("adcc", "ADCC, with the average drop", "high"),
        AuditNumber("arcc", "ARCC, with ROAD", "high"),
    )
    is_costly: ClassVar[bool] = False
    picture_arrays: ClassVar[tuple[str, ...]] = (
        "seen", "seen_image", "seen_map", "seen_masked", "seen_again",
    )  # fmt: skip

    def refusal(self, subject: AuditSubject) -> str:
        """Return no reason: any network that answers with logits can be tested."""
        return ""

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Measure all numbers of each image."""
        network = subject.trained.network
        measured = measure_composite(
            partial(batch.logits_of, network),
            partial(batch.maps_of, network),
            batch.images,
            batch.columns,
            batch.seeds,
        )
        masked = measured.pop("masked")[: batch.shown]
        maps, again = (to_numpy(measured.pop(key)[: batch.shown]) for key in ("map", "again"))
        return {
            **{name: to_numpy(values) for name, values in measured.items()},
            "seen": np.array(batch.positions[: batch.shown], np.int32),
            "seen_image": batch.pixels[: batch.shown],
            "seen_map": maps,
            "seen_masked": to_pixels(masked, subject.trained),
            "seen_again": again,
        }

    def part_values(self, subject: AuditSubject, arrays: Arrays) -> Sequence[PartValues]:
        """Return no values: no part of the network is tested alone."""
        return ()

    def draw(self, subject: AuditSubject, arrays: Arrays) -> Image.Image:
        """Draw a few images, their maps, the images times their maps, and the maps of these."""
        rows = min(MAX_ROWS, len(arrays["seen"]))
        sheet = start_rows(rows)
        means = ", ".join(
            format_mean(NAMES[key], arrays[key], subject.seed) for key in ("adcc", "arcc")
        )
        write_heading(
            sheet,
            subject,
            "is the map coherent, simple and faithful?",
            f"{len(arrays['image'])} {subject.unit}. "
            f"{means}; high is good. Coherency correlates both maps",
        )
        titles = ("image", "map", "image times map", "map of that", "difference, same scale")
        places = arrays["image"].tolist()
        panels, captions = [], []
        for row in range(rows):
            before, after = arrays["seen_map"][row], arrays["seen_again"][row]
            panels.append(
                [arrays["seen_image"][row], colour_map(before), arrays["seen_masked"][row],
                 colour_map(after), colour_map(after - before, before)]
            )  # fmt: skip
            place = places.index(arrays["seen"][row])
            name = subject.trained.classes[int(arrays["class"][place])]
            numbers = ", ".join(f"{NAMES[key]} {arrays[key][place]:.2f}" for key in NAMES)
            captions.append(f"{name}: {numbers}")
        draw_rows(sheet, titles, panels, captions)
        return sheet.to_image()


def measure_composite(
    logits: Logits,
    explain: Explain,
    images: Float[Tensor, "b 3 H W"],
    classes: Int[Tensor, "b"],
    seeds: Sequence[int],
    road: RoadSettings = ROAD,
) -> dict[str, Tensor]:
    """Measure coherency, complexity, average drop, ROAD, ADCC and ARCC of each image.

    Args:
        logits: From images to the logits of all classes.
        explain: From images to maps of `classes`, at any resolution.
        images: As the network reads them.
        classes: The class of each image whose map and score are measured.
        seeds: A seed for each image, of the order of equal values and of ROAD's noise.
        road: The shares of pixels that ROAD removes, and its noise.

    Returns:
        [b]: `coherency`, `complexity`, `composite_drop`, `composite_road`, `adcc`, `arcc`; the maps
        `map` and `again` [b, h, w], and `masked`, the images times their maps.
    """
    maps = explain(images)
    large = enlarge(maps, images.shape[2:])
    marked = normalize_min_max(large)
    masked = images * marked[:, None].to(images.dtype)
    again = explain(masked)
    coherency = compute_coherency(large, enlarge(again, images.shape[2:]))
    complexity = compute_complexity(marked)

    def score(changed: Tensor) -> Tensor:
        return compute_probability(logits(changed), classes)

    drop, _ = measure_drop_and_increase(score, score(images), images, large)
    order = order_by_importance(large, seeds)
    lerf, morf = (
        measure_road(logits, images, classes, by_relevance, seeds, road)[1].mean(1)
        for by_relevance in (order.flip(1), order)
    )
    removed = (lerf - morf).clamp(0, 1)
    return {
        "coherency": coherency,
        "complexity": complexity,
        "composite_drop": drop,
        "composite_road": removed,
        "adcc": harmonic_mean([coherency, 1 - complexity, 1 - drop]),
        "arcc": harmonic_mean([coherency, 1 - complexity, removed]),
        "map": maps,
        "masked": masked,
        "again": again,
    }


def compute_coherency(
    maps: Float[Tensor, "b H W"], again: Float[Tensor, "b H W"]
) -> Float[Tensor, "b"]:
    """Compute how well the maps of masked images correlate with the maps that masked them.

    Args:
        maps: Of the images, at any scale.
        again: Of the images times their maps.

    Returns:
        From 0 to 1; 0 where a map is constant or not finite, and has no correlation.
    """
    is_defined = torch.stack(
        [
            values.isfinite().all(1) & (values != values[:, :1]).any(1)
            for values in (maps.flatten(1), again.flatten(1))
        ]
    ).all(0)
    correlation = pearson_correlation(maps, again)
    return ((1 + correlation) / 2).where(is_defined, 0)


def compute_complexity(maps: Float[Tensor, "b H W"]) -> Float[Tensor, "b"]:
    """Compute the L1 norm of each map over the number of its pixels.

    Args:
        maps: Scaled to [0, 1].
    """
    return maps.abs().double().mean((1, 2))


def harmonic_mean(parts: Sequence[Float[Tensor, "b"]]) -> Float[Tensor, "b"]:
    """Compute the harmonic mean of the parts of each image; 0 where one of them is 0.

    Args:
        parts: Each from 0 to 1.
    """
    values = torch.stack([part.double() for part in parts])
    smallest = values.amin(0)
    inverse = (1 / values.clamp(min=torch.finfo(values.dtype).tiny)).mean(0)
    return (1 / inverse).where(smallest > 0, 0)
