"""Names and numbers as text for messages, pages and files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pipeline.types.notes import Note


def list_some(names: Sequence[str], what: str) -> str:
    """Say how many names there are, and the first three of them.

    Args:
        names: At least a name.
        what: The singular of what is named.

    Examples:
        >>> list_some(["a.jpg"], "image")
        "1 image ('a.jpg')"
        >>> list_some(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "image")
        "4 images ('a.jpg', 'b.jpg', 'c.jpg', ...)"
    """
    shown = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what}{'s' * (len(names) != 1)} ({shown})"


def count_note(
    names: Sequence[str], what: str, why: str, *, where: str = "", remedy: str = ""
) -> Note:
    """Return a note about images, files or records that are not used as they are.

    Args:
        names: which; at least a name.
        what: the singular of what is named.
        why: what is wrong with them, or what is done with them.
        where: the file, folder or option that the note is about.
        remedy: what the user can do.

    Examples:
        >>> count_note(["a.heic"], "file", "not read", where="train", remedy="install pillow-heif")
        "train: 1 file ('a.heic') not read; install pillow-heif"
    """
    text = f"{list_some(names, what)} {why}"
    text = f"{where}: {text}" if where else text
    return Note(f"{text}; {remedy}" if remedy else text, names)


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(name: str) -> str:
    r"""Return a file name as text that can be written anywhere; different names stay different.

    Bytes that are not UTF-8 become `\xNN`, control characters their escapes, `\` is doubled.
    """
    if name.isprintable() and "\\" not in name:
        return name
    text = os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def format_probability(score: float) -> str:
    """Format a probability in [0, 1] as a percentage with a decimal; small values as a bound.

    Examples:
        >>> format_probability(0.123)
        '12.3 %'
        >>> format_probability(0.0001)
        'below 0.1 %'
    """
    return f"{100 * score:.1f} %" if score >= 0.001 else "below 0.1 %"
