r"""Image names as exporters write them, matched with the images that are here by their longest end.

Exporters write `file_name` as a path of the machine or the storage that the images were on:

    C:\photos\val\a.png               s3://bucket/val/a.png         /data/local-files/?d=val/a.png
    https://host/val/a.png?token=x   /data/upload/1/1a2b3c4d-a.png   a_png.rf.0123456789abcdef.png
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.ops.text import printable, spell_out, to_nfc

ENDINGS = {"jpeg": "jpg", "jpe": "jpg", "tiff": "tif"}  # two names of a format
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio's, before the name of the file
ROBOFLOW = re.compile(r"^(.+)_(jpe?g|png|bmp|webp|tiff?|gif)\.rf\.[0-9A-Za-z]+\.\w+$", re.I)
IMAGE_ENDING = re.compile(
    r"(?<=[^/])\.(jpe?g|jpe|jfif|png|bmp|webp|tiff?|gif|hei[cf]|avif|jp2|jxl|pgm|ppm|dng)$", re.I
)
SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Match:
    """The images that a name can mean.

    Attributes:
        ids: None, one, or several where the name is ambiguous.
        rank: How much of the name fits: 3, the whole id; 2, the end of an id; 1, an end of the name
            alone; 0, such an end without the ending of the file; a fraction grows with the length
            of that end.
    """

    ids: Sequence[str] = ()
    rank: float = 0.0

    @property
    def is_literal(self) -> bool:
        """Whether the name stands there as it is."""
        return self.rank >= 2

    @property
    def has_other_ending(self) -> bool:
        """Whether the name fits but for the ending of the file."""
        return bool(self.ids) and self.rank < 1


class NameIndex:
    """Images by the ends of their paths.

    Args:
        ids: The images that an end may match.
        known: The ids of all images, which a whole name may match; None: those of `ids`.
    """

    def __init__(self, ids: Sequence[str], known: Iterable[str] | None = None) -> None:
        self.known = set(ids if known is None else known)
        self._ends: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        self._folders: set[str] = set()
        for id in dict.fromkeys(ids):
            parts = id.split("/")
            for n in range(len(parts)):
                end = "/".join(parts[n:])
                if n:
                    self._ends.setdefault(end, []).append(id)
                self._folded.setdefault(_fold(end), []).append(id)
                self._stems.setdefault(_drop_ending(_fold(end)), []).append(id)
        for id in self.known:
            self._folders.update(_fold(part) for part in id.split("/")[:-1])

    def find(self, name: str) -> Match:
        """Return the images that a name means: as it stands there, else by its longest end.

        The end must be the only one of its kind. A folder that the data set has elsewhere is no
        part that can be left away: `train/red/0.png` is not `val/red/0.png`.

        Args:
            name: As a file has it.
        """
        literal = name.removeprefix("./")
        # Two files may have the same name in NFC: one of them has the spelled-out id. A file that
        # this project wrote has printable ids, others the names as they are.
        spellings = (spell_out(literal), literal, to_nfc(literal), printable(literal))
        for text in spellings:
            if text in self.known:
                return Match([text], 3)
            if text in self._ends:
                return Match(self._ends[text], 2)
        for parts in dict.fromkeys(spell(name)):
            match = self._find_end(parts)
            if match.ids:
                return match
        # Photographs are converted after they were annotated, and some tools drop the ending.
        for parts in dict.fromkeys(spell(name)):
            stem = (*parts[:-1], _drop_ending(parts[-1]))
            match = self._find_end(stem, self._stems)
            if match.ids:
                return Match(match.ids, match.rank - 1)
        return Match()

    def _find_end(
        self, parts: Sequence[str], by_end: Mapping[str, Sequence[str]] | None = None
    ) -> Match:
        """Return the images with the longest end of a path that any image has."""
        by_end = self._folded if by_end is None else by_end
        folded = [_fold(part) for part in parts]
        for n in range(len(parts)):
            ids = by_end.get("/".join(folded[n:]), [])
            if ids:
                if n:
                    ids = [id for id in ids if not self._differs(folded[n - 1], id, len(parts) - n)]
                end = "/".join(parts[n:])
                same_case = [id for id in ids if f"/{id}".endswith(f"/{end}")]
                chosen = same_case if len(same_case) == 1 else ids
                return Match(chosen, 1 + (len(parts) - n) / 1000 if chosen else 0)
        return Match()

    def _differs(self, folder: str, id: str, length: int) -> bool:
        """Return whether the folder before an end is another folder of the data set.

        Args:
            folder: The part of the name before the end.
            id: The image that the end matches.
            length: How many parts the end has.
        """
        inside = [_fold(part) for part in id.split("/")[:-1]]
        return len(inside) >= length and folder in self._folders and folder not in inside


def _drop_ending(text: str) -> str:
    """Return a name without the ending of an image format."""
    return IMAGE_ENDING.sub("", text)


def _fold(text: str) -> str:
    """Return text in which case, Unicode form and two endings of a format are the same."""
    stem, dot, ending = to_nfc(text).casefold().rpartition(".")
    return f"{stem}{dot}{ENDINGS.get(ending, ending)}"


def spell(name: str) -> Iterator[tuple[str, ...]]:
    """Yield the paths that a name can stand for, the most literal first, as their parts.

    Args:
        name: As a file has it.

    Examples:
        >>> list(spell("s3://photos/val/a%20b.png"))
        [('photos', 'val', 'a%20b.png'), ('photos', 'val', 'a b.png')]
    """
    for path in _unwrap(name.strip()):
        parts = tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))
        if not parts:
            continue
        yield parts
        folder, file = parts[:-1], parts[-1]
        if (plain := UPLOAD_PREFIX.sub("", file)) != file:
            yield (*folder, plain)
        if match := ROBOFLOW.match(file):
            yield (*folder, f"{match[1]}.{match[2]}")


def _unwrap(name: str) -> Iterator[str]:
    """Yield the path inside an address, without query, and with its percent signs decoded."""
    paths = [name]
    if SCHEME.match(name) or "?" in name:
        try:
            address = urlsplit(name)
        except ValueError:  # brackets that are no IPv6 address
            address = urlsplit("")
        # Label Studio's local files: /data/local-files/?d=folder/a.png
        inside = [value for values in parse_qs(address.query).values() for value in values]
        wanted = [value for value in inside if re.search(r"\.\w{2,5}$", value)]
        paths = [*wanted, f"{address.netloc}{address.path}", *([] if SCHEME.match(name) else paths)]
    for path in paths:
        yield path
        if (decoded := unquote(path)) != path:
            yield decoded
