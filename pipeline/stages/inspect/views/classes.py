"""Classes: images that the network calls a class, by gradient ascent on the logit.

    argmax_I  S_c(I) - lambda ||I||_2^2

Simonyan, Vedaldi and Zisserman 2013, equation 1; pipeline/visualize/ascent.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.formats.files import unique_file_names
from pipeline.ops.sampling import spread_evenly
from pipeline.ops.text import printable
from pipeline.stages.inspect.ascents import Goal, climbed
from pipeline.stages.inspect.inspection import Inspection

if TYPE_CHECKING:
    from torch import Tensor

FEW = 9  # classes where none is named


def reads_data(options: Mapping[str, Any]) -> bool:
    return False


def make(inspection: Inspection) -> list[str]:
    import torch

    names, network = inspection.trained.classes, inspection.trained.network
    given = [list(names).index(str(name)) for name in inspection.option("classes")]
    wanted = list(dict.fromkeys(given)) or spread_evenly(len(names), FEW)

    def climb(images: Tensor, which: Sequence[int]) -> tuple[Tensor, Tensor]:
        column = torch.tensor(which, device=images.device)[:, None]
        with torch.enable_grad():
            answer = network(images, at=("input",))
            score = answer.logits.gather(1, column)[:, 0]
            (slope,) = torch.autograd.grad(score.sum(), answer.activations["input"])
        return score.detach(), slope

    def probability(image: Tensor, which: int) -> float:
        with torch.no_grad():
            return float(network(image[None]).logits.float().softmax(1)[0, which])

    titles = [printable(names[n]) for n in wanted]
    heading = ": images that it calls a class"
    return climbed(
        inspection,
        Goal(
            "classes",
            heading,
            "logit",
            wanted,
            titles,
            unique_file_names(titles),
            climb,
            probability,
        ),
    )
