"""Which classes are explained: from logits to class indices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.types import ClassSelector

if TYPE_CHECKING:
    from torch import Tensor


def top_count(target: str) -> int:
    """Return N of a target `topN`, and 0 of any other target."""
    number = target.removeprefix("top")
    return int(number) if target.startswith("top") and number.isdecimal() else 0


def find_class(target: str, classes: Sequence[str]) -> int | None:
    """Find the class that a target means, by its name or else by its index; None: it is neither.

    A class that is called `281` is meant by 281, wherever it stands.

    Args:
        target: a name, or an index from 0.
        classes: the names of all classes, in the order of the logits.

    Raises:
        UserError: it is an index, and there are fewer classes.

    Examples:
        >>> find_class("dog", ["cat", "dog"]), find_class("0", ["cat", "dog"])
        (1, 0)
        >>> find_class("0", ["1", "0"])
        1
    """
    if target in classes:
        return classes.index(target)
    if not target.removeprefix("-").isdecimal():
        return None
    index = int(target)
    if not 0 <= index < len(classes):
        raise UserError(
            f"target {target}: no such class; the network has {len(classes)} classes, with the "
            f"indices 0 to {len(classes) - 1}"
        )
    return index


def describe_cut(
    targets: Sequence[str], classes: Sequence[str], negatives: Collection[int] = ()
) -> str:
    """Return which targets `topN` ask for more classes than there are; empty: none does.

    Args:
        targets: rules and names of classes.
        classes: the names of all classes.
        negatives: classes without an object, which no rule selects.

    Examples:
        >>> describe_cut(["predicted", "top5"], ["cat", "dog"])
        'top5: the network has 2 classes, all of which are explained'
        >>> describe_cut(["top2"], ["cat", "dog"])
        ''
    """
    count = len(classes) - len(negatives)
    cut = [name for name in targets if name not in classes and top_count(name) > count]
    if not cut:
        return ""
    has = "has 1 class" if count == 1 else f"has {count} classes"
    objects = " with an object" if negatives else ""
    explained = "which is explained" if count == 1 else "all of which are explained"
    return f"{', '.join(cut)}: the network {has}{objects}, {explained}"


def class_selector(
    wanted: Sequence[str],
    classes: Sequence[str],
    labels: Tensor,
    negatives: Collection[int] = (),
    least_logit: float | None = None,
    backgrounds: Tensor | None = None,
) -> ClassSelector:
    """Return the function that selects the classes to explain from the logits.

    Args:
        wanted: Targets as `explain.target` has them: `true`, `predicted`, `topN`, names of classes
            or their indices.
        classes: The names of all classes, in the order of the logits.
        labels: The true class of each image, [b], on the device of the logits; -1 where an image
            has none: for it, `true` is the predicted class. Or which classes each has, [b, C],
            perhaps none.
        negatives: Classes without an object. No rule selects them: `true` of their images is, as
            `predicted` is of all, the most probable other class.
        least_logit: Where classes do not exclude each other, of a class that is predicted; the
            most probable class always is. None: it is the only one.
        backgrounds: Which images are known to show no class, [b]: `true` asks for none there. None:
            no image is.

    Returns:
        A function from logits [b, C] to classes [b, t] in the order of `wanted`. A class may occur
        twice: where images have different numbers of classes, the first of an image fills its row.
        An image that no class is asked for has the most probable one, as a row cannot be empty.
    """
    import torch

    empty = torch.tensor(sorted(negatives), dtype=torch.int64, device=labels.device)

    def choose(logits: Tensor) -> Tensor:
        columns = []
        objects = logits.index_fill(1, empty, float("-inf")) if len(empty) else logits
        predicted = objects.argmax(1)
        for target in wanted:
            if target == "true" and labels.ndim == 2:
                true = labels.bool().index_fill(1, empty, False)
                alone = ~true.any(1)
                true[alone] = _list_predicted(objects, least_logit)[alone]
                if backgrounds is not None:  # more classes would widen the rows of all images
                    true[backgrounds] = _list_predicted(objects, None)[backgrounds]
                columns.append(_select_sets(true, objects))
            elif target == "predicted" and least_logit is not None:
                columns.append(_select_sets(_list_predicted(objects, least_logit), objects))
            elif target == "true":
                columns.append(
                    torch.where((labels < 0) | torch.isin(labels, empty), predicted, labels)[
                        :, None
                    ]
                )
            elif target == "predicted":
                columns.append(predicted[:, None])
            elif (index := find_class(target, classes)) is not None:
                columns.append(torch.full((len(logits), 1), index, device=logits.device))
            else:
                count = min(top_count(target), logits.shape[1] - len(empty))
                columns.append(objects.topk(count, dim=1).indices)
        if backgrounds is not None:
            columns = _take_true_away(wanted, columns, predicted[:, None], backgrounds)
        return torch.cat(columns, 1)

    return choose


def _take_true_away(
    wanted: Sequence[str], columns: Sequence[Tensor], other: Tensor, backgrounds: Tensor
) -> list[Tensor]:
    """Return the classes of each target, of some images without those of `true`.

    Args:
        wanted: Targets; their classes are `columns`.
        columns: Classes, [b, t] of each target.
        other: A class of each image, [b, 1], where no other target has one.
        backgrounds: The images, [b].
    """
    pairs = list(zip(wanted, columns, strict=True))
    first = next((column[:, :1] for target, column in pairs if target != "true"), other)
    return [
        first.where(backgrounds[:, None], column) if target == "true" else column
        for target, column in pairs
    ]


def count_labels(
    wanted: Sequence[str],
    labels: Tensor,
    negatives: Collection[int] = (),
    backgrounds: Tensor | None = None,
) -> Tensor | None:
    """Count the classes that are explained in each image, where its labels alone tell that.

    Args:
        wanted: Targets as `explain.target` has them.
        labels: The true class of each image, [b], or which classes each has, [b, C].
        negatives: Classes without an object.
        backgrounds: Which images are known to show no class, [b]; None: no image is.

    Returns:
        How many classes `class_selector` selects in each image, [b]; 0 where it has no label, so
        that others are explained.
        None where images have one class, or the targets ask for more than the labels.

    Examples:
        >>> import torch
        >>> sets = torch.tensor([[True, False, True], [False, False, False]])
        >>> count_labels(["true"], sets), count_labels(["true", "top2"], sets)
        (tensor([2, 0]), None)
    """
    import torch

    if [*wanted] != ["true"] or labels.ndim != 2:
        return None
    is_negative = torch.tensor(sorted(negatives), dtype=torch.int64, device=labels.device)
    counts = labels.bool().index_fill(1, is_negative, False).sum(1)
    return counts if backgrounds is None else counts.masked_fill(backgrounds, 1)


def _list_predicted(logits: Tensor, least_logit: float | None) -> Tensor:
    """Return which classes are predicted, [b, C]: the most probable, and all above the least."""
    predicted = logits == logits.amax(1, keepdim=True)
    return predicted if least_logit is None else predicted | (logits >= least_logit)


def _select_sets(chosen: Tensor, logits: Tensor) -> Tensor:
    """Return the classes of each image, the most probable first, which fills shorter rows."""
    most = int(chosen.sum(1).max())
    classes = logits.masked_fill(~chosen, float("-inf")).topk(most, dim=1).indices
    return classes.where(chosen.gather(1, classes), classes[:, :1])
