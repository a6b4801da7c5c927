"""What the search for images left out or read in another way, counted by reason over a data set."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from pipeline.formats.results_folder import find_results_folder
from pipeline.formats.signature import FileType
from pipeline.ops.text import list_some
from pipeline.types import Note
from pipeline.types.notes import MAX_NAMES

# Files that lie beside images in many data sets. They are counted without a look into them.
DATA_ENDING_LIST = """
    aae arrow bash bat bib c cfg cpg cpp css csv db dbf doc docx feather flac geojson gpx h
    h5 hdf5 html htm idx ini ipynb java jgw js json jsonl kml lmdb log lrcat lst m m4a mat md
    mdb mp3 names ndjson npy npz odp ods odt ogg ogx onnx opus parquet pgw pickle pkl pl ppt
    pptx prj pt pth py pyc r rst rtf safetensors sbn sbx sh shp shx sidecar sqlite sqlite3 srt
    tex tfrecord tfw tiffw toml tsv txt vtt wav wld xhtml xls xlsx xml xmp yaml yml
"""
DATA_ENDINGS = frozenset(DATA_ENDING_LIST.split())


@dataclass(frozen=True)
class Reason:
    """Why files or folders are left out, or what is done with them.

    Attributes:
        what: The singular of what is counted.
        why: What is wrong with them, or what is done with them.
        remedy: What the user can do; may be empty.
    """

    what: str
    why: str
    remedy: str = ""

    def note(self, names: list[str]) -> Note:
        """Return the line about files or folders of these names."""
        ending = f"; {self.remedy}" if self.remedy else ""
        if len(names) == 1 and self.what in ("file", "folder", "link"):
            return Note(f"{names[0]}: {self.why}{ending}", names)
        return Note(f"{list_some(names, self.what)}: {self.why}{ending}", names)


LINK_BACK = Reason("folder", "a link back to a folder above it, not followed")
ELSEWHERE = "the files are elsewhere: git annex get, or download them"
LINK_TO_NOTHING = Reason("link", "a link to nothing, left out", ELSEWHERE)
NOT_A_FILE = Reason("file", "not a file, left out")
RESULTS = Reason(
    "results folder", "written by label2box, its pictures are no photographs: not searched"
)
RESULTS_FILE = Reason("picture", "in a results folder of label2box, no photograph: left out")
HIDDEN_FOLDER = Reason(
    "hidden folder", "not searched", "rename those that hold photographs, without the leading dot"
)
HIDDEN_FILE = Reason(
    "hidden file", "left out", "rename those that are photographs, without the leading dot"
)
SYSTEM_FILE = Reason("system file", "left out")
BACKUP = Reason("backup file", "left out, as the file itself lies beside it")
BY_CONTENT = Reason("image", "read, as the content is an image although the ending is of none")
REPEATED = Reason("link", "another path of a file that is used already: counted once")
NAMED_AGAIN = Reason("path", "named more than once: counted once")
SEVERAL_CLASSES = Reason(
    "image", "the same file in several classes by links: used for each of them"
)
EMPTY_CLASS = Reason("class folder", "no image in it, left out")
LOOSE = Reason("image", "in no class folder, left out", "move each into the folder of its class")
SAME_NAME = Reason(
    "image",
    "the name of another in a second Unicode form: both are used, it under this id",
    "rename or remove it",
)
TRAINED_AND_SCORED = Reason(
    "image",
    "the same file is trained on and scored: its score says nothing of new images",
    "score other images",
)


def without_results(notes: Iterable[str]) -> list[str]:
    """Return the notes of a data set without those about results folders of label2box.

    A run whose outputs lie below the data adds to these, and changes nothing that is read.

    Args:
        notes: Lines of `LeftOut.notes`, and others.
    """
    return [note for note in notes if RESULTS.why not in note and RESULTS_FILE.why not in note]


@dataclass
class LeftOut:
    """What the searches of a data set left out.

    Attributes:
        names: Which files and folders, by reason, in the order in which the reasons came up.
        other_files: The first MAX_NAMES files of other kinds.
        endings: How many there are of each ending.
        links: Listed files that may have another path: whether a symbolic link led to them. They
            have several hard links where none did.
        unsearched: How many folders could not be searched, or hold results.
        tables: Absolute paths of files that are read though they are no images: boxes, class names.
        searched: The folders that were searched, and their times of change in ns before.
    """

    names: dict[Reason, list[str]] = field(default_factory=dict)
    other_files: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    links: dict[str, bool] = field(default_factory=dict)
    unsearched: int = 0
    tables: Collection[str] = ()
    searched: dict[str, int] = field(default_factory=dict)
    _results: dict[str, str | None] = field(default_factory=dict)

    def add(self, reason: Reason, name: str) -> None:
        """Count a file or folder.

        Args:
            reason: Why it is left out, or what is done with it.
            name: Which it is.
        """
        self.names.setdefault(reason, []).append(name)

    def add_all(self, reason: Reason, names: Iterable[str]) -> None:
        """Count files or folders.

        Args:
            reason: Why they are left out, or what is done with them.
            names: Which they are; none: nothing is counted.
        """
        for name in names:
            self.add(reason, name)

    def add_unsearched(self, reason: Reason, name: str) -> None:
        """Count a folder that could not be searched, or holds results."""
        self.unsearched += 1
        self.add(reason, name)

    def add_system_folder(self, name: str, content: str) -> None:
        """Count a folder of a system or program, by what it holds."""
        self.add(Reason("system folder", f"{content}, not searched"), name)

    def add_error(self, name: str, error: OSError) -> None:
        """Count a file that cannot be looked at, or a link that leads to itself."""
        if error.errno == errno.ELOOP:
            self.add(LINK_TO_NOTHING, name)
        else:
            why = f"cannot be looked at ({error.strerror}), left out"
            self.add(Reason("file", why), name)

    def add_type(self, name: str, file_type: FileType) -> None:
        """Count a file of a type that is not read."""
        self.add(Reason(file_type.name, "not read", file_type.remedy), name)

    def add_other(self, name: str) -> None:
        """Count a file that is no image, by its ending."""
        self.endings[os.path.splitext(name)[1].lower()] += 1
        if len(self.other_files) < MAX_NAMES:
            self.other_files.append(name)

    def is_in_results(self, path: str) -> bool:
        """Return whether a file or folder, or what it is a link to, is in a folder of results."""
        places = {os.path.dirname(os.path.abspath(path)), os.path.dirname(os.path.realpath(path))}
        if os.path.isdir(path):
            places.add(path)
        for place in places:
            if place not in self._results:
                self._results[place] = find_results_folder(place)
        return any(self._results[place] is not None for place in places)

    def notes(self) -> list[str]:
        """Return a line for each reason, and one for all files of other kinds."""
        lines: list[str] = [reason.note(names) for reason, names in self.names.items()]
        if total := self.endings.total():
            kinds = ", ".join(
                f"{count} {ending or 'without an ending'}"
                for ending, count in self.endings.most_common()
            )
            text = f"{total} other file{'s' * (total != 1)} beside the images, not read: {kinds}"
            lines.append(Note(text, self.other_files, total))
        return lines
