"""Names of the classes of a pretrained head, and how the classes of a data set match them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from pipeline.errors import UserError
from pipeline.model.weights import parse_class_names
from pipeline.ops.text import fold_name, to_nfc

IMAGENET_CLASSES = 1000


def number_classes(count: int) -> tuple[str, ...]:
    """Return names for the rows of a head whose classes nobody named: class 0, class 1, ..."""
    return tuple(f"class {n}" for n in range(count))


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether names only number the rows of a head, as `number_classes` does."""
    return bool(names) and tuple(names) == number_classes(len(names))


def read_class_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names that `model.classes` gives, in the order of the head's rows.

    Args:
        given: the names; or a file: text with a name a line, or JSON, a list of names or a
            dictionary from names to indices or from indices to names.

    Raises:
        UserError: The file is not there, or is neither; or two rows have the same name.
    """
    names = tuple(given) if not isinstance(given, str) else _read_names(given)
    if twice := [name for name, count in Counter(map(to_nfc, names)).items() if count > 1]:
        raise UserError(
            f"model.classes: names several rows {twice[0]!r} ({len(twice)} of {len(names)} names "
            "occur more than once); each row of the head is a class: give it another name"
        )
    return names


def _read_names(given: str) -> tuple[str, ...]:
    """Read the names of classes from a file."""
    path = Path(given).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"model.classes={given}: cannot be read ({error}); expected names, as in "
            "model.classes=[cat,dog], or a text file with a name a line, or a JSON list"
        ) from None
    if path.suffix.casefold() != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        names = parse_class_names(json.loads(text))
    except ValueError:
        names = ()
    if not names:
        raise UserError(
            f"model.classes={given}: expected a JSON list of names, or a dictionary from names to "
            "indices 0, 1, ... or from these to names"
        )
    return names


@cache
def list_imagenet_classes() -> tuple[str, ...]:
    """List the names of ImageNet's 1000 classes, in the order of torchvision's weights."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def are_wnids(names: Sequence[str]) -> bool:
    """Return whether all names are ids of WordNet, as ImageNet's folders have them: n01440764."""
    return bool(names) and all(re.fullmatch(r"n\d{8}", name) for name in names)


def load_wnids() -> Mapping[str, int] | None:
    """Load the row of ImageNet's head by the id of WordNet, from the list that timm has.

    Returns:
        The rows of the 1000 ids; None where timm is not installed.
    """
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return None
    return {wnid: row for row, wnid in enumerate(ImageNetInfo().label_names())}


def match_classes(classes: Sequence[str], known: Sequence[str]) -> list[int] | None:
    """Match classes with the known classes of a head by name.

    Names are compared in NFC. The exact name is preferred, as ImageNet has a Cardigan (a dog) and a
    cardigan (to wear); else case, hyphens, underscores and spaces are ignored.

    Args:
        classes: names to look for.
        known: names of the head's classes.

    Returns:
        The position of each class among `known`; None unless each has exactly one position, which
        no other class has.
    """
    known, classes = list(map(to_nfc, known)), list(map(to_nfc, classes))
    exact, folded = _group_rows(known), _group_rows([fold_name(name) for name in known])
    candidates = [exact.get(name) or folded.get(fold_name(name), []) for name in classes]
    rows = [matching[0] for matching in candidates if len(matching) == 1]
    return rows if len(set(rows)) == len(classes) else None


def _group_rows(names: Sequence[str]) -> dict[str, list[int]]:
    """Group positions by name."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return rows
