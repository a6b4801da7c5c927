"""The annotations of a year of PASCAL VOC, kept as they were read, with the stamp of each file.

17,000 XML files take seconds to parse. What they hold is kept in `$XDG_CACHE_HOME/label2box/` or
~/.cache/label2box/ where there are many, and a file is parsed again where its size or its time of
change is another one than then.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.formats.files import atomic_write, is_settled
from pipeline.formats.odd_records import BadRecord
from pipeline.formats.pascal_voc import VocImage, VocObject, read_voc

VERSION = 2  # of the kept file
MIN_KEPT = 500  # files: fewer are parsed in a tenth of a second

Row = list[Any]
"""Size and time of a file, then what it holds: the image's size, its objects, faults of others and
how these are written; or a text, why it cannot be used."""


class VocAnnotations:
    """The files of Annotations/, each parsed once and again where it changed.

    Args:
        folder: Annotations/ of a year.
        cache: The folder of what is kept; None: nothing is.
    """

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self._prefix = os.path.join(folder, "")
        self._kept = None if cache is None else cache / f"voc-{_key(folder)}.json"
        self._rows: dict[str, Row] = {} if self._kept is None else _load(self._kept)
        self._recent = set[str]()
        self._new = 0

    def read(self, stem: str) -> VocImage:
        """Return the annotation of an image.

        Args:
            stem: The name of the image, without its ending.

        Raises:
            BadRecord: The file cannot be read or is no XML.
            FileNotFoundError: There is none.
        """
        path = f"{self._prefix}{stem}.xml"
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BadRecord(f"that cannot be read ({error.strerror})") from None
        row = self._rows.get(stem)
        if row is None or row[:2] != [stat.st_size, stat.st_mtime_ns]:
            row = [stat.st_size, stat.st_mtime_ns, *_parse(Path(path))]
            self._rows[stem] = row
            self._new += 1
            self._recent.discard(stem)
            if not is_settled(stat.st_mtime_ns):
                self._recent.add(stem)  # it may change again at the same time
        return _to_image(row)

    def keep(self) -> None:
        """Keep what was read, where it is much and something is new."""
        rows = {stem: row for stem, row in self._rows.items() if stem not in self._recent}
        if self._kept is None or not self._new or len(rows) < MIN_KEPT:
            return
        text = json.dumps({"version": VERSION, "rows": rows}, separators=(",", ":"))
        with suppress(OSError):  # without it files are parsed again, which costs time alone
            with atomic_write(self._kept) as temporary:
                temporary.write_text(text, encoding="utf-8")
            self._new = 0


def _key(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]


def _parse(path: Path) -> Row:
    """Return what a file holds, as it is kept. Raise FileNotFoundError where there is none."""
    try:
        image = read_voc(path)
    except BadRecord as error:
        return [str(error)]
    objects = [[each.name, *each.box, each.is_difficult] for each in image.objects]
    return [image.size and [*image.size], objects, [*image.faults], [*image.faulty]]


def _to_image(row: Row) -> VocImage:
    """Return the annotation that a row holds. Raise BadRecord where it cannot be used."""
    content = row[2:]
    if len(content) == 1:
        raise BadRecord(content[0])
    size, objects, faults, faulty = content
    return VocImage(
        None if size is None else (size[0], size[1]),
        [VocObject(name, (x0, y0, x1, y1), hard) for name, x0, y0, x1, y1, hard in objects],
        faults,
        faulty,
    )


def _load(path: Path) -> dict[str, Row]:
    """Return what is kept; nothing where it cannot be used."""
    try:
        kept = json.loads(path.read_bytes())
        if kept["version"] != VERSION or not isinstance(kept["rows"], dict):
            return {}
        return {str(stem): row for stem, row in kept["rows"].items() if len(row) in (3, 6)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
