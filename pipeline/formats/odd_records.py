"""Odd records of a file that another tool wrote: repaired or left out, counted by reason.

A record that cannot be used never refuses a file with others that can. It raises BadRecord, and the
reader of the file passes the reason to OddRecords, whose notes go to the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UserError
from pipeline.ops.text import count_note
from pipeline.types import Note


class BadRecord(Exception):
    """A record that cannot be used. The message is the reason; it follows "3 annotations"."""


@dataclass
class OddRecords:
    """The records of a list or file that were left out or repaired, by reason.

    Attributes:
        where: The name of the file, which begins the notes.
        what: The singular of what a record is called.
        left_out: Names of records by the reason that they were left out for.
        repaired: Names of records by what was repaired.
    """

    where: str
    what: str
    left_out: dict[str, list[str]] = field(default_factory=dict)
    repaired: dict[str, list[str]] = field(default_factory=dict)

    @property
    def left_out_count(self) -> int:
        """How many records were left out."""
        return sum(map(len, self.left_out.values()))

    def leave_out(self, name: str, reason: str) -> None:
        """Count a record that is left out.

        Args:
            name: Which, as `annotations[3]` or `line 4`.
            reason: Why, as the message of BadRecord.
        """
        self.left_out.setdefault(reason, []).append(name)

    def repair(self, name: str, repair: str) -> None:
        """Count a record that is used, but not as it stands in the file.

        Args:
            name: Which, as `annotations[3]` or `line 4`.
            repair: What was odd, and what it was taken as.
        """
        self.repaired.setdefault(repair, []).append(name)

    def notes(self) -> list[Note]:
        """Return what was left out and what was repaired, a note for each reason."""
        remedy = "correct or drop them"
        return [
            count_note(names, self.what, f"{reason}: left out", where=self.where, remedy=remedy)
            for reason, names in self.left_out.items()
        ] + [
            count_note(names, self.what, repair, where=self.where)
            for repair, names in self.repaired.items()
        ]

    def check_usable(self, path: Path, total: int, usable: int) -> None:
        """Refuse a file with records of which none can be used.

        Args:
            path: The file.
            total: How many records it has.
            usable: How many of them can be used.

        Raises:
            UserError: There are records, and none can be used; with the reasons.
        """
        if total and not usable:
            raise no_usable_records(path, f"none of its {total} {self.what}s", self.notes())


def no_usable_records(path: Path, subject: str, notes: Sequence[str]) -> UserError:
    """Return the error for a file in which nothing can be used.

    Args:
        path: The file.
        subject: What cannot be used, as "none of its 3 annotations".
        notes: The reasons, a line each.
    """
    reasons = "".join(f"\n  {note}" for note in notes)
    return UserError(f"{path}: {subject} can be used; correct the file:{reasons}")
