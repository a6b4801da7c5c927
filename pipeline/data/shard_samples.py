"""Samples of a tar shard in the form of WebDataset: files of one name before its first dot.

    000012.jpg     the image
    000012.cls     its label: a number or a name; or .json with a field of it, or .txt

Labels are read while the shard is indexed; images are read alone later. What was found is kept as
the lists of archives are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.data.archive_files import ArchiveFiles, get_stamp, read_kept
from pipeline.data.file_table import join_names
from pipeline.data.listing import SUFFIXES
from pipeline.data.table_values import parse_labels
from pipeline.errors import UserError
from pipeline.formats import stored
from pipeline.formats.archives import Contents, read_archive
from pipeline.formats.odd_records import BadRecord
from pipeline.ops.text import printable

LABEL_KEYS = ("cls", "json", "txt")  # in this order, where the option names none
LABEL_FIELDS = ("label", "labels", "cls", "class", "class_name", "category")


@dataclass(frozen=True)
class SampleOptions:
    """Where the image and the label of a sample are.

    Attributes:
        image_key: The ending of images; None: the first that is of an image format.
        label_key: The ending of the files of labels; None: the first of LABEL_KEYS.
        label_field: The field of a JSON file; None: the first of LABEL_FIELDS.
    """

    image_key: str | None = None
    label_key: str | None = None
    label_field: str | None = None

    def is_label(self, ending: str) -> bool:
        """Return whether a file of an ending, which is `a.b` for `name.a.b`, may hold a label."""
        return ending == self.label_key if self.label_key else ending in LABEL_KEYS

    def is_image(self, ending: str) -> bool:
        """Return whether a file of an ending may be the image."""
        if self.image_key:
            return ending == self.image_key
        return f".{ending.rpartition('.')[2].lower()}" in SUFFIXES


@dataclass(frozen=True)
class Shard:
    """The samples of a shard.

    Attributes:
        files: Their images.
        labels: The labels of each, as the shard has them; none where it has none.
        odd: Names of samples by why they are left out, or what is odd about them.
    """

    files: ArchiveFiles
    labels: Sequence[tuple[str, ...]]
    odd: Mapping[str, Sequence[str]]


@dataclass
class _Sample:
    """Rows of the files of a sample: of images and of labels, by their endings."""

    images: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)


def split_name(name: str) -> tuple[str, str]:
    """Return what all files of a sample have in common, and the ending of a file.

    Args:
        name: Of a file in a shard.

    Examples:
        >>> split_name("./a.b/000012.seg.png")
        ('./a.b/000012', 'seg.png')
    """
    folder, slash, base = name.rpartition("/")
    start, _, ending = base.partition(".")
    return f"{folder}{slash}{start}", ending


def read_shard(location: str, options: SampleOptions) -> Shard:
    """Return the samples of a shard, as they are kept where it did not change.

    Args:
        location: A path or an address.
        options: Where image and label are.

    Raises:
        UserError: The shard cannot be read.
    """
    location = location if stored.is_address(location) else os.path.abspath(location)
    stamp = get_stamp(location)

    def read() -> dict[str, Any]:
        contents = read_archive(location, lambda name: options.is_label(split_name(name)[1]))
        return _collect(contents, options)

    kept = read_kept(location, stamp, repr(options), read)
    about = json.loads(kept["about"].tobytes())
    names = kept["names"].tobytes()
    raw = os.fsdecode(names).split("\0") if len(kept["numbers"]) else []
    files = ArchiveFiles(location, stamp, raw, kept["numbers"], kept["notes"])
    texts = [tuple(labels) for labels in about["labels"]]
    return Shard(files, [texts[n] for n in kept["codes"].tolist()], about["odd"])


def _collect(contents: Contents, options: SampleOptions) -> dict[str, Any]:
    """Return the samples of a shard as arrays."""
    odd: dict[str, list[str]] = {}
    rows, codes, numbers = list[int](), list[int](), dict[tuple[str, ...], int]()
    for name, sample in _group(contents, options, odd).items():
        if not sample.images:
            if sample.labels:
                odd.setdefault("without an image", []).append(name)
            continue
        ending = min(sample.images, key=lambda each: (each.count("."), sample.images[each]))
        try:
            labels = _read_labels(contents, sample, options)
        except BadRecord as error:
            odd.setdefault(str(error), []).append(name)
            continue
        rows.append(sample.images[ending])
        codes.append(numbers.setdefault(labels, len(numbers)))
    about = json.dumps({"labels": [*map(list, numbers)], "odd": odd})
    return {
        "names": np.frombuffer(join_names(contents.names[row] for row in rows), np.uint8),
        "numbers": contents.numbers()[rows],
        "codes": np.array(codes, np.int32),
        "about": np.frombuffer(about.encode(), np.uint8),
        "notes": list(contents.notes),
    }


def _group(
    contents: Contents, options: SampleOptions, odd: dict[str, list[str]]
) -> dict[str, _Sample]:
    """Return the files of each sample, in the order of the shard."""
    samples: dict[str, _Sample] = {}
    for row, name in enumerate(contents.names):
        key, ending = split_name(name)
        if not ending or key.endswith("/") or not key:  # hidden, or without an ending
            continue
        is_image, is_label = options.is_image(ending), options.is_label(ending)
        if not (is_image or is_label):
            continue
        sample = samples.setdefault(printable(key), _Sample())
        kinds = sample.images if is_image else sample.labels
        if ending in kinds:
            reason = "with two files of the same name: the first counts"
            odd.setdefault(reason, []).append(printable(name))
            continue
        kinds[ending] = row
    return samples


def _read_labels(contents: Contents, sample: _Sample, options: SampleOptions) -> tuple[str, ...]:
    """Return the labels of a sample, none where it has no file of them."""
    wanted = (options.label_key,) if options.label_key else LABEL_KEYS
    ending = next((key for key in wanted if key in sample.labels), None)
    if ending is None:
        return ()
    data = contents.contents[sample.labels[ending]]
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise BadRecord(f"whose .{ending} is no UTF-8 text") from None
    if not ending.endswith("json"):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return parse_labels(lines if len(lines) > 1 else text)
    try:
        content = json.loads(text)
    except ValueError:
        raise BadRecord(f"whose .{ending} is no JSON") from None
    return _take_field(content, ending, options.label_field)


def _take_field(content: Any, ending: str, wanted: str | None) -> tuple[str, ...]:
    """Return the labels in a JSON value: itself, or a field of it."""
    if not isinstance(content, Mapping):
        return parse_labels(content)
    fields = (wanted,) if wanted else LABEL_FIELDS
    name = next((each for each in fields if each in content), None)
    if name is None:
        has = ", ".join(map(repr, list(content)[:5])) or "none"
        looked = " or ".join(map(repr, fields[:2]))
        raise BadRecord(f"whose .{ending} has no field {looked} (has {has}; data.label_field)")
    return parse_labels(content[name])


def check_image_key(shards: Sequence[Shard], options: SampleOptions) -> None:
    """Raise UserError where no shard has an image.

    Args:
        shards: All shards.
        options: Where images are.

    Raises:
        UserError: There is no image.
    """
    if any(len(shard.labels) for shard in shards):
        return
    given = f"data.image_key={options.image_key}" if options.image_key else "no image format"
    reasons = {f"{len(names)} samples {why}" for each in shards for why, names in each.odd.items()}
    notes = [note for shard in shards for note in shard.files.notes]
    lines = "".join(f"\n  {line}" for line in [*sorted(reasons), *notes][:10])
    raise UserError(
        f"{shards[0].files.location}: no image can be used in {len(shards)} shards: no file ends "
        f"in {given}; expected name.jpg beside name.cls, name.json or name.txt{lines}"
    )
