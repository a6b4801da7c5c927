"""What is missing of a data set: files that its lists or annotations name, ends of archives.

An extraction, a copy or a download that broke off leaves a data set that can be trained on, with
numbers of another set than the one that its lists describe. The readers of the files count this
(`pipeline.types.Loss`). A missing share above MAX_MISSING of what a list names is an error, less is
a warning; an archive that ends early is an error, as nobody knows how much is lost. What a file of
boxes names is a warning (annotations.py), as the data set may be meant to be a part.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.stages.check.findings import Finding, Severity
from pipeline.types import Note

# Share of what a list names; more is an error. Dead links and files that were removed by hand are
# some percent of published sets. What breaks off leaves out any share, half of the files on
# average; in nine of ten cases it is above a tenth.
MAX_MISSING = 0.1
MAX_SINGLE = 0.25  # the same where a single file is missing: of a short list it may be by chance


def check_losses(notes: Sequence[str]) -> list[Finding]:
    """Return what is missing of a data set.

    Args:
        notes: what the reader of the files says.
    """
    return [finding for note in notes if (finding := describe_loss(note)) is not None]


def is_loss(note: str) -> bool:
    """Return whether a note says that something is missing of the data set.

    Args:
        note: a line, or a note that knows what it counts.
    """
    return isinstance(note, Note) and note.loss is not None


def describe_loss(note: str) -> Finding | None:
    """Return the finding about what a note says is missing; None where nothing is.

    Args:
        note: a line, or a note that knows what it counts.
    """
    if not isinstance(note, Note) or note.loss is None:
        return None
    loss = note.loss
    text = str(note).partition("\n")[0].removesuffix(f"; {loss.remedy}")
    if loss.kind == "cut":
        return Finding("archive_cut", "error", text, loss.remedy, note.names, note.total)
    share = note.total / max(1, loss.of)
    limit = MAX_SINGLE if note.total == 1 else MAX_MISSING
    severity: Severity = "error" if share > limit else "warning"
    if severity == "error":
        text += f" ({share:.0%} of what is named)"
    return Finding("files_missing", severity, text, loss.remedy, note.names, note.total)
