"""The notes of a result or a run: what was not used, repaired or replaced, with counts and names.

notes.json is a list of objects: `text`, the line that is printed; `count`, how many images, files
or records it is about (0: it counts nothing); `names`, the first of them. In the folder of a run
each also has `stage` (`data` for notes on files) and `method` (null where the run scores what
others made).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.formats.files import read_json, write_json
from pipeline.ops.text import count_note

if TYPE_CHECKING:  # with numpy, which a run whose results exist does without
    from pipeline.types import Note

NOTES_FILE = "notes.json"


def write_notes(folder: Path, notes: Sequence[str]) -> None:
    """Write the notes of a result, each text once.

    Args:
        folder: the folder of the result.
        notes: lines, or notes that know what they count.
    """
    write_json(folder / NOTES_FILE, [note_record(note) for note in unique_notes(notes)], indent=1)


def load_notes(folder: Path) -> list[Note]:
    """Return the notes of a result; none where it has no such file.

    Args:
        folder: the folder of the result.
    """
    from pipeline.types import Note

    path = folder / NOTES_FILE
    records = read_json(path) if path.is_file() else []
    return [Note(record["text"], record["names"], record["count"]) for record in records]


def note_record(note: str) -> dict[str, Any]:
    """Return a note as notes.json holds it: of several lines the first is the text.

    Args:
        note: a line, or a note that knows what it counts.
    """
    from pipeline.types import Note

    counted = note if isinstance(note, Note) else Note(note)
    text = note.partition("\n")[0]
    return {"text": text, "count": counted.total, "names": list(counted.names)}


def unique_notes(notes: Sequence[str]) -> list[str]:
    """Return the notes in their order, each text once.

    Args:
        notes: lines, or notes that know what they count.
    """
    return list(dict.fromkeys(notes))


def reading_notes(
    stage: str, count: int, several: Sequence[str], own_range: Sequence[str]
) -> list[Note]:
    """Return notes on images that were read in part, or not as the others; none where all were.

    Args:
        stage: the stage that read them.
        count: how many images there are in all.
        several: images whose files have further pages or frames.
        own_range: images of more than 8 bits that are scaled from a range of their own.
    """
    notes = []
    if several:
        why = f"of {count} with several pages or frames: only the first is used"
        remedy = "save each page or frame as a file of its own to use them all"
        notes.append(count_note(several, "image", why, where=stage, remedy=remedy))
    if own_range:
        why = (
            f"of {count} with more than 8 bits scaled by a range of their own, as no file that the "
            "range was computed from has this kind of number"
        )
        remedy = "data.range=[low,high] sets one for all"
        notes.append(count_note(own_range, "image", why, where=stage, remedy=remedy))
    return notes


def skipped_note(stage: str, reasons: Sequence[str], count: int, consequence: str) -> list[Note]:
    """Return a note about images that could not be read; none where all could.

    Args:
        stage: the stage that read them.
        reasons: the name of each image and why it could not be read.
        count: how many images there are in all.
        consequence: what the stage did without them.
    """
    from pipeline.types import Note

    if not reasons:
        return []
    shown = "".join(f"\n    {reason}" for reason in reasons[:3])
    more = f"\n    ... and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    text = f"{stage}: {len(reasons)} of {count} images could not be read and {consequence}; repair "
    return [Note(f"{text}or remove them{shown}{more}", reasons)]
