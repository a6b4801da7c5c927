"""classes.txt: names of the class folders, in the forms in which people write it.

    n01440764 tench       folder and name, with white space, a tab, `:`, `,`, `;` or `=` between
    golden retriever      a name alone, as labelImg and others write it: that of a folder, whatever
                          its case, and with spaces or hyphens for underscores
    0 tench               a number, then one of the above

A line is read in the form that fits the names of the folders. Names are compared in NFC.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.formats.files import read_lines
from pipeline.ops.text import count_note, fold_name, to_nfc

NUMBERED = re.compile(r"\d+\s*[\s:,;.)=]\s*(\S.*)")
SEPARATOR = re.compile(r"[\s:,;=]")

# How a line names its folder, the surest first.
CERTAIN, SIMILAR, BY_WORD = range(3)


@dataclass(frozen=True)
class ClassNames:
    """What classes.txt says of the class folders.

    Attributes:
        names: Class name by folder; folders without a line are not there.
        notes: Folders without a line, and lines without a folder.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Line:
    """A line of classes.txt.

    Attributes:
        number: Its number in the file.
        text: The line in NFC.
        folder: The folder that it names; None where it fits none.
        name: The name of the class.
        form: CERTAIN: the folder's exact name alone, or with a tab or punctuation after it;
            SIMILAR: a name alone that is the folder's except for case, spaces and hyphens;
            BY_WORD: the folder's name, white space, and a name.
    """

    number: int
    text: str
    folder: str | None = None
    name: str = ""
    form: int = CERTAIN


def read_class_names(path: Path, folders: Sequence[str]) -> ClassNames:
    """Read classes.txt.

    Args:
        path: The file; where it does not exist, no folder has a name.
        folders: Names of the class folders, in NFC.

    Raises:
        UserError: The file cannot be read, or two lines name the same folder.
    """
    if not path.is_file():
        return ClassNames()
    texts = [(number, to_nfc(text)) for number, text in read_lines(path)]
    find = _folder_finder(folders)
    plain = [_read_line(number, text, text, find) for number, text in texts]
    numbered = [
        _read_line(number, text, match[1] if (match := NUMBERED.fullmatch(text)) else text, find)
        for number, text in texts
    ]
    lines = _drop_doubtful(max(plain, numbered, key=_count_fitting))
    by_folder: dict[str, Line] = {}
    for line in lines:
        if line.folder is None:
            continue
        if line.folder in by_folder:
            raise UserError(
                f"{path}, line {line.number}: the folder {line.folder!r} is there twice, first in "
                f"line {by_folder[line.folder].number}; drop one line"
            )
        by_folder[line.folder] = line
    names = {folder: line.name or folder for folder, line in by_folder.items()}
    return ClassNames(names, _describe_rest(path.name, lines, names, folders))


Finder = Callable[[str], str | None]
"""Returns the folder that a text names; None where there is none, or several."""


def _folder_finder(folders: Sequence[str]) -> Finder:
    """Return a function that finds a folder by its exact name, else by a similar name."""
    similar: dict[str, list[str]] = {}
    for folder in folders:
        similar.setdefault(fold_name(folder), []).append(folder)

    def find(text: str) -> str | None:
        like = similar.get(fold_name(text), [])
        return text if text in like else like[0] if len(like) == 1 else None

    return find


def _read_line(number: int, text: str, content: str, find: Finder) -> Line:
    """Return the line with the folder and name that its content, without a number, stands for.

    The folder is what is before a tab, the whole content, or the longest beginning that is one.
    """
    line = Line(number, text)
    if "\t" in content:
        before, _, name = content.partition("\t")
        return replace(line, folder=find(before.strip()), name=name.strip())
    if (folder := find(content)) is not None:
        form = CERTAIN if folder == content else SIMILAR
        return replace(line, folder=folder, name=content, form=form)
    for match in reversed(list(SEPARATOR.finditer(content))):
        if (folder := find(content[: match.start()].strip())) is not None:
            rest = content[match.start() :].strip()
            form = CERTAIN if rest[0] in ":,;=" or not match[0].isspace() else BY_WORD
            return replace(line, folder=folder, name=rest.lstrip(" :,;="), form=form)
    return line


def _count_fitting(lines: Sequence[Line]) -> int:
    return sum(line.folder is not None for line in lines)


def _drop_doubtful(lines: Sequence[Line]) -> list[Line]:
    """Return the lines without the folder where another line names it more surely.

    Where most lines are a name alone, a line `sea lion` beside a folder `sea` is a name, too.
    """
    surest: dict[str | None, int] = {}
    for line in lines:
        surest[line.folder] = min(line.form, surest.get(line.folder, BY_WORD))
    by_word = sum(line.form == BY_WORD for line in lines)
    worst = SIMILAR if 2 * by_word < _count_fitting(lines) else BY_WORD
    return [
        line if line.form <= min(worst, surest[line.folder]) else replace(line, folder=None)
        for line in lines
    ]


def _describe_rest(
    file: str, lines: Sequence[Line], names: Mapping[str, str], folders: Sequence[str]
) -> list[str]:
    """Return notes on folders without a line, and on lines without a folder."""
    notes: list[str] = []
    if unnamed := [folder for folder in folders if folder not in names]:
        why = "without a line, named after the folder"
        notes.append(count_note(unnamed, "class folder", why, where=file))
    absent = [line for line in lines if line.folder is None]
    if absent:
        remedy = ""
        if any(line.form == BY_WORD for line in absent):
            remedy = "a name for a folder is to stand after a tab: folder<TAB>name"
        elif not names:
            remedy = f"expected names of folders, such as {folders[0]!r}, or folder<TAB>name"
        texts = [line.text for line in absent]
        why = "without a folder of images, not used"
        notes.append(count_note(texts, "line", why, where=file, remedy=remedy))
    return notes
