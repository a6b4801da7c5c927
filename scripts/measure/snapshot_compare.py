"""Compare two run folders file by file, modulo differences and renamings that are listed.

Every value, pixel and array must be equal exactly. What may differ is named by an `Allowed`, what
was renamed by a `Renamed`; nothing else is passed over. A file of a kind that is not known here is
compared byte by byte.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open

PICTURES = (".png", ".jpg", ".jpeg")
TEXTS = (".txt", ".csv", ".html", ".md", ".svg")
MAX_SHOWN = 70  # characters of a value in a message

AllowedKind = Literal[
    "content", "only_old", "only_new", "value", "removed", "added", "text", "line"
]
RenamedKind = Literal["file", "key", "class", "word"]


@dataclass(frozen=True)
class Allowed:
    """A difference that may be.

    Args:
        kind: `content`: the file has to be on both sides, but is not compared.
            `only_old`, `only_new`: the file may be on that side alone.
            `value`: the value at `where` may differ; it has to be on both sides.
            `removed`, `added`: the key at `where`, or the array of that name, may be in the old or
            new file alone; or, with `having`, the list items at `where` (as in `[*]`) that have
            these values.
            `text`: matches of the regular expression `where` in texts and strings are replaced by
            one mark on both sides. `<work>` and `<tree>` stand for the absolute paths of a side.
            `line`: lines of texts that match the regular expression `where` may be in the new file
            alone.
        files: a glob of names relative to the run folder, in the new tree's names.
        reason: why this is no change of behaviour.
        where: a dotted path into the file (`a.b`, `[*]` any item, `*` any key, `**` any path), or
            for `text` and `line` a regular expression.
        having: values that a list item must have, by dotted path.
        jobs: a glob of the jobs whose files these are.
    """

    kind: AllowedKind
    files: str
    reason: str
    where: str = ""
    having: tuple[tuple[str, Any], ...] = ()
    jobs: str = "*"


@dataclass(frozen=True)
class Renamed:
    """What has another name in the new tree.

    Args:
        kind: `file`: one or several components of a file's name, as `plan.json` or `stages/score`,
            where the new tree does not make a file of the old name.
            `key`: a dotted path into the files that `files` names; `[*]` goes through a list.
            `class`: the value of a `_target_`.
            `word`: text in texts and strings of the files that `files` names.
        old: the name in the old tree.
        new: the name in the new tree.
        files: a glob of names relative to the run folder, in the new tree's names.
    """

    kind: RenamedKind
    old: str
    new: str
    files: str = "*"


@dataclass(frozen=True)
class Difference:
    """One difference; `size` is how far two numbers are apart, where they are numbers."""

    file: str
    message: str
    size: float = 0.0

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(frozen=True)
class Side:
    """A run folder, and the absolute paths that may stand in its files: path -> mark."""

    name: Literal["old", "new"]
    folder: Path
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Rules:
    """The tables, how often each entry was needed, and the job that is compared."""

    allowed: Sequence[Allowed] = ()
    renamed: Sequence[Renamed] = ()
    used: Counter[Allowed] = field(default_factory=Counter)
    job: str = ""

    def allow(self, kind: AllowedKind, file: str, where: str = "", item: Any = None) -> bool:
        """Return whether the table allows this difference, and count it."""
        for entry in self.allowed:
            if entry.kind != kind or not self._is_for(entry, file):
                continue
            if entry.where and not path_pattern(entry.where).fullmatch(where):
                continue
            if bool(entry.having) != (item is not None) or not has_values(item, entry.having):
                continue
            self.used[entry] += 1
            return True
        return False

    def new_name(self, file: str) -> str:
        """Return the name that a file of the old tree has in the new one."""
        for entry in self._renamed("file"):
            pattern = rf"(?<![^/]){re.escape(entry.old)}(?![^/])"
            file = re.sub(pattern, entry.new.replace("\\", r"\\"), file)
        return file

    def new_class(self, name: str) -> str:
        """Return the dotted name that a class of the old tree has in the new one."""
        for entry in self._renamed("class"):
            if name == entry.old:
                return entry.new
        return name

    def rename_keys(self, file: str, value: Any) -> None:
        """Move what the old tree keeps under other keys, in place."""
        for entry in self._renamed("key"):
            if fnmatchcase(file, entry.files):
                move_value(value, path_parts(entry.old), path_parts(entry.new))

    def clean(self, file: str, text: str, side: Side) -> str:
        """Return a text with the marks of `Allowed("text")`, and in the new tree's words."""
        if side.name == "old":
            for word in self._renamed("word"):
                if fnmatchcase(file, word.files):
                    text = text.replace(word.old, word.new)
        for entry in self.allowed:
            if entry.kind == "text" and self._is_for(entry, file):
                text, count = text_pattern(entry.where, side).subn("<allowed>", text)
                self.used[entry] += count
            if entry.kind == "line" and side.name == "new" and self._is_for(entry, file):
                lines = text.splitlines(keepends=True)
                kept = [line for line in lines if not re.match(entry.where, line)]
                self.used[entry] += len(lines) - len(kept)
                text = "".join(kept)
        return text

    def _is_for(self, entry: Allowed, file: str) -> bool:
        return fnmatchcase(file, entry.files) and fnmatchcase(self.job, entry.jobs)

    def _renamed(self, kind: RenamedKind) -> Iterator[Renamed]:
        return (entry for entry in self.renamed if entry.kind == kind)


# -- paths into files and patterns ----------------------------------------------------------------


def path_parts(where: str) -> list[str]:
    """Split a dotted path: `a[*].b` has the parts `a`, `[*]`, `b`."""
    return re.findall(r"\[[^\]]*\]|[^.\[]+", where)


@cache
def path_pattern(where: str) -> re.Pattern[str]:
    """Return the regular expression of a dotted path with `[*]`, `*` and `**`."""
    marks = {"[*]": r"\[\d+\]", "**": ".*", "*": r"[^.\[\]]+"}
    parts = re.split(r"(\[\*\]|\*\*|\*)", where)
    return re.compile("".join(marks.get(part, re.escape(part)) for part in parts))


def text_pattern(where: str, side: Side) -> re.Pattern[str]:
    """Return the regular expression of an `Allowed("text")` for one side."""
    for mark in ("<work>", "<tree>"):
        if mark in where:
            # The longest first: one folder may lie in another.
            paths = sorted((p for p, m in side.places.items() if m == mark), key=len, reverse=True)
            some = "|".join(re.escape(path) for path in paths) or r"(?!)"
            where = where.replace(mark, f"(?:{some})")
    return re.compile(where)


def has_values(item: Any, having: Sequence[tuple[str, Any]]) -> bool:
    """Return whether a list item has all these values."""
    if not having:
        return True
    return isinstance(item, dict) and all(value_at(item, path) == value for path, value in having)


def value_at(item: Any, where: str) -> Any:
    """Return the value at a dotted path of keys; None where there is none."""
    for part in where.split("."):
        item = item.get(part) if isinstance(item, dict) else None
    return item


def move_value(value: Any, old: Sequence[str], new: Sequence[str]) -> None:
    """Move a value within nested dicts from the path `old` to `new`, in place, if it is there."""
    if old[0] == new[0] and len(old) > 1 and len(new) > 1:
        if old[0] == "[*]":
            inner = value if isinstance(value, list) else []
        else:
            inner = [value[old[0]]] if isinstance(value, dict) and old[0] in value else []
        for item in inner:
            move_value(item, old[1:], new[1:])
        return
    source = value
    for part in old[:-1]:
        source = source.get(part) if isinstance(source, dict) else None
    if not isinstance(source, dict) or old[-1] not in source:
        return
    moved = source.pop(old[-1])
    for part in new[:-1]:
        value = value.setdefault(part, {})
    value[new[-1]] = moved


# -- folders --------------------------------------------------------------------------------------


def compare_folders(old: Side, new: Side, rules: Rules) -> tuple[int, list[Difference]]:
    """Compare all files below two folders, through links as well.

    Returns:
        How many files both sides have, and the differences.
    """
    new_files = list_files(new.folder)
    old_files = rename_files(list_files(old.folder), new_files, rules)
    differences, count = [], 0
    for name in sorted({*old_files, *new_files}):
        if name not in new_files:
            if not rules.allow("only_old", name):
                differences.append(Difference(name, "only the old tree makes this file"))
        elif name not in old_files:
            if not rules.allow("only_new", name):
                differences.append(Difference(name, "only the new tree makes this file"))
        else:
            count += 1
            differences += compare_files(name, old_files[name], new_files[name], old, new, rules)
    if count == 0:
        differences.append(Difference(".", "there is no file to compare"))
    return count, differences


def rename_files(
    old_files: Mapping[str, Path], new_files: Mapping[str, Path], rules: Rules
) -> dict[str, Path]:
    """Return the old tree's files by the names that the new tree has for them.

    A name that the new tree still uses stays as it is: a tree from before the renaming can be
    compared, too.
    """
    renamed_files: dict[str, Path] = {}
    for name, path in old_files.items():
        renamed = name if name in new_files else rules.new_name(name)
        if renamed in renamed_files:
            raise ValueError(f"two files of the old tree would be called {renamed}: see Renamed")
        renamed_files[renamed] = path
    return renamed_files


def list_files(folder: Path) -> dict[str, Path]:
    """Return all files below a folder by their relative names, through links as well."""
    files = {}
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(place) / name
            files[path.relative_to(folder).as_posix()] = path
    return files


def compare_files(
    name: str, old_path: Path, new_path: Path, old: Side, new: Side, rules: Rules
) -> Iterator[Difference]:
    """Compare one file of both sides by what its kind holds."""
    if rules.allow("content", name):
        return
    suffix = new_path.suffix.lower()
    contents = []
    for path, side in ((old_path, old), (new_path, new)):
        try:
            contents.append(read_file(suffix, path))
        except (ValueError, OSError, yaml.YAMLError, SafetensorError) as error:
            yield Difference(name, f"the {side.name} tree's file cannot be read: {error}")
    if len(contents) < 2:
        return
    if suffix in PICTURES:
        yield from compare_pictures(name, *contents)
    elif suffix in TEXTS:
        yield from compare_texts(
            name, rules.clean(name, contents[0], old), rules.clean(name, contents[1], new)
        )
    elif suffix == ".safetensors":
        yield from compare_arrays(name, contents[0][0], contents[1][0], rules)
        yield from Values(name, old, new, rules).compare_roots(contents[0][1], contents[1][1])
    elif suffix in (".json", ".yaml", ".yml"):
        yield from Values(name, old, new, rules).compare_roots(*contents)
    elif contents[0] != contents[1]:
        yield Difference(name, "the bytes differ")


def read_file(suffix: str, path: Path) -> Any:
    """Read a file: a picture, a text, arrays and notes, a JSON-like value, else its bytes."""
    if suffix in PICTURES:
        try:
            with Image.open(path) as image:
                return image.mode, np.asarray(image)
        except UnidentifiedImageError as error:
            raise ValueError("no picture") from error
    if suffix in TEXTS:
        return path.read_text(encoding="utf-8")
    if suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if suffix in (".yaml", ".yml"):
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    if suffix == ".safetensors":
        with safe_open(str(path), "numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            notes = {key: parse_note(text) for key, text in (file.metadata() or {}).items()}
            return arrays, {"metadata": notes}
    return path.read_bytes()


def parse_note(text: str) -> Any:
    """Return a note of a safetensors file as the JSON value that it is, else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


# -- JSON-like values -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """Compares JSON-like values of one file."""

    file: str
    old: Side
    new: Side
    rules: Rules

    def compare_roots(self, old: Any, new: Any) -> Iterator[Difference]:
        """Compare two whole documents; the old one is brought to the new keys first."""
        self.rules.rename_keys(self.file, old)
        return self.compare(old, new, "")

    def compare(self, old: Any, new: Any, where: str) -> Iterator[Difference]:
        """Compare two values and all within them; types must be the same as well."""
        if where and self.rules.allow("value", self.file, where):
            return
        if isinstance(old, dict) and isinstance(new, dict):
            yield from self._compare_dicts(old, new, where)
        elif isinstance(old, list) and isinstance(new, list):
            yield from self._compare_lists(old, new, where)
        else:
            old, new = self._clean(old, where, self.old), self._clean(new, where, self.new)
            # As text NaN equals NaN, and -0.0 is not 0.0.
            if type(old) is not type(new) or repr(old) != repr(new):
                yield self._differ(where, f"{show(old)} != {show(new)}", distance(old, new))

    def _compare_dicts(
        self, old: Mapping[str, Any], new: Mapping[str, Any], where: str
    ) -> Iterator[Difference]:
        for key in dict.fromkeys([*old, *new]):
            path = f"{where}.{key}" if where else str(key)
            if key not in new:
                if not self.rules.allow("removed", self.file, path):
                    yield self._differ(path, f"only in the old file: {show(old[key])}")
            elif key not in old:
                if not self.rules.allow("added", self.file, path):
                    yield self._differ(path, f"only in the new file: {show(new[key])}")
            else:
                yield from self.compare(old[key], new[key], path)

    def _compare_lists(self, old: list[Any], new: list[Any], where: str) -> Iterator[Difference]:
        old = [x for n, x in enumerate(old) if not self._allow_item("removed", where, n, x)]
        new = [x for n, x in enumerate(new) if not self._allow_item("added", where, n, x)]
        if len(old) == len(new):
            for n, (old_item, new_item) in enumerate(zip(old, new, strict=True)):
                for difference in self.compare(old_item, new_item, f"{where}[{n}]"):
                    yield replace(difference, message=f"{difference.message}{title_of(old_item)}")
            return
        yield self._differ(where, f"{len(old)} items != {len(new)} items")
        texts = [Counter(json.dumps(item, sort_keys=True) for item in each) for each in (old, new)]
        for text in texts[0] - texts[1]:
            yield self._differ(where, f"only in the old file: {show(text)}")
        for text in texts[1] - texts[0]:
            yield self._differ(where, f"only in the new file: {show(text)}")

    def _allow_item(self, kind: AllowedKind, where: str, number: int, item: Any) -> bool:
        return isinstance(item, dict) and self.rules.allow(
            kind, self.file, f"{where}[{number}]", item
        )

    def _clean(self, value: Any, where: str, side: Side) -> Any:
        if not isinstance(value, str):
            return value
        if side.name == "old" and path_parts(where)[-1:] == ["_target_"]:
            value = self.rules.new_class(value)
        return self.rules.clean(self.file, value, side)

    def _differ(self, where: str, message: str, size: float = 0.0) -> Difference:
        return Difference(self.file, f"{where or 'the whole'}: {message}", size)


def title_of(item: Any) -> str:
    """Return the name of a list item in brackets, as its number alone says little."""
    known = item if isinstance(item, dict) else {}
    names = [known[key] for key in ("name", "id") if isinstance(known.get(key), str)]
    return f" ({names[0]})" if names else ""


def show(value: Any) -> str:
    """Return a value as JSON-like text, cut to a length that fits a line."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def distance(old: Any, new: Any) -> float:
    """Return how far two numbers are apart; 0 for what is no number."""
    numbers = [v for v in (old, new) if isinstance(v, int | float) and not isinstance(v, bool)]
    return abs(float(numbers[0]) - float(numbers[1])) if len(numbers) == 2 else 0.0


# -- arrays, pictures, texts ----------------------------------------------------------------------


def compare_arrays(
    file: str,
    old: Mapping[str, np.ndarray[Any, Any]],
    new: Mapping[str, np.ndarray[Any, Any]],
    rules: Rules,
) -> Iterator[Difference]:
    """Compare named arrays: type, shape and each byte."""
    for name in sorted({*old, *new}):
        if name not in new or name not in old:
            side = "old" if name in old else "new"
            if rules.allow("removed" if side == "old" else "added", file, name):
                continue
            yield Difference(file, f"array {name}: only in the {side} file")
            continue
        old_values, new_values = old[name], new[name]
        if (old_values.dtype, old_values.shape) != (new_values.dtype, new_values.shape):
            yield Difference(
                file,
                f"array {name}: {old_values.dtype} {old_values.shape} != "
                f"{new_values.dtype} {new_values.shape}",
            )
        elif old_values.tobytes() != new_values.tobytes():
            different = np.asarray(old_values != new_values) & ~(
                (old_values != old_values) & (new_values != new_values)
            )
            apart = np.abs(old_values.astype(np.float64) - new_values.astype(np.float64))
            size = float(np.nanmax(apart, initial=0.0))
            message = (
                f"{int(different.sum())} of {old_values.size} values differ, by at most {size:g}"
            )
            yield Difference(file, f"array {name}: {message}", size)


def compare_pictures(
    file: str,
    old: tuple[str, np.ndarray[Any, Any]],
    new: tuple[str, np.ndarray[Any, Any]],
) -> Iterator[Difference]:
    """Compare decoded pictures: mode, size and each pixel."""
    if (old[0], old[1].shape) != (new[0], new[1].shape):
        yield Difference(file, f"picture {old[0]} {old[1].shape} != {new[0]} {new[1].shape}")
        return
    apart = np.abs(old[1].astype(np.int64) - new[1].astype(np.int64))
    if apart.any():
        pixels = apart.reshape(*apart.shape[:2], -1).max(2)
        message = f"{int((pixels > 0).sum())} of {pixels.size} pixels differ, by at most "
        yield Difference(file, f"{message}{int(apart.max())} of 255", float(apart.max()))


def compare_texts(file: str, old: str, new: str) -> Iterator[Difference]:
    """Compare texts line by line."""
    if old == new:
        return
    lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    blocks = difflib.SequenceMatcher(None, *lines, autojunk=False).get_opcodes()
    for _, a, b, c, d in (block for block in blocks if block[0] != "equal"):
        for n, (old_line, new_line) in enumerate(zip_longest(lines[0][a:b], lines[1][c:d])):
            yield Difference(file, f"line {c + n + 1}: {show_change(old_line, new_line)}")


def show_change(old: str | None, new: str | None) -> str:
    """Return the part of two lines from shortly before the place where they begin to differ."""
    if old is None or new is None:
        side, line = ("new", new) if old is None else ("old", old)
        return f"only in the {side} file: {show(repr(line))}"
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    start = max(0, same - 20)
    return f"{show(repr(old[start:]))} != {show(repr(new[start:]))}"
