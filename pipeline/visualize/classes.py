"""View `classes`: images made by gradient ascent on the logit of a class.

    argmax_I  S_c(I) - lambda ||I||_2^2

Simonyan, Vedaldi and Zisserman 2013, equation 1; pipeline/visualize/ascent.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.formats.files import unique_file_names
from pipeline.ops.sampling import spread_evenly
from pipeline.ops.text import printable, to_nfc
from pipeline.types import ViewResult, ViewSubject
from pipeline.visualize.ascent_view import AscentView, Goal, Target

FEW = 9  # classes where none is named


@dataclass(frozen=True, kw_only=True)
class Classes(AscentView):
    """Make images that a network predicts to be a class."""

    classes: tuple[Any, ...] = ()  # by name; empty: nine, evenly chosen

    reads_data: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = False

    def __call__(self, subject: ViewSubject) -> ViewResult:
        """Make an image for each class."""
        network = subject.trained.network
        names = [to_nfc(name) for name in subject.trained.classes]
        given = [names.index(to_nfc(str(name))) for name in self.classes]
        numbers = list(dict.fromkeys(given)) or spread_evenly(len(names), FEW)

        def score_function(images: Tensor, which: Sequence[int]) -> tuple[Tensor, Tensor]:
            column = torch.tensor(which, device=images.device)[:, None]
            with torch.enable_grad():
                answer = network(images, at=("input",))
                score = answer.logits.gather(1, column)[:, 0]
                (gradient,) = torch.autograd.grad(score.sum(), answer.activations["input"])
            return score.detach(), gradient

        def probability(image: Tensor, which: int) -> float:
            with torch.no_grad():
                return float(network.probabilities(network(image[None]).logits.float())[0, which])

        titles = [printable(names[n]) for n in numbers]
        goal = Goal(
            view="classes",
            heading=": images that it calls a class",
            quantity="logit",
            targets=[
                Target(number=number, title=title, file=file)
                for number, title, file in zip(
                    numbers, titles, unique_file_names(titles), strict=True
                )
            ],
            score_function=score_function,
            probability=probability,
        )
        return self.ascend(subject, goal)
