"""Region flipping: how fast does the class score fall when regions are replaced by noise?

    MoRF     the most relevant regions are replaced first; a good map makes the score fall at once
    LeRF     the least relevant regions are replaced first; the score of a good map stays
    AOPC     mean_k [p_c(x_0) - p_c(x_k)], k = 0 ... steps, the area over the perturbation curve:
             high is good for MoRF, low for LeRF
    ABPC     AOPC_MoRF - AOPC_LeRF, the area between the two curves, high is good

Samek et al., "Evaluating the Visualization of What a Deep Neural Network Has Learned", TNNLS 2017:
regions of 9 x 9 pixels on a grid, replaced by colours that are drawn evenly; their sum runs over
the first 100 regions. Here each of `steps` steps replaces equally many regions of the first
`share`, so that a large image costs no more: `steps` of 100 and `share` of 0.16 are theirs at 224
pixels. Tomsett et al., "Sanity Checks for Saliency Metrics", AAAI 2020, measure with both orders
that the two disagree on which map is better, and that the replacement decides much.

A region's relevance is the mean of the map over it, so that narrower ones at the right and lower
border count as others do. p_c is the softmax of the class, of a single logit its sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.audit.faithfulness import compute_probability, invert_order, measure_steps
from pipeline.audit.likeness import enlarge, order_by_importance
from pipeline.audit.pictures import WIDTH, Arrays, format_mean, mean_line, write_heading
from pipeline.errors import UserError
from pipeline.ops.tensors import to_numpy
from pipeline.plotting.chart import BLUE, PURPLE, RED, Axes, Sheet, draw_chart
from pipeline.types import AuditBatch, AuditNumber, AuditSubject, PartValues

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from PIL import Image

ORDERS = ("morf", "lerf")


@dataclass(frozen=True)
class RegionFlipping:
    """Test how fast the class score falls when regions are replaced by noise, in two orders."""

    steps: int = 10  # points of a curve after its start
    region: int = 9  # side of a region, in pixels of the network's input
    share: float = 1.0  # of the regions, that the last step has replaced

    numbers: ClassVar[tuple[AuditNumber, ...]] = (
        AuditNumber("aopc_morf", "regions flipped, MoRF: AOPC", "high"),
        AuditNumber("aopc_lerf", "regions flipped, LeRF: AOPC", "low"),
        AuditNumber("abpc", "regions flipped, area between: ABPC", "high"),
    )
    is_costly: ClassVar[bool] = False
    picture_arrays: ClassVar[tuple[str, ...]] = ("flipped",)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"audit.steps={self.steps}: expected at least 1")
        if self.region < 1:
            raise UserError(f"region={self.region} of region_flipping: expected at least 1 pixel")
        if not 0 < self.share <= 1:
            raise UserError(
                f"share={self.share} of region_flipping: expected more than 0, at most 1"
            )

    def refusal(self, subject: AuditSubject) -> str:
        """Return no reason: any network that answers with logits can be tested."""
        return ""

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Measure both curves of each image and their areas, in the precision of the run."""
        network = subject.trained.network
        logits = partial(batch.logits_of, network)
        maps = enlarge(batch.maps_of(network, batch.images), batch.images.shape[2:])
        noise = draw_colours(batch.images, batch.seeds, subject.trained.mean, subject.trained.std)
        curves = measure_region_flipping(
            lambda changed: compute_probability(logits(changed), batch.columns),
            batch.images,
            noise,
            maps,
            batch.seeds,
            self,
        )
        arrays = {name: to_numpy(values) for name, values in curves.items()}
        share = np.arange(self.steps + 1, dtype=np.float32) / self.steps * self.share
        return {**arrays, "flipped": np.tile(share, (len(batch.images), 1))}

    def part_values(self, subject: AuditSubject, arrays: Arrays) -> Sequence[PartValues]:
        """Return no values: no part of the network is tested alone."""
        return ()

    def draw(self, subject: AuditSubject, arrays: Arrays) -> Image.Image:
        """Draw both curves, and the difference between them."""
        sheet, seed = Sheet(WIDTH, 650), subject.seed
        write_heading(
            sheet,
            subject,
            "does the score fall with the regions marked?",
            f"{len(arrays['abpc'])} {subject.unit}; "
            f"regions of {self.region} x {self.region} pixels "
            "replaced by random colours; means with 95 % bootstrap bands. "
            + format_mean("Area between the curves", arrays["abpc"], seed),
        )
        x = arrays["flipped"][0] * 100
        ticks = [(float(at), f"{at:.3g}") for at in np.linspace(0, x[-1], 5)]
        lines = [
            mean_line(
                f"{format_mean(f'{order} relevant first: AOPC', arrays[f'aopc_{name}'], seed)}, "
                f"{good} is good",
                x, arrays[f"{name}_curve"], colour, seed,
            )
            for order, name, good, colour in (
                ("most", "morf", "high", RED), ("least", "lerf", "low", BLUE))
        ]  # fmt: skip
        between = arrays["lerf_curve"] - arrays["morf_curve"]
        lowest = float(between.mean(0).min())
        for box, title, y_label, low, drawn in (
            ((100, 162, 720, 500), "Region flipping (Samek et al. 2017)",
             "probability of the class", 0.0, lines),
            ((880, 162, 1500, 500), "LeRF - MoRF", "difference of the probabilities",
             0.0 if lowest >= -0.02 else -1.0,
             [mean_line("above 0: the map orders the regions as the network does", x, between,
                        PURPLE, seed)]),
        ):  # fmt: skip
            axes = Axes(box=box, title=title, x_label="regions replaced (%)", y_label=y_label,
                        ticks=ticks, low=low)  # fmt: skip
            draw_chart(sheet, axes, drawn)
        return sheet.to_image()


def draw_colours(
    images: Float[Tensor, "b 3 H W"],
    seeds: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Tensor, "b 3 H W"]:
    """Draw a random colour for each pixel, evenly from the colours that pixels can have.

    Args:
        images: Of this size, and on this device.
        seeds: A seed for each image.
        mean: Of red, green and blue, for pixels from 0 to 1.
        std: Of red, green and blue, for pixels from 0 to 1.
    """
    shape = tuple(images.shape[1:])
    drawn = np.stack([np.random.default_rng(seed).random(shape, np.float32) for seed in seeds])
    colours = torch.from_numpy(drawn).to(images.device, images.dtype)
    m, s = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (colours - m) / s


def measure_region_flipping(
    score: Callable[[Tensor], Tensor],
    images: Float[Tensor, "b c H W"],
    replacement: Float[Tensor, "b c H W"],
    maps: Float[Tensor, "b H W"],
    seeds: Sequence[int],
    settings: RegionFlipping,
) -> dict[str, Tensor]:
    """Measure the curves of both orders and their areas.

    Args:
        score: From images to the probability of their class [b].
        images: As the network reads them.
        replacement: What regions are replaced by.
        maps: At the size of the images, at any scale.
        seeds: A seed for each image, of the order of regions of equal relevance.
        settings: The side of a region, the share that is replaced, and in how many steps.

    Returns:
        [b, steps + 1]: `morf_curve`, `lerf_curve`; [b]: `aopc_morf`, `aopc_lerf`, `abpc`.
    """
    order = order_by_importance(average_regions(maps, settings.region), seeds)
    regions = order.shape[1]
    last = max(1, round(settings.share * regions))
    counts = [round(last * step / settings.steps) for step in range(settings.steps + 1)]
    measured: dict[str, Tensor] = {}
    for name, by_relevance in zip(ORDERS, (order, order.flip(1)), strict=True):
        place = _spread(invert_order(by_relevance), settings.region, images.shape[2:])
        curve = measure_steps(score, images, replacement, place, counts)
        measured[f"{name}_curve"] = curve
        measured[f"aopc_{name}"] = (curve[:, :1] - curve).mean(1)
    measured["abpc"] = measured["aopc_morf"] - measured["aopc_lerf"]
    return measured


def average_regions(maps: Float[Tensor, "b H W"], side: int) -> Float[Tensor, "b h w"]:
    """Average maps over the squares of a grid; at the right and lower border over what is there.

    Args:
        maps: At the size of the images; values that are not finite count as 0.
        side: Of a square, in pixels.
    """
    values = maps.nan_to_num(0, 0, 0)[:, None]
    return F.avg_pool2d(values, side, ceil_mode=True, count_include_pad=False)[:, 0]


def _spread(place: Int[Tensor, "b n"], side: int, size: Sequence[int]) -> Int[Tensor, "b H W"]:
    """Give each pixel the place of its region."""
    height, width = size
    rows, columns = -(-height // side), -(-width // side)
    large = place.view(len(place), rows, columns).repeat_interleave(side, 1)
    return large.repeat_interleave(side, 2)[:, :height, :width]
