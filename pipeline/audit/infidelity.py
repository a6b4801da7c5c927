"""Infidelity: does the map predict by how much the class score falls when squares are removed?

    INFD = E_I [ (b I.M - (f(x) - f(x - I)))^2 ]      b = E[I.M (f(x) - f(x - I))] / E[(I.M)^2]

Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, equation 2, with
their square removal: I marks a square, whose pixels become the mean colour, and I.M is the sum of
the map M over it. f is the logit of the class. A map has no unit, so it is scaled by the best b, as
their code does: no scale of the map is better than another.

    infidelity           INFD, in squared logits: low is good
    infidelity_share     INFD / E[(f(x) - f(x - I))^2], from 0 to 1: the share of the changes that
                         the map does not explain. 1: it explains none, 0: all. low is good

The side of a square is drawn evenly from 1 to 10 of 28 parts of the image's shorter side, and its
place evenly from all within the image; theirs are all squares of 1 to 10 pixels of 28.
`infidelity_unscaled`, with b = 1, is in images.json: it means something for maps in logits alone,
as integrated gradients with their sign are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.audit.likeness import enlarge
from pipeline.audit.pictures import WIDTH, Arrays, format_mean, write_heading
from pipeline.errors import UserError
from pipeline.ops.tensors import to_numpy
from pipeline.plotting.chart import AXIS, BLUE, SUBPIXEL_BITS, Axes, Sheet, draw_chart
from pipeline.types import AuditBatch, AuditNumber, AuditSubject, PartValues

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from PIL import Image

SIDES, PARTS = 10, 28  # the side of a square: 1 to SIDES parts of 1 / PARTS of the shorter side


@dataclass(frozen=True)
class Infidelity:
    """Test whether the map predicts by how much the score falls when squares are removed."""

    samples: int = 20  # squares that are removed from each image, one at a time

    numbers: ClassVar[tuple[AuditNumber, ...]] = (
        AuditNumber("infidelity", "infidelity, scaled map, logits^2", "low"),
        AuditNumber("infidelity_share", "infidelity, share unexplained", "low"),
    )
    is_costly: ClassVar[bool] = False
    picture_arrays: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UserError(
                f"audit.samples={self.samples}: expected at least 2; one square is explained by "
                "any map that is scaled to it"
            )

    def refusal(self, subject: AuditSubject) -> str:
        """Return no reason: any network that answers with logits can be tested."""
        return ""

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Measure infidelity of each image, in the precision of the run."""
        network = subject.trained.network
        logits = partial(batch.logits_of, network)
        maps = enlarge(batch.maps_of(network, batch.images), batch.images.shape[2:])
        measured = measure_infidelity(
            lambda changed: logits(changed).gather(1, batch.columns[:, None])[:, 0],
            batch.images,
            maps,
            draw_squares(batch.images, batch.seeds, self.samples),
        )
        return {name: to_numpy(values) for name, values in measured.items()}

    def part_values(self, subject: AuditSubject, arrays: Arrays) -> Sequence[PartValues]:
        """Return no values: no part of the network is tested alone."""
        return ()

    def draw(self, subject: AuditSubject, arrays: Arrays) -> Image.Image:
        """Draw what the map predicts for each square against what the score does."""
        sheet = Sheet(WIDTH, 840)
        share, squared = (
            format_mean(title, arrays[name], subject.seed)
            for title, name in (
                ("Share unexplained", "infidelity_share"),
                ("infidelity", "infidelity"),
            )
        )
        write_heading(
            sheet,
            subject,
            "does the map predict how the score falls?",
            f"{len(arrays['infidelity'])} {subject.unit}, {self.samples} squares removed of each. "
            f"{share}, {squared}; low is good",
        )
        predicted = (arrays["sums"] * arrays["scale"][:, None]).ravel()
        fallen = arrays["drops"].ravel()
        reach = _round_up(float(np.abs(np.concatenate([predicted, fallen])).max()))
        axes = Axes(
            box=(460, 162, 1060, 702),
            title="Removed squares (Yeh et al. 2019)",
            x_label="sum of the map over the square, scaled to each image's changes (logits)",
            y_label="fall of the logit",
            ticks=[(at, f"{at:.2g}") for at in np.linspace(-reach, reach, 5).tolist()],
            low=-reach,
            high=reach,
            step=reach / 2,
        )
        draw_chart(sheet, axes, [])
        ends = np.array([-reach, reach])
        sheet.draw_line(axes.place(ends, ends), AXIS, 2, dashed=True)
        _draw_dots(sheet, axes.place(predicted, fallen))
        sheet.write_text(460, 780, "dashed: where a map that explains each change lies", 17)
        return sheet.to_image()


def _round_up(value: float) -> float:
    """Return a number with a short half that is at least `value` and little more; 1 for 0."""
    if value <= 0 or not np.isfinite(value):
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(
        next(step for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10, 20) if step * power >= value) * power
    )


def _draw_dots(sheet: Sheet, points: Float[np.ndarray, "n 2"]) -> None:
    for x, y in np.round(points * 2**SUBPIXEL_BITS).astype(int).tolist():
        cv2.circle(
            sheet.pixels, (x, y), 4 << SUBPIXEL_BITS, BLUE, -1, cv2.LINE_AA, SUBPIXEL_BITS
        )  # fmt: skip


def draw_squares(
    images: Float[Tensor, "b c H W"], seeds: Sequence[int], count: int
) -> Bool[Tensor, "b count H W"]:
    """Draw masks of one square each, within the image.

    Args:
        images: Of this size, and on this device.
        seeds: A seed for each image.
        count: Squares of each image.
    """
    height, width = images.shape[2:]
    masks = np.zeros((len(seeds), count, height, width), bool)
    for of_image, seed in zip(masks, seeds, strict=True):
        rng = np.random.default_rng(seed)
        for mask in of_image:
            side = max(1, round(int(rng.integers(1, SIDES + 1)) * min(height, width) / PARTS))
            top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
            mask[top : top + side, left : left + side] = True
    return torch.from_numpy(masks).to(images.device)


def measure_infidelity(
    score: Callable[[Tensor], Tensor],
    images: Float[Tensor, "b c H W"],
    maps: Float[Tensor, "b H W"],
    removed: Bool[Tensor, "b s H W"],
) -> dict[str, Tensor]:
    """Measure infidelity of each image where pixels are replaced by 0, the mean colour.

    Args:
        score: From images to the logit of their class [b].
        images: As the network reads them.
        maps: At the size of the images, not scaled; values that are not finite count as 0.
        removed: The pixels that each perturbation removes.

    Returns:
        [b]: `infidelity`, `infidelity_share`, `infidelity_unscaled`, and `scale`, the best scale of
        the map; [b, s]: `sums` of the map over the removed pixels, and `drops` of the logit.
    """
    original = score(images).double()
    drops = torch.stack(
        [original - score(images * ~mask[:, None]).double() for mask in removed.unbind(1)], 1
    )
    values = maps.double().nan_to_num(0, 0, 0)
    sums = torch.stack([(values * mask).sum((1, 2)) for mask in removed.unbind(1)], 1)
    return {**compute_infidelity(sums, drops), "sums": sums, "drops": drops}


def compute_infidelity(
    sums: Float[Tensor, "b s"], drops: Float[Tensor, "b s"]
) -> dict[str, Float[Tensor, "b"]]:
    """Compute infidelity from what the map says of each perturbation, and what the score does.

    Args:
        sums: I.M, the sum of the map times each perturbation.
        drops: f(x) - f(x - I), by how much the score falls.

    Returns:
        `infidelity`, `infidelity_share`, `infidelity_unscaled` and `scale`. A map whose sums are
        all 0 has a scale of 0: it explains nothing. Where no perturbation changes the score, there
        is nothing to explain: the share is 0.
    """
    power, change = sums.square().mean(1), drops.square().mean(1)
    scale = (sums * drops).mean(1) / power.where(power > 0, 1)
    infidelity = (scale[:, None] * sums - drops).square().mean(1)
    share = infidelity / change.where(change > 0, 1)
    return {
        "infidelity": infidelity,
        "infidelity_share": share.clamp(0, 1),
        "infidelity_unscaled": (sums - drops).square().mean(1),
        "scale": scale,
    }
