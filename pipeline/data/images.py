"""Images without any label, for `predict`: a file, a folder, a glob, or a list of these.

    images=photos/                   a folder, with all below it
    images="photos/*.jpg"            a glob; ** goes through folders
    images=[a.jpg,b.png,photos/]     a list
    images=list.txt                  a text of paths, a line each; also .csv, .lst or another ending
    images=photos.zip                a zip or tar archive, read without unpacking
    images=s3://bucket/photos        an address: s3://, gs://, https:// by label2box[remote]

`images=` is short for `data.paths=`. In folders and globs, files are used whose suffix or content
is that of an image. A file that is named directly is tried unless its content is of another type.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pipeline.data import image_search, listing
from pipeline.data.doubtful_files import count_doubtful
from pipeline.data.intensity import RangeOption
from pipeline.data.left_out import (
    BACKUP,
    LINK_TO_NOTHING,
    NAMED_AGAIN,
    NOT_A_FILE,
    RESULTS,
    RESULTS_FILE,
    SAME_NAME,
    SYSTEM_FILE,
    LeftOut,
    Reason,
)
from pipeline.data.listing import File, Listing, OnDisk, Splits
from pipeline.data.path_list import (
    find_path,
    is_comment,
    is_path_list,
    read_path_list,
    shorten,
)
from pipeline.data.stored_folder import list_images
from pipeline.data.system_files import describe_system_folder, is_system_file, original_of_backup
from pipeline.errors import UserError
from pipeline.formats import signature, stored
from pipeline.formats.archives import is_archive
from pipeline.formats.files import find_spelling
from pipeline.ops.text import printable
from pipeline.types import CocoIds, GroundTruth, Split

OPTION = "images= (data.paths=)"  # two names of the option; the class cannot know which was used


@dataclass(frozen=True)
class Images(OnDisk):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of unlabelled images, all in split `val`.

    Args:
        paths: A file, a folder, an archive, a glob, a text file of paths, an address, or a list of
            these.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of these images.
        no_data: Values of such pixels that stand for no measurement, and become black.

    Raises:
        UserError: An option is out of range, or, once images are asked for, there is none.
    """

    paths: str | Sequence[str]
    size: int | tuple[int, int] = 224
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._parse_image_options()
        # An empty path would be the working directory.
        if any(not str(path).strip() for path in self._paths):
            raise UserError(
                f"{OPTION}: an empty path; expected an image file, a folder, a glob, a text file "
                "of paths, or a list of these; images=. is the working directory"
            )

    @property
    def _paths(self) -> list[str]:
        return [self.paths] if isinstance(self.paths, str) else list(self.paths)

    @property
    def classes(self) -> tuple[str, ...]:
        """No class."""
        return ()

    @cached_property
    def splits(self) -> Splits:
        """All images in `val`, each once, in the order in which the paths name them.

        Raises:
            UserError: the paths hold no image, or a path is in a folder with results.
        """
        left_out = LeftOut()
        paths = self._paths
        for path in paths:
            if left_out.is_in_results(os.path.expanduser(path)):
                image_search.refuse_results(f"{OPTION}: {path!r}", os.path.expanduser(path))
        sources = [source for path in paths for source in _resolve(path, left_out)]
        files = _list_once(sources, left_out)
        notes = left_out.notes()
        if not files:
            looked = ", ".join(map(repr, paths)) or "an empty list"
            why = "".join(f"\n  {note}" for note in notes[:10])
            raise UserError(
                f"{OPTION}: no image in {looked} (seen from {os.getcwd()}); expected an image "
                f"file, a folder, a glob, a text file of paths, or a list of these{why}"
            )
        named = _name_below([source for source in sources if source.files], files)
        files, same_names = listing.make_ids_unique(named)
        left_out.add_all(SAME_NAME, same_names)
        notes = left_out.notes()
        empty = Listing([], [], ())
        return Splits(empty, empty, Listing(files, [-1] * len(files), ()), notes)

    def coco_names(self, split: Split) -> CocoIds:
        """Return image numbers from 1 on, ids as file names, and no category."""
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, ())

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return no annotations."""
        return {}

    def truth_notes(self) -> list[str]:
        """Return no notes."""
        return []

    def truth_fingerprint(self, split: Split) -> str:
        """Return `none`, as there are no annotations."""
        return "none"


@dataclass(frozen=True)
class Source:
    """Image files that a path stands for.

    Attributes:
        folder: An absolute path that all files are below.
        files: In the order of their names.
    """

    folder: str
    files: Sequence[File]


def _name_below(sources: Sequence[Source], files: Sequence[File]) -> list[File]:
    """Return files whose ids are paths below the folder that all have in common.

    Files of equal names differ by it. Addresses and paths have none in common: ids begin with the
    last part of each, or with all of it where these are equal.
    """
    folders = {source.folder.rstrip("/") for source in sources}
    if len(folders) > 1 and any(map(stored.is_address, folders)):
        names = {folder.rpartition("/")[2] for folder in folders}
        cut = {
            folder: len(folder.rpartition("/")[0]) + 1 if len(names) == len(folders) else 0
            for folder in folders
        }
    else:
        common = next(iter(folders)) if len(folders) == 1 else os.path.commonpath(folders)
        cut = dict.fromkeys(folders, len(common.rstrip("/")) + 1)
    start = {
        file.path: cut[source.folder.rstrip("/")] for source in sources for file in source.files
    }
    return [
        File(
            printable(file.path[start[file.path] :])
            if stored.is_local(file.path)
            else file.id[start[file.path] :],
            file.path,
            file.stamp,
        )
        for file in files
    ]


def _list_once(sources: Sequence[Source], left_out: LeftOut) -> Sequence[File]:
    """Return the files of all sources, each once, whichever paths and links name it."""
    by_path: dict[str, File] = {}
    for file in (file for source in sources for file in source.files):
        if file.path in by_path:
            left_out.add(NAMED_AGAIN, file.id)
        by_path.setdefault(file.path, file)
    files = list(by_path.values())
    return image_search.drop_repeated({"": files}, left_out, len(sources) > 1)[""]


def _resolve(path: str, left_out: LeftOut, within_list: bool = False) -> Iterator[Source]:
    """Yield the image files that a path stands for. Count what cannot be used."""
    if stored.is_address(path):
        yield _list_archive(path.rstrip("/"), left_out)
        return
    path = str(find_spelling(Path(os.path.abspath(os.path.expanduser(path)))))
    if os.path.isdir(path):
        if left_out.is_in_results(path):
            left_out.add_unsearched(RESULTS, printable(path))
            return
        files = image_search.search(path, printable(path), left_out).files
        count_doubtful((file.id for file in files), left_out)
        yield Source(path, files)
    elif os.path.isfile(path):
        # A list within a list is not read as a list: it might name itself.
        if not within_list and is_path_list(path):
            yield from _read_list(path, left_out)
        elif not within_list and is_archive(path):
            yield _list_archive(path, left_out)
        else:
            yield Source(os.path.dirname(path), list(_list_named(path, left_out)))
    elif glob.has_magic(path) and not os.path.lexists(path):
        yield from _expand_pattern(path, left_out)
    elif os.path.lexists(path):
        is_link = os.path.islink(path)
        reason = LINK_TO_NOTHING if is_link else Reason("file", "neither a file nor a folder")
        left_out.add(reason, printable(path))
    else:
        left_out.add(Reason("file", "no such file or folder"), printable(path))


def _list_archive(location: str, left_out: LeftOut) -> Source:
    """Return the images of an archive or below an address; their ids begin with the location."""
    contents = list_images(location, left_out)
    if contents.is_single:  # the address of an image
        (file,) = contents.files
        return Source(os.path.dirname(location), [replace(file, id=location)])
    count_doubtful((file.id for file in contents.files), left_out)
    return Source(location, [replace(file, id=f"{location}/{file.id}") for file in contents.files])


def _read_list(path: str, left_out: LeftOut) -> Iterator[Source]:
    """Yield the image files that the lines of a text file stand for."""
    missing = Reason(
        "line", f"of {printable(path)}, no such file or folder",
        f"expected a path a line, relative to the list or to {os.getcwd()}",
    )  # fmt: skip
    for texts in read_path_list(Path(path)):
        place = find_path(texts, os.path.dirname(path))
        if place is not None:
            yield from _resolve(place, left_out, within_list=True)
        elif not is_comment(texts[0]):
            left_out.add(missing, shorten(texts[0]))


def _expand_pattern(pattern: str, left_out: LeftOut) -> Iterator[Source]:
    """Yield the image files that a glob stands for, below the last folder that is no pattern."""
    fixed, pattern = _split_pattern(pattern)
    matches = sorted(glob.glob(pattern, root_dir=fixed, recursive=True))
    if not matches and "[" in pattern:  # brackets of a name, as in "IMG [1]*.jpg"
        matches = sorted(glob.glob(pattern.replace("[", "[[]"), root_dir=fixed, recursive=True))
    if not matches:
        why = "a glob that matches nothing"
        left_out.add(Reason("file", why), printable(os.path.join(fixed, pattern)))
    skipped: set[str] = set()
    for match in (name for name in matches if name):
        path = os.path.join(fixed, match)
        if _is_in_skipped_folder(fixed, match, skipped, left_out):
            continue
        if os.path.isdir(path):
            # A `**` at the end also matches all that is in the folders.
            if not pattern.endswith("**"):
                sources = list(_resolve(path, left_out))
                yield Source(fixed, [file for source in sources for file in source.files])
        elif _is_image(path, left_out):
            yield Source(fixed, list(_list_file(path, left_out)))


def _split_pattern(pattern: str) -> tuple[str, str]:
    """Split a glob into the folder that exists as it is written, and the pattern below it."""
    parts = pattern.split("/")
    for end in range(len(parts) - 1, 0, -1):
        folder = "/".join(parts[:end]) or "/"
        if os.path.isdir(folder):
            return folder, "/".join(parts[end:])
    return "/", pattern.lstrip("/")


def _is_in_skipped_folder(fixed: str, match: str, skipped: set[str], left_out: LeftOut) -> bool:
    """Return whether a match is in, or is, a folder that is not searched. Count the folder once.

    Args:
        fixed: The folder that the glob is in.
        match: The path below it.
        skipped: The folders that are counted already; a new one is added.
        left_out: Where they are counted.
    """
    folder, parent = fixed, os.path.basename(fixed)
    parts = match.rstrip("/").split("/")
    for number, part in enumerate(parts):
        folder = os.path.join(folder, part)
        if number == len(parts) - 1 and not os.path.isdir(folder):
            return False
        content = describe_system_folder(part, parent)
        is_results = not content and left_out.is_in_results(folder)
        if content or is_results:
            if folder not in skipped:
                skipped.add(folder)
                if content:
                    left_out.add_system_folder(printable(folder), content)
                else:
                    left_out.add_unsearched(RESULTS, printable(folder))
            return True
        parent = part
    return False


def _is_image(path: str, left_out: LeftOut) -> bool:
    """Return whether a file that a glob matches is an image that is used. Count it if not."""
    name = printable(path)
    if is_system_file(os.path.basename(path)):
        left_out.add(SYSTEM_FILE, name)
    elif os.path.islink(path) and left_out.is_in_results(path):
        left_out.add(RESULTS_FILE, name)
    elif os.path.lexists(original_of_backup(path)):
        left_out.add(BACKUP, name)
    elif image_search.is_image_name(os.path.basename(path)):
        return True
    elif not os.path.isfile(path):
        left_out.add(LINK_TO_NOTHING if os.path.islink(path) else NOT_A_FILE, name)
    else:
        try:
            return image_search.is_image_content(path, name, left_out)
        except OSError as error:
            left_out.add_error(name, error)
    return False


def _list_named(path: str, left_out: LeftOut) -> Iterator[File]:
    """Yield a file that is named directly, which is tried unless it is of a type that is not read.

    A file of an unknown type is tried, too.
    """
    if left_out.is_in_results(path):
        left_out.add(RESULTS_FILE, printable(path))
        return
    if not image_search.is_image_name(os.path.basename(path)):
        try:
            file_type = signature.identify(path)
        except OSError:
            file_type = None  # what is wrong is said where it is listed or read
        if file_type is not None and file_type.remedy and not file_type.is_readable:
            left_out.add_type(printable(path), file_type)
            return
    yield from _list_file(path, left_out)


def _list_file(path: str, left_out: LeftOut) -> Iterator[File]:
    """Yield the file, or count why it cannot be read."""
    try:
        yield File.from_path(printable(path), path)
    except OSError as error:
        left_out.add_error(printable(path), error)
