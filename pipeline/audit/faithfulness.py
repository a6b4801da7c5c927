"""Faithfulness: does the class score depend on the pixels that the map marks?

    deletion    pixels are replaced by the mean colour, the most important first; area under p_c,
                low is good
    insertion   pixels are put into a blurred image, the most important first; area under p_c, high
                is good
                Petsiuk et al., "RISE", BMVC 2018, section 4.1. p_c is the softmax of the class,
                or the sigmoid of a single logit.
    road        removed pixels are interpolated from their neighbours, with a little noise, so that
                the shape of the gap carries no information; most relevant first (MoRF, low is good)
                and least relevant first (LeRF, high is good): is the class still predicted?
                Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution
                Methods", ICML 2022, section 4.2.
    drop        max(0, p_c - p_c') / p_c, low is good; increase: p_c' > p_c, high is good; p_c' is
                that of the image times its map. Chattopadhay et al., "Grad-CAM++", WACV 2018, 4.1.

The area is the trapezoid rule over the share of pixels, as in RISE's code. Its blur is a Gaussian
of 5 pixels in a window of 11, and so is ours. The mean colour is zero on the network's scale.

ROAD's linear system: every removed pixel is the weighted mean of its eight neighbours, 1/6 across
an edge, 1/12 across a corner, less at the border of the image. The matrix is symmetric and positive
definite, so that conjugate gradients solve it on the device; they start from the solution at half
the resolution, which removes the low-frequency error first. They stop where the residual is far
below the noise that is added.
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

from pipeline.audit.likeness import enlarge, normalize_min_max, order_by_importance
from pipeline.audit.pictures import WIDTH, Arrays, format_mean, mean_line, write_heading
from pipeline.ops.probabilities import compute_probabilities, predict_classes
from pipeline.ops.tensors import to_numpy
from pipeline.plotting.chart import BLUE, RED, Axes, Sheet, draw_chart
from pipeline.types import AuditBatch, AuditNumber, AuditSubject, PartValues

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from PIL import Image

Logits = Callable[[Tensor], Tensor]
"""From images to the logits of all classes."""

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the pixels that ROAD removes
NOISE = 0.01  # of ROAD, standard deviation on the network's scale
TOLERANCE = NOISE / 100  # residual of a pixel; the error inside a wide gap is larger
EDGE, CORNER = 1 / 6, 1 / 12
MAX_ITERATIONS = 2000  # of conjugate gradients; the residual after them stays


@dataclass(frozen=True, kw_only=True)
class RoadSettings:
    """Which shares of the pixels ROAD removes, and the noise of what replaces them."""

    shares: Sequence[float] = SHARES
    noise: float = NOISE  # standard deviation on the network's scale


ROAD = RoadSettings()


@dataclass(frozen=True)
class Faithfulness:
    """Test whether the class score depends on the pixels that the map marks."""

    steps: int = 10  # of insertion and deletion: each changes as many pixels

    numbers: ClassVar[tuple[AuditNumber, ...]] = (
        AuditNumber("deletion", "deletion, area", "low"),
        AuditNumber("insertion", "insertion, area", "high"),
        AuditNumber("road_morf", "ROAD, most relevant first", "low"),
        AuditNumber("road_lerf", "ROAD, least relevant first", "high"),
        AuditNumber("road", "ROAD, (LeRF - MoRF) / 2", "high"),
        AuditNumber("average_drop", "average drop", "low"),
        AuditNumber("increase", "increase in confidence", "high"),
    )
    is_costly: ClassVar[bool] = False
    picture_arrays: ClassVar[tuple[str, ...]] = ("share",)

    def refusal(self, subject: AuditSubject) -> str:
        """Return no reason: any network that answers with logits can be tested."""
        return ""

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Measure all numbers of each image, in the precision of the run, and their curves."""
        network = subject.trained.network
        maps = batch.maps_of(network, batch.images)
        logits = partial(batch.logits_of, network)
        measured = measure_faithfulness(
            logits, batch.images, batch.columns, maps, batch.seeds, self.steps
        )
        arrays = {name: to_numpy(values) for name, values in measured.items()}
        arrays["share"] = np.tile(np.array(SHARES, np.float32), (len(batch.images), 1))
        return arrays

    def part_values(self, subject: AuditSubject, arrays: Arrays) -> Sequence[PartValues]:
        """Return no values: no part of the network is tested alone."""
        return ()

    def draw(self, subject: AuditSubject, arrays: Arrays) -> Image.Image:
        """Draw the curves of insertion and deletion, and those of ROAD."""
        sheet, seed = Sheet(WIDTH, 650), subject.seed
        drop = format_mean("Average drop", arrays["average_drop"], seed)
        increase = format_mean("increase in confidence", arrays["increase"], seed)
        write_heading(
            sheet,
            subject,
            "does the score hang on the pixels marked?",
            f"{len(arrays['deletion'])} {subject.unit}; means with 95 % bootstrap bands. "
            f"{drop}, {increase}",
        )
        _draw_insertion_and_deletion(sheet, arrays, seed)
        _draw_road(sheet, arrays, seed)
        return sheet.to_image()


def measure_faithfulness(
    logits: Logits,
    images: Float[Tensor, "b 3 H W"],
    classes: Int[Tensor, "b"],
    maps: Float[Tensor, "b h w"],
    seeds: Sequence[int],
    steps: int,
) -> dict[str, Tensor]:
    """Measure deletion, insertion, ROAD, average drop and increase of each image.

    Args:
        logits: From images to the logits of all classes.
        images: As the network reads them.
        classes: The column of each image's class, whose score is measured.
        maps: Of these classes, at any resolution.
        seeds: A seed for each image, of the order of equal values and of ROAD's noise.
        steps: Steps of insertion and deletion.

    Returns:
        [b]: `score`, `deletion`, `insertion`, `average_drop`, `increase`, `road`, `road_morf`,
        `road_lerf`; [b, steps + 1]: `deletion_curve`, `insertion_curve`; [b, len(SHARES)]:
        `road_<order>_curve`, `road_<order>_score_curve`.
    """
    large = enlarge(maps, images.shape[2:])
    order = order_by_importance(large, seeds)

    def score(changed: Tensor) -> Tensor:
        return compute_probability(logits(changed), classes)

    original = score(images)
    deletion = measure_curve(score, images, torch.zeros_like(images), order, steps)
    insertion = measure_curve(score, blur(images), images, order, steps)
    drop, increase = measure_drop_and_increase(score, original, images, large)
    measured = {
        "score": original,
        "deletion_curve": deletion,
        "deletion": compute_area(deletion),
        "insertion_curve": insertion,
        "insertion": compute_area(insertion),
        "average_drop": drop,
        "increase": increase,
    }
    for name, by_relevance in (("morf", order), ("lerf", order.flip(1))):
        kept, probability = measure_road(logits, images, classes, by_relevance, seeds)
        measured[f"road_{name}_curve"] = kept
        measured[f"road_{name}_score_curve"] = probability
        measured[f"road_{name}"] = kept.mean(1)
    measured["road"] = (measured["road_lerf"] - measured["road_morf"]) / 2
    return measured


def compute_probability(
    logits: Float[Tensor, "b C"], classes: Int[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Return the probability of each image's class."""
    return compute_probabilities(logits.float()).gather(1, classes[:, None])[:, 0]


# -- insertion and deletion ----------------------------------------------------------------------


def measure_curve(
    score: Callable[[Tensor], Tensor],
    start: Float[Tensor, "b 3 H W"],
    end: Float[Tensor, "b 3 H W"],
    order: Int[Tensor, "b n"],
    steps: int,
) -> Float[Tensor, "b steps+1"]:
    """Measure the score while pixels change from one image to another, equally many in each step.

    Args:
        score: From images to scores [b].
        start: The images before the first step.
        end: The images after the last step.
        order: Indices of the flattened pixels, in the order in which they change.
        steps: How many.
    """
    place = invert_order(order).view(len(start), *start.shape[2:])
    n = order.shape[1]
    counts = [round(n * step / steps) for step in range(steps + 1)]
    return measure_steps(score, start, end, place, counts)


def invert_order(order: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Return the place of each index in its row's order."""
    place = torch.empty_like(order)
    return place.scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def measure_steps(
    score: Callable[[Tensor], Tensor],
    start: Float[Tensor, "b 3 H W"],
    end: Float[Tensor, "b 3 H W"],
    place: Int[Tensor, "b H W"],
    counts: Sequence[int],
) -> Float[Tensor, "b s"]:
    """Measure the score of images whose first pixels are those of another image.

    Args:
        score: From images to scores [b].
        start: The images before any change.
        end: What pixels change to.
        place: The place of each pixel in the order of change; pixels may share one.
        counts: For each point of the curve, the place before which pixels are changed.
    """
    changed = place[:, None]
    return torch.stack([score(torch.where(changed < count, end, start)) for count in counts], 1)


def compute_area(curves: Float[Tensor, "b s"]) -> Float[Tensor, "b"]:
    """Compute the area under curves over [0, 1], by the trapezoid rule."""
    return torch.trapezoid(curves, dim=1) / (curves.shape[1] - 1)


def blur(
    images: Float[Tensor, "b 3 H W"], width: int = 11, sigma: float = 5.0
) -> Float[Tensor, "b 3 H W"]:
    """Blur images with a Gaussian; beyond the border the nearest pixel is repeated.

    Args:
        images: At any scale.
        width: Of the window, in pixels; odd.
        sigma: The standard deviation in pixels.
    """
    at = torch.arange(width, device=images.device, dtype=images.dtype) - width // 2
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(images.shape[1], 1, 1, 1)
    margin, groups = width // 2, images.shape[1]
    wide = F.pad(images, (margin,) * 4, mode="replicate")
    wide = F.conv2d(wide, kernel, groups=groups)
    return F.conv2d(wide, kernel.transpose(2, 3), groups=groups)


# -- average drop and increase -------------------------------------------------------------------


def measure_drop_and_increase(
    score: Callable[[Tensor], Tensor],
    original: Float[Tensor, "b"],
    images: Float[Tensor, "b 3 H W"],
    maps: Float[Tensor, "b H W"],
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Measure how the probability changes when each image is multiplied by its map.

    Args:
        score: From images to the probability of their class [b].
        original: The probability for the unchanged images.
        images: As the network reads them.
        maps: At the size of the images, at any scale; they are scaled to [0, 1].

    Returns:
        Drop of each image in [0, 1], relative to the original; 1 where the probability increases.
    """
    seen = score(images * normalize_min_max(maps)[:, None])
    tiny = torch.finfo(original.dtype).tiny
    return (original - seen).clamp(min=0) / original.clamp(min=tiny), (seen > original).float()


# -- ROAD ----------------------------------------------------------------------------------------


def measure_road(
    logits: Logits,
    images: Float[Tensor, "b 3 H W"],
    classes: Int[Tensor, "b"],
    order: Int[Tensor, "b n"],
    seeds: Sequence[int],
    settings: RoadSettings = ROAD,
) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]:
    """Measure whether the class is still predicted when a share of the pixels is removed.

    Args:
        logits: From images to the logits of all classes.
        images: As the network reads them.
        classes: The class of each image.
        order: Indices of the flattened pixels, in the order in which they are removed.
        seeds: A seed for each image, of the noise.
        settings: The shares of pixels, each removed from the unchanged image, and the noise.

    Returns:
        1 where the class is still predicted, else 0; the probability of the class.
    """
    kept, probability = [], []
    for share in settings.shares:
        gone = torch.zeros_like(order, dtype=torch.bool)
        gone.scatter_(1, order[:, : int(order.shape[1] * share)], True)
        gone = gone.view(len(images), *images.shape[2:])
        answer = logits(impute(images, gone, seeds, settings.noise))
        kept.append((predict_classes(answer) == classes).float())
        probability.append(compute_probability(answer, classes))
    return torch.stack(kept, 1), torch.stack(probability, 1)


def impute(
    images: Float[Tensor, "b c H W"],
    gone: Bool[Tensor, "b H W"],
    seeds: Sequence[int],
    noise: float = NOISE,
    tolerance: float = TOLERANCE,
) -> Float[Tensor, "b c H W"]:
    """Fill removed pixels by noisy linear imputation.

    Args:
        images: At any scale.
        gone: The pixels that are removed.
        seeds: A seed for each image, of the noise.
        noise: The standard deviation, on the images' scale.
        tolerance: The largest residual of the linear system.
    """
    filled = []
    # Image by image: on a CPU an image then stays in the cache, and each stops when it is solved.
    for image, hole, seed in zip(images, gone, seeds, strict=True):
        drawn = np.random.default_rng(seed).standard_normal(tuple(image.shape), np.float32)
        extra = torch.from_numpy(drawn).to(image.device) * noise
        filled.append(solve_harmonic(image.contiguous(), hole, tolerance) + extra * hole)
    return torch.stack(filled).contiguous(memory_format=torch.channels_last)


def solve_harmonic(
    image: Float[Tensor, "c H W"], gone: Bool[Tensor, "H W"], tolerance: float
) -> Float[Tensor, "c H W"]:
    """Fill removed pixels so that each is the weighted mean of its eight neighbours.

    By conjugate gradients, preconditioned by the diagonal. An image without any known pixel is 0.
    """
    hole = gone.to(image.dtype)
    if not gone.any() or gone.all():
        return image * (1 - hole)
    known = image * (1 - hole)
    start = _guess_from_half_size(known, gone, tolerance)
    weight = _sum_neighbours(torch.ones_like(hole)[None])[0]

    def apply(x: Tensor) -> Tensor:
        return (weight * x - _sum_neighbours(x)) * hole

    x = start * hole
    residual = _sum_neighbours(known) * hole - apply(x)
    preconditioned = residual / weight
    direction = preconditioned.clone()
    power = (residual * preconditioned).sum((1, 2), keepdim=True)
    for step in range(MAX_ITERATIONS):
        # Not in every step: the test synchronizes with the device.
        if step % 8 == 0 and residual.abs().max() <= tolerance:
            break
        product = apply(direction)
        length = power / (direction * product).sum((1, 2), keepdim=True).clamp(min=1e-30)
        x = x + length * direction
        residual = residual - length * product
        preconditioned = residual / weight
        before, power = power, (residual * preconditioned).sum((1, 2), keepdim=True)
        direction = preconditioned + power / before.clamp(min=1e-30) * direction
    return known + x * hole


def _sum_neighbours(x: Float[Tensor, "c H W"]) -> Float[Tensor, "c H W"]:
    """Return the weighted sum of the eight neighbours: ([1 2 1] x [1 2 1] - 4) / 12."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows = padded[:, :-2] + padded[:, 2:]
    rows.add_(padded[:, 1:-1], alpha=2)
    total = rows[:, :, :-2] + rows[:, :, 2:]
    total.add_(rows[:, :, 1:-1], alpha=2).sub_(x, alpha=4)
    return total.mul_(CORNER)


def _guess_from_half_size(
    known: Float[Tensor, "c H W"], gone: Bool[Tensor, "H W"], tolerance: float
) -> Float[Tensor, "c H W"]:
    """Return a first guess: the solution at half the size, of cells with any known pixel."""
    if min(known.shape[1:]) < 4:
        there = (~gone).sum()
        return known.sum((1, 2), keepdim=True).div(there).expand_as(known)
    height, width = known.shape[1:]
    odd = (0, width % 2, 0, height % 2)
    there = F.avg_pool2d(F.pad((~gone).to(known.dtype)[None], odd), 2)
    small = F.avg_pool2d(F.pad(known, odd), 2) / there.clamp(min=0.25)
    solved = solve_harmonic(small, there[0] == 0, tolerance)
    size = [2 * solved.shape[1], 2 * solved.shape[2]]
    large = F.interpolate(solved[None], size, mode="bilinear", align_corners=False)[0]
    return large[:, :height, :width]


# -- pictures ------------------------------------------------------------------------------------

PERCENT = [(float(v), f"{v}") for v in (0, 25, 50, 75, 100)]


def _draw_insertion_and_deletion(sheet: Sheet, arrays: Arrays, seed: int) -> None:
    x = np.linspace(0, 100, arrays["deletion_curve"].shape[1])
    lines = [
        mean_line(
            f"{format_mean(f'{name}: area', arrays[name], seed)}, {good} is good",
            x, arrays[f"{name}_curve"], colour, seed,
        )
        for name, good, colour in (("deletion", "low", RED), ("insertion", "high", BLUE))
    ]  # fmt: skip
    axes = Axes(
        box=(100, 162, 720, 500),
        title="Insertion and deletion (Petsiuk et al. 2018)",
        x_label="pixels changed, the most important first (%)",
        y_label="probability of the class",
        ticks=PERCENT,
    )
    draw_chart(sheet, axes, lines)


def _draw_road(sheet: Sheet, arrays: Arrays, seed: int) -> None:
    shares = arrays["share"][0] * 100
    lines = [
        mean_line(
            f"{format_mean(f'{order} relevant first: mean', arrays[name], seed)}, {good} is good",
            shares, arrays[f"{name}_curve"], colour, seed, dots=True,
        )
        for order, name, good, colour in (
            ("most", "road_morf", "low", RED), ("least", "road_lerf", "high", BLUE))
    ]  # fmt: skip
    axes = Axes(
        box=(880, 162, 1500, 500),
        title="ROAD (Rong et al. 2022)",
        x_label="pixels removed and interpolated (%)",
        y_label="class still predicted",
        ticks=PERCENT,
    )
    draw_chart(sheet, axes, lines)
