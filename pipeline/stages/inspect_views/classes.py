"""Classes: images that the network calls a class, by gradient ascent on the logit.

    argmax_I  S_c(I) - lambda ||I||_2^2

Simonyan, Vedaldi and Zisserman 2013, equation 1; pipeline/inspect/ascent.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.data.photo import printable
from pipeline.stages.inspect_ascents import Goal, climbed
from pipeline.stages.inspection import Inspection
from pipeline.stages.picture import chosen, folders_of

if TYPE_CHECKING:
    from torch import Tensor

FEW = 9  # classes where none is named


def reads_data(options: Mapping[str, Any]) -> bool:
    return False


def make(inspection: Inspection) -> list[str]:
    import torch

    names, network = inspection.trained.classes, inspection.trained.network
    given = [list(names).index(str(name)) for name in inspection.option("classes")]
    wanted = list(dict.fromkeys(given)) or chosen(len(names), FEW)

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
        Goal("classes", heading, "logit", wanted, titles, folders_of(titles), climb, probability),
    )
