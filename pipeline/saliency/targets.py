"""Which classes are explained: from logits to class indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.types import ClassSelector

if TYPE_CHECKING:
    from torch import Tensor


def top_count(target: str) -> int:
    number = target.removeprefix("top")
    return int(number) if target.startswith("top") and number.isdecimal() else 0


def class_selector(wanted: Sequence[str], classes: Sequence[str], labels: Tensor) -> ClassSelector:
    """From logits to the classes that `explain.target` asks for, [b, t], some perhaps twice."""
    import torch

    def choose(logits: Tensor) -> Tensor:
        columns = []
        for one in wanted:
            if one == "true":
                columns.append(labels[:, None])
            elif one == "predicted":
                columns.append(logits.argmax(1, keepdim=True))
            elif one in classes:
                columns.append(torch.full_like(labels, classes.index(one))[:, None])
            else:
                columns.append(logits.topk(min(top_count(one), logits.shape[1]), dim=1).indices)
        return torch.cat(columns, 1)

    return choose
