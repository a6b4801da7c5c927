"""Notes: what was not used, repaired or replaced, for the terminal, the report and notes.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

MAX_NAMES = 1000


@dataclass(frozen=True)
class Loss:
    """What a note says is missing of a data set, in numbers: stage check finds errors by it.

    Attributes:
        kind: `missing`, what a list or an annotation names is not there; `cut`, an archive ends
            early or is damaged, and what is behind that place is lost.
        of: how many there should be, those that are there among them; 0: not known.
        remedy: what the user can do; the note ends in it.
    """

    kind: Literal["missing", "cut"]
    of: int = 0
    remedy: str = ""


class Note(str):
    """A line that says what was not used, repaired or replaced, how often, and what helps.

    A plain string is a note, too, without a count. `pipeline.ops.text.count_note` builds the line
    from its parts.

    Attributes:
        names: the first MAX_NAMES of the names.
        total: how many images, files or records the note is about; 0 where it counts nothing.
        loss: what is missing of a data set; None: nothing is, by this note.
    """

    __slots__ = ("loss", "names", "total")
    names: tuple[str, ...]
    total: int
    loss: Loss | None

    def __new__(
        cls,
        text: str,
        names: Sequence[str] = (),
        count: int | None = None,
        loss: Loss | None = None,
    ) -> Note:
        """Create the note.

        Args:
            text: the line, which begins with the file, folder or option that it is about.
            names: the images, files or records that it counts.
            count: how many; None: as many as there are names.
            loss: what is missing of a data set; None: nothing is.
        """
        note = super().__new__(cls, text)
        note.names = tuple(names[:MAX_NAMES])
        note.total = len(names) if count is None else count
        note.loss = loss
        return note


def to_plain(note: str) -> list[Any]:
    """Return a note as JSON holds it, to be kept in a file.

    Args:
        note: a line, or a note that knows what it counts.

    Examples:
        >>> to_plain("a line"), to_plain(Note("1 file lost", ["a"], loss=Loss("cut", 3)))
        (['a line'], ['1 file lost', ['a'], 1, ['cut', 3, '']])
    """
    if not isinstance(note, Note):
        return [note]
    loss = note.loss
    kept = None if loss is None else [loss.kind, loss.of, loss.remedy]
    return [str(note), [*note.names], note.total, kept]


def from_plain(plain: Sequence[Any]) -> str:
    """Return a note that `to_plain` gave.

    Args:
        plain: of the note.
    """
    if len(plain) == 1:
        return str(plain[0])
    text, names, total, kept = plain
    return Note(text, names, total, None if kept is None else Loss(*kept))
