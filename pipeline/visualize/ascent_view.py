"""Views of images made by gradient ascent: what `classes` and `channels` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from pipeline.ops.hashing import hash_of
from pipeline.ops.precision import disable_autocast
from pipeline.ops.text import format_probability
from pipeline.plotting import grids
from pipeline.plotting.grids import Cell, count_columns, draw_grid, fit_longer_side
from pipeline.types import ViewResult, ViewSubject
from pipeline.visualize.ascent import Ascent, Bounds

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, UInt8
    from torch import Tensor

PANEL = 224  # the side of a picture on a sheet
MAX_BATCH = 32  # images of an ascent
# The defaults of each style: (penalty, variation, jitter as a share of the side, blur)
STYLES = {"plain": (0.02, 0.0, 0.0, 0.0), "pretty": (1e-4, 1e-4, 1 / 16, 0.8)}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What an image is made for: a class or a feature map."""

    number: int
    title: str
    file: str  # name of the picture, without a suffix


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the images of a view are made for.

    Args:
        view: The view's name; it seeds the noise that an ascent starts from.
        heading: The part of the sheet's title after the network's name.
        quantity: The name of the score.
        targets: A target for each image.
        climb: From images and the numbers of their targets to scores and their gradients.
        probability: From an image and its number to a probability; None where there is none.
    """

    view: str
    heading: str
    quantity: str
    targets: Sequence[Target]
    score_function: Callable[..., tuple[Tensor, Tensor]]
    probability: Callable[[Tensor, int], float] | None = None


@dataclass(frozen=True)
class AscendedImage:
    """An image made for a target, and its scores before each step and after the last."""

    target: Target
    score: Float[np.ndarray, "steps+1"]
    objective: Float[np.ndarray, "steps+1"]
    picture: UInt8[np.ndarray, "H W 3"]
    moved: bool  # whether the ascent changed the image
    probability: float | None

    def record(self) -> dict[str, Any]:
        """Return the numbers of <view>.json."""
        share = {} if self.probability is None else {"probability": self.probability}
        return {
            "name": self.target.title,
            "number": self.target.number,
            "first": float(self.score[0]),
            "last": float(self.score[-1]),
            **share,
            "score": self.score.tolist(),
            "objective": self.objective.tolist(),
        }

    def cell(self, quantity: str) -> Cell:
        """Return the picture with its scores as its caption."""
        note = "no gradient where it starts"
        if self.moved:
            note = f"{float(self.score[0]):z.1f} to {float(self.score[-1]):z.1f}"
            if self.probability is not None:
                note += f"; p {format_probability(self.probability)}"
        return Cell(fit_longer_side(self.picture, PANEL), self.target.title, f"{quantity} {note}")


@dataclass(frozen=True, kw_only=True)
class AscentView:
    """The options of an ascent, and how its images are shown."""

    style: str = "plain"  # plain: the paper's L2 alone | pretty: jitter, blur, variation as well
    steps: int = 200
    rate: float = 0.1  # of the first step, a root mean square in standard deviations of pixels
    noise: float = 0.0  # that the ascent starts from, in the same unit; 0: the mean image
    penalty: float | None = None  # lambda of the L2 form; null: what suits the style
    jitter: int | None = None  # pixels, for pretty; null: a sixteenth of the side
    blur: float | None = None  # its standard deviation in pixels at first, for pretty
    variation: float | None = None  # how much total variation costs, for pretty

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style={self.style}: no such style; choices: {', '.join(STYLES)}")

    def ascend(self, subject: ViewSubject, goal: Goal) -> ViewResult:
        """Make the images of a goal, their sheet, their curves and their numbers.

        Args:
            subject: The network.
            goal: What the images are made for.
        """
        ascent = self._ascent(subject)
        images = []
        with subject.show_progress(goal.view, len(goal.targets), "images") as advance:
            for batch in _batches(goal.targets, min(subject.batch_size, MAX_BATCH)):
                images += self._ascend_batch(subject, goal, ascent, batch)
                advance(len(batch))
        formula = self._formula(ascent, goal.quantity)
        title = f"{subject.network_name}{goal.heading}"
        cells = [image.cell(goal.quantity) for image in images]
        curves = {image.target.title: image.score.astype(float) for image in images}
        return ViewResult(
            sheets={
                "": draw_grid(title, [formula], cells, count_columns(len(cells))),
                "rise": grids.draw_ascent_curves(title, formula, goal.quantity, curves),
            },
            numbers={
                "ascent": asdict(ascent),
                "style": self.style,
                "images": [image.record() for image in images],
            },
            pictures={image.target.file: image.picture for image in images},
            notes=[
                f"nothing in the mean image moves {image.target.title}; "
                "inspect.noise=1 starts elsewhere"
                for image in images
                if not image.moved
            ],
        )

    def _ascend_batch(
        self, subject: ViewSubject, goal: Goal, ascent: Ascent, targets: Sequence[Target]
    ) -> list[AscendedImage]:
        """Make the images of a batch of targets, in float32."""
        numbers = [target.number for target in targets]
        start = torch.stack([self._start(subject, goal.view, number) for number in numbers])
        start = start.contiguous(memory_format=torch.channels_last)
        bounds = None if self.style == "plain" else pixel_bounds(subject)
        with disable_autocast(start):
            climbed = ascent(
                partial(goal.score_function, which=numbers), start, subject.seed, bounds
            )
            probabilities = [
                goal.probability(image, number) if goal.probability else None
                for image, number in zip(climbed.images, numbers, strict=True)
            ]
        mean, std = subject.trained.mean, subject.trained.std
        results = []
        for n, target in enumerate(targets):
            image = climbed.images[n].permute(1, 2, 0).float().cpu().numpy()
            picture = grids.enhance_contrast(image, mean, std, bounds is None)
            moved = bool((climbed.images[n] != start[n]).any())
            score, objective = (
                values[n].cpu().numpy() for values in (climbed.score, climbed.objective)
            )
            results.append(
                AscendedImage(target, score, objective, picture, moved, probabilities[n])
            )
        return results

    def _ascent(self, subject: ViewSubject) -> Ascent:
        penalty, variation, share, blur = STYLES[self.style]
        jitter = round(share * min(subject.size))
        return Ascent(
            self.steps,
            self.rate,
            penalty if self.penalty is None else self.penalty,
            variation if self.variation is None else self.variation,
            jitter if self.jitter is None else self.jitter,
            blur if self.blur is None else self.blur,
        )

    def _formula(self, ascent: Ascent, quantity: str) -> str:
        formula = f"argmax {quantity} - {ascent.penalty:g} |I|^2"
        if self.style == "pretty":
            formula += f" - {ascent.variation:g} TV, jitter {ascent.jitter}, blur {ascent.blur:g}"
        else:
            formula += " (Simonyan et al. 2013, equation 1)"
        return formula + "; contrast stretched"

    def _start(self, subject: ViewSubject, view: str, number: int) -> Float[Tensor, "3 H W"]:
        """Return the mean image with noise that depends on seed, view and target alone."""
        if not self.noise:
            return torch.zeros(3, *subject.size, device=subject.device)
        seed = int(hash_of([subject.seed, view, number]), 16) % 2**63
        drawn = torch.randn(3, *subject.size, generator=torch.Generator().manual_seed(seed))
        start: Tensor = self.noise * drawn.to(subject.device)
        return start


def pixel_bounds(subject: ViewSubject) -> Bounds:
    """Return black and white as the network reads them."""
    trained, device = subject.trained, subject.device
    mean, std = (torch.tensor(values, device=device) for values in (trained.mean, trained.std))
    return (0 - mean) / std, (1 - mean) / std


def _batches(targets: Sequence[Target], size: int) -> Iterator[Sequence[Target]]:
    for start in range(0, len(targets), size):
        yield targets[start : start + size]
