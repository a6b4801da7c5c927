"""Notes: what was not used, repaired or replaced, for the terminal, the report and notes.json."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NAMES = 1000


class Note(str):
    """A line that says what was not used, repaired or replaced, how often, and what helps.

    A plain string is a note, too, without a count. `pipeline.ops.text.count_note` builds the line
    from its parts.

    Attributes:
        names: the first MAX_NAMES of the names.
        total: how many images, files or records the note is about; 0 where it counts nothing.
    """

    __slots__ = ("names", "total")
    names: tuple[str, ...]
    total: int

    def __new__(cls, text: str, names: Sequence[str] = (), count: int | None = None) -> Note:
        """Create the note.

        Args:
            text: the line, which begins with the file, folder or option that it is about.
            names: the images, files or records that it counts.
            count: how many; None: as many as there are names.
        """
        note = super().__new__(cls, text)
        note.names = tuple(names[:MAX_NAMES])
        note.total = len(names) if count is None else count
        return note
