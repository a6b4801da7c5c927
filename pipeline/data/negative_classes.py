"""The classes of `data.negatives`: their images show no object, so they have no box."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import UserError, suggest_choices
from pipeline.ops.text import to_nfc


def find_negative_classes(
    given: Sequence[str] | str, folders: Sequence[str], classes: Sequence[str]
) -> tuple[str, ...]:
    """Return the names of the negative classes, in the order of the classes.

    Args:
        given: Names of classes or of their folders, or a single name.
        folders: The folder of each class.
        classes: The name of each class.

    Raises:
        UserError: A name is of no class, or no class with an object is left.

    Examples:
        >>> find_negative_classes(["n9"], ["n1", "n9"], ["wren", "nothing"])
        ('nothing',)
    """
    names = [given] if isinstance(given, str) else [str(name) for name in given]
    number = {name: n for each in (folders, classes) for n, name in enumerate(each)}
    for name in names:
        if to_nfc(name) not in number:
            raise UserError(
                f"data.negatives={name}: no such class; {suggest_choices(name, classes)}"
            )
    chosen = {number[to_nfc(name)] for name in names}
    if len(chosen) == len(classes):
        raise UserError(
            f"data.negatives={list(names)}: all classes are without an object, so nothing is "
            "localized; name only those without one"
        )
    return tuple(name for n, name in enumerate(classes) if n in chosen)
