"""What is explained: classes by index, name or rank, or scores of the caller's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.methods import parse_targets
from pipeline.errors import UserError, suggest_choices
from pipeline.model.answers import check_rows
from pipeline.model.classes import IMAGENET_CLASSES, are_numbered, list_imagenet_classes
from pipeline.saliency.targets import class_selector, describe_cut, find_class, top_count
from pipeline.types import ClassSelector

EXPECTED = (
    "expected a class (its index or name), 'predicted', 'topN', a class for each image, a list of "
    "classes for each image, or a function from the network's output to scores [b] or [b, t]"
)
RULES = ("predicted", "true")  # `true` is refused by parse_targets, as nothing has a label


@dataclass(frozen=True)
class Targets:
    """What to explain in each image.

    Attributes:
        rule: `predicted`, `topN` or a class, the same for all images; None: `classes` says.
        classes: the classes of each image, in the order of the images.
        score: the caller's own scores, in the place of logits.
        cut: what `top5` means where there are fewer classes; else empty.
        is_single: whether there is one map an image, without an axis for targets.
    """

    rule: str | None = None
    classes: Sequence[Sequence[int]] | None = None
    score: Callable[[Any], Tensor] | None = None
    is_single: bool = True
    cut: str = ""

    def selector(self, first: int, count: int, names: Sequence[str]) -> ClassSelector:
        """Return the function that selects the classes of a batch.

        Args:
            first: the place of the batch's first image among all images.
            count: how many images the batch has.
            names: of the classes.
        """
        if self.score is not None:
            return partial(_select_all, count)
        if self.classes is not None:
            chosen = torch.tensor(self.classes[first : first + count])
            return lambda logits: chosen.to(logits.device)
        rule = str(self.rule)

        def select(logits: Tensor) -> Tensor:
            unlabelled = torch.full((len(logits),), -1, device=logits.device)
            return class_selector([rule], names, unlabelled)(logits)

        return select


def read_score(target: Any) -> Callable[[Any], Tensor] | None:
    """Return the function that computes the caller's own scores; None: `target` means classes.

    Args:
        target: see `explain`.
    """
    if callable(target):
        score: Callable[[Any], Tensor] = target
        return score
    if isinstance(target, Sequence) and not isinstance(target, str) and target:
        functions = [item for item in target if callable(item)]
        if len(functions) == len(target):
            return _join(functions)
    return None


def read_targets(target: Any, count: int, names: Sequence[str]) -> Targets:
    """Return what `target` means for so many images.

    Args:
        target: see `explain`.
        count: how many images there are.
        names: of the network's classes.

    Raises:
        UserError: it means nothing, or not so many images.
    """
    score = read_score(target)
    if score is not None:
        return Targets(score=score, is_single=callable(target))
    rows = _to_plain(target)
    if isinstance(rows, str | Integral) or rows is None:
        return _read_one(rows, count, names)
    if not isinstance(rows, Sequence):
        raise UserError(f"target={target!r}: {EXPECTED}")
    if len(rows) != count:
        raise UserError(
            f"target: {len(rows)} given for {count} image{'' if count == 1 else 's'}: a list has "
            f"a class, or a list of classes, for each image; {EXPECTED}"
        )
    nested = [isinstance(row, Sequence) and not isinstance(row, str) for row in rows]
    if not any(nested):
        return Targets(classes=[[_find(row, names)] for row in rows])
    if not all(nested) or len({len(row) for row in rows}) != 1 or not len(rows[0]):
        raise UserError("target: each image has a list of equally many classes, at least one")
    classes = [[_find(item, names) for item in row] for row in rows]
    return Targets(classes=classes, is_single=False)


def _to_plain(target: Any) -> Any:
    """Return arrays and tensors as numbers and lists of numbers, also those within a list."""
    if hasattr(target, "tolist"):
        return target.tolist()
    return [_to_plain(item) for item in target] if isinstance(target, list | tuple) else target


def _read_one(target: Any, count: int, names: Sequence[str]) -> Targets:
    """Return what a rule or a class means, the same for all images.

    Raises:
        UserError: the network has no such class, or fewer classes than `topN` says.
    """
    if isinstance(target, Integral):
        return Targets(classes=[[_find(target, names)]] * count)
    rule = _parse("predicted" if target is None else str(target), names)
    is_single = rule in names or not top_count(rule)
    return Targets(rule, is_single=is_single, cut=describe_cut([rule], names))


def _find(item: Any, names: Sequence[str]) -> int:
    """Return the index of a class that is given by index or name; raise UserError without one."""
    if isinstance(item, bool) or not isinstance(item, str | Integral):
        raise UserError(f"target={item!r}: {EXPECTED}")
    if isinstance(item, Integral):
        index = int(item)
        if not 0 <= index < len(names):
            raise UserError(
                f"target={index}: no class has this index; the network has {len(names)} classes, "
                f"with the indices 0 to {len(names) - 1}"
            )
        return index
    index_of_name = find_class(_parse(item, names), names)
    if index_of_name is None:
        raise UserError(f"target={item!r}: no class has this name; {suggest_choices(item, names)}")
    return index_of_name


def _parse(target: str, names: Sequence[str]) -> str:
    """Return a rule or the name of a class, read as `explain.target` of the command line is.

    Raises:
        UserError: it is neither; of classes without names, it says how to give them.
    """
    if are_numbered(names) and not (target in RULES or target in names or _is_number(target)):
        raise UserError(f"target={target!r}: {_name_classes(target, names)}")
    (rule,) = parse_targets(target, names, are_labelled=False, option="target")
    return rule


def _is_number(target: str) -> bool:
    return bool(top_count(target)) or target.removeprefix("-").isdecimal()


def _name_classes(target: str, names: Sequence[str]) -> str:
    """Return how to explain a class by name where the network does not say what its classes are."""
    index, known = "281", list_imagenet_classes() if len(names) == IMAGENET_CLASSES else ()
    hint = ""
    if known:
        hint = ", as in torchvision's weights.meta['categories'] if they are ImageNet's"
        index = str(known.index(target)) if target in known else index
    elif len(names) <= int(index):
        index = str(len(names) - 1)
    told = f"target={index}" + (", which it is among ImageNet's" if target in known else "")
    return (
        f"the network's {len(names)} classes have numbers and no names; give their names, "
        f"classes=[...]{hint}, or the index of the class, {told}; or 'predicted' or 'topN'"
    )


def _join(functions: Sequence[Callable[[Any], Tensor]]) -> Callable[[Any], Tensor]:
    """Return the function that gives the scores of all functions, [b, t]."""

    def call(function: Callable[[Any], Tensor], output: Any, place: int) -> Tensor:
        try:
            return function(output)
        except Exception as error:
            error.add_note(f"It is target[{place}] that raised this.")
            raise

    def scores(output: Any) -> Tensor:
        columns = [call(function, output, n) for n, function in enumerate(functions)]
        if any(not isinstance(column, Tensor) or column.ndim != 1 for column in columns):
            raise UserError("target: each function of a list gives a score of each image, [b]")
        return torch.stack(columns, 1)

    return scores


def _select_all(count: int, logits: Tensor) -> Tensor:
    """Return all scores of each image; raise UserError where they are not of so many images."""
    check_rows(logits, count)
    return torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
