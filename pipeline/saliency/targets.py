"""Which classes are explained: from logits to class indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.types import ClassSelector

if TYPE_CHECKING:
    from torch import Tensor


def top_count(target: str) -> int:
    """Return N of a target `topN`, and 0 of any other target."""
    number = target.removeprefix("top")
    return int(number) if target.startswith("top") and number.isdecimal() else 0


def class_selector(wanted: Sequence[str], classes: Sequence[str], labels: Tensor) -> ClassSelector:
    """Return the function that selects the classes to explain from the logits.

    Args:
        wanted: Targets as `explain.target` has them: `true`, `predicted`, `topN` or class names.
        classes: The names of all classes, in the order of the logits.
        labels: The true class of each image, [b], on the device of the logits.

    Returns:
        A function from logits [b, C] to classes [b, t] in the order of `wanted`. A class may occur
        twice.
    """
    import torch

    def choose(logits: Tensor) -> Tensor:
        columns = []
        for target in wanted:
            if target == "true":
                columns.append(labels[:, None])
            elif target == "predicted":
                columns.append(logits.argmax(1, keepdim=True))
            elif target in classes:
                columns.append(torch.full_like(labels, classes.index(target))[:, None])
            else:
                count = min(top_count(target), logits.shape[1])
                columns.append(logits.topk(count, dim=1).indices)
        return torch.cat(columns, 1)

    return choose
