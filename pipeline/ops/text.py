"""Names and numbers as text for messages, pages and files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.types import Loss, Note

VERBS = {"have": "has", "are": "is"}
SINGULAR = re.compile(r"^((?:of (?:\d+|the data set) )?)(have|are)\b")


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
    plural = f"{what}es" if what.endswith(("s", "x")) else f"{what}s"
    plural = f"{what[:-1]}ies" if what.endswith("ry") else plural
    return f"{len(names)} {what if len(names) == 1 else plural} ({shown})"


def count_note(
    names: Sequence[str], what: str, why: str, *, where: str = "", remedy: str = "",
    loss: Loss | None = None,
) -> Note:  # fmt: skip
    """Return a note about images, files or records that are not used as they are.

    Args:
        names: which; at least a name.
        what: the singular of what is named.
        why: what is wrong with them, or what is done with them; "have" and "are" at its start
            become "has" and "is" where a single one is named.
        where: the file, folder or option that the note is about.
        remedy: what the user can do.
        loss: what is missing of a data set; None: nothing is.

    Examples:
        >>> count_note(["a.heic"], "file", "not read", where="train", remedy="install pillow-heif")
        "train: 1 file ('a.heic') not read; install pillow-heif"
        >>> count_note(["a.jpg"], "image", "have no box")
        "1 image ('a.jpg') has no box"
    """
    from pipeline.types import Note  # with numpy, which this module does without

    if len(names) == 1:
        why = SINGULAR.sub(lambda match: match[1] + VERBS[match[2]], why)
        why = why.replace("their own", "its own")
    text = f"{list_some(names, what)} {why}"
    text = f"{where}: {text}" if where else text
    return Note(f"{text}; {remedy}" if remedy else text, names, loss=loss)


def note_missing(
    names: Sequence[str], what: str, why: str, of: int, *, where: str = "", remedy: str
) -> Note:
    """Return a note about what a list or an annotation names and is not there.

    Args:
        names: which; at least a name.
        what: the singular of what is named.
        why: what is wrong with them.
        of: how many there should be, these among them.
        where: the list, file or folder that the note is about.
        remedy: what the user can do.

    Examples:
        >>> note_missing(["a.jpg"], "image", "of 4 not there", 4, remedy="unpack it").loss
        Loss(kind='missing', of=4, remedy='unpack it')
    """
    from pipeline.types import Loss  # with numpy, which this module does without

    loss = Loss("missing", of, remedy)
    return count_note(names, what, why, where=where, remedy=remedy, loss=loss)


def count_notes(
    kinds: Iterable[tuple[Sequence[str], str, str]], what: str, *, where: str = ""
) -> list[Note]:
    """Return a note on each kind of images, files or records of which there are some.

    Args:
        kinds: for each its names, why they are not used as they are, and a remedy, may be empty.
        what: the singular of what is named.
        where: the file, folder or option that the notes are about.

    Examples:
        >>> count_notes([(["a.jpg"], "have no box", ""), ([], "are damaged", "")], "image")
        ["1 image ('a.jpg') has no box"]
    """
    return [
        count_note(names, what, why, where=where, remedy=remedy)
        for names, why, remedy in kinds
        if names
    ]


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def to_nfc(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which names are compared.

    macOS and some archives store an accented letter as the letter and an accent (NFD); what people
    type and most files hold is a single character.

    Args:
        name: A file, folder, class or category name, from a file system or a text file.

    Examples:
        >>> to_nfc("Cafe\N{COMBINING ACUTE ACCENT}") == "Caf\N{LATIN SMALL LETTER E WITH ACUTE}"
        True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def fold_name(name: str) -> str:
    """Return a class name without case, with a space for white space, underscores and hyphens.

    Examples:
        >>> fold_name("Golden_retriever") == fold_name("golden-Retriever ")
        True
    """
    return re.sub(r"[_\-\s]+", " ", name).casefold().strip()


def spell_out(name: str) -> str:
    r"""Return a file name with an escape for each character beyond ASCII.

    Names that are the same in NFC and differ in their spelling stay different.

    Examples:
        >>> spell_out("cafe\N{COMBINING ACUTE ACCENT}.jpg")
        'cafe\\u0301.jpg'
    """
    text = name.replace("\\", "\\\\").encode("ascii", "backslashreplace").decode()
    return _escape_control(text)


def printable(name: str) -> str:
    r"""Return a file name as text in NFC that can be written anywhere.

    Bytes that are not UTF-8 become `\xNN`, control characters their escapes, `\` is doubled. Names
    stay different unless they are the same in NFC.
    """
    name = to_nfc(name)
    if name.isprintable() and "\\" not in name:
        return name
    text = os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")
    return _escape_control(text)


def _escape_control(text: str) -> str:
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
