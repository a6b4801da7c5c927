"""Max-sensitivity: by how much can noise too weak to see change the map?

    SENS_MAX = max over |d| <= r of  ||M(x + d) - M(x)|| / ||M(x)||        low is good

Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, equation 3. The
maximum is estimated by `samples` draws, each pixel's change even from -r to r: a lower bound, which
grows with the draws. r is `radius`, for pixels from 0 to 1. The norm is Frobenius', at the method's
own resolution; the class explained stays the same, whatever the changed image is taken for. The
division by the norm of the map makes methods of any scale comparable; for a map of zeros it is left
out.

fragility.py searches for the change that moves the map most, and compares what is marked;
max-sensitivity draws changes at random, and compares values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.audit.pictures import (
    MAX_ROWS,
    Arrays,
    colour_map,
    draw_rows,
    format_mean,
    start_rows,
    write_heading,
)
from pipeline.errors import UserError
from pipeline.ops.precision import disable_autocast
from pipeline.ops.tensors import to_numpy
from pipeline.types import AuditBatch, AuditNumber, AuditSubject, PartValues

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image

Explain = Callable[[Tensor], Tensor]
"""From images to their maps [b, h, w], of fixed classes."""


@dataclass(frozen=True)
class MaxSensitivity:
    """Test by how much noise too weak to see changes the map."""

    samples: int = 20  # draws of the noise, each of which takes a map
    radius: float = 0.02  # how far a pixel from 0 to 1 may change

    numbers: ClassVar[tuple[AuditNumber, ...]] = (
        AuditNumber("max_sensitivity", "max-sensitivity", "low"),
    )
    is_costly: ClassVar[bool] = True
    picture_arrays: ClassVar[tuple[str, ...]] = ("seen", "seen_image", "seen_map", "seen_worst")

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"audit.samples={self.samples}: expected at least 1")
        if not 0 < self.radius <= 1:
            raise UserError(
                f"radius={self.radius} of max_sensitivity: expected more than 0, at most 1"
            )

    def refusal(self, subject: AuditSubject) -> str:
        """Return no reason: any map can be computed again."""
        return ""

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Measure the sensitivity of each image's map, in float32."""
        std = torch.tensor(subject.trained.std, device=batch.images.device)[:, None, None]
        with disable_autocast(batch.images):
            measured = measure_sensitivity(
                partial(batch.maps_of, subject.trained.network),
                batch.images,
                self.radius / std,
                batch.seeds,
                self.samples,
            )
        shown = {name: to_numpy(measured.pop(name)[: batch.shown]) for name in ("map", "worst")}
        return {
            **{name: to_numpy(values) for name, values in measured.items()},
            "seen": np.array(batch.positions[: batch.shown], np.int32),
            "seen_image": batch.pixels[: batch.shown],
            **{f"seen_{name}": values for name, values in shown.items()},
        }

    def part_values(self, subject: AuditSubject, arrays: Arrays) -> Sequence[PartValues]:
        """Return no values: no part of the network is tested alone."""
        return ()

    def draw(self, subject: AuditSubject, arrays: Arrays) -> Image.Image:
        """Draw a few images, their maps, the most different maps, and what changed."""
        rows = min(MAX_ROWS, len(arrays["seen"]))
        sheet = start_rows(rows)
        write_heading(
            sheet,
            subject,
            "by how much does noise too weak to see change the map?",
            f"{len(arrays['image'])} {subject.unit}; "
            f"{self.samples} times each pixel changed by at most "
            f"{self.radius * 255:.3g} of 255. "
            f"{format_mean('Max-sensitivity', arrays['max_sensitivity'], subject.seed)}",
        )
        places = arrays["image"].tolist()
        panels, captions = [], []
        for row in range(rows):
            before, after = arrays["seen_map"][row], arrays["seen_worst"][row]
            panels.append([arrays["seen_image"][row], colour_map(before), colour_map(after),
                           colour_map(after - before, before)])  # fmt: skip
            place = places.index(arrays["seen"][row])
            name = subject.trained.classes[int(arrays["class"][place])]
            largest, mean = (
                float(arrays[key][place]) for key in ("max_sensitivity", "mean_sensitivity")
            )
            captions.append(
                f"{name}: changed by {largest:.2f} of its norm, {mean:.2f} on average over draws"
            )
        titles = ("image", "map", "map of the worst draw", "difference, same scale")
        draw_rows(sheet, titles, panels, captions)
        return sheet.to_image()


def measure_sensitivity(
    explain: Explain,
    images: Float[Tensor, "b 3 H W"],
    radius: Float[Tensor, "c 1 1"],
    seeds: Sequence[int],
    samples: int,
) -> dict[str, Tensor]:
    """Measure how far maps of images with noise are from the maps without.

    Args:
        explain: From images to maps [b, h, w].
        images: As the network reads them.
        radius: How far each channel may change, on the network's scale.
        seeds: A seed for each image, of the noise.
        samples: How often noise is drawn.

    Returns:
        [b]: `max_sensitivity` and `mean_sensitivity` over the draws; [b, h, w]: `map`, and `worst`,
        the map of the draw that changed most.
    """
    before = explain(images)
    norm = before.double().flatten(1).norm(dim=1)
    divisor = norm.where(norm > 0, 1)
    generators = [np.random.default_rng(seed) for seed in seeds]
    largest = torch.full_like(divisor, -1.0)
    total, worst = torch.zeros_like(divisor), before
    for _ in range(samples):
        after = explain(images + draw_noise(images, generators) * radius)
        moved = (after.double() - before.double()).flatten(1).norm(dim=1) / divisor
        total = total + moved
        is_larger = moved > largest
        worst = torch.where(is_larger[:, None, None], after, worst)
        largest = torch.where(is_larger, moved, largest)
    return {
        "max_sensitivity": largest,
        "mean_sensitivity": total / samples,
        "map": before,
        "worst": worst,
    }


def draw_noise(
    images: Float[Tensor, "b c H W"], generators: Sequence[np.random.Generator]
) -> Float[Tensor, "b c H W"]:
    """Draw noise of the size of images, evenly from -1 to 1.

    Args:
        images: Of this size, and on this device.
        generators: One for each image.
    """
    shape = tuple(images.shape[1:])
    drawn = np.stack([generator.uniform(-1, 1, shape) for generator in generators])
    return torch.from_numpy(drawn).to(images.device, images.dtype)
