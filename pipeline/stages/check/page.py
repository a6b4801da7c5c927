"""The page of a check: findings with remedies, counts, sizes, duplicates, and images to look at.

The page holds all that it shows and loads nothing, so that it can be sent to somebody.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.ops.maps import frame_size
from pipeline.ops.text import format_probability
from pipeline.plotting.boxes import encode_jpeg
from pipeline.stages.check.duplicates import Duplicates
from pipeline.stages.check.findings import Finding, name_class
from pipeline.stages.check.images import LEARNED, SPLITS, CheckedImages, Measured, count_by_class
from pipeline.stages.check.set_doubts import SetDoubt, record_set_doubt, say_set_doubt

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from pipeline.engine.pictures import Pictures as KeptPictures
    from pipeline.stages.check.doubts import Doubt

CELL = 132  # pixels of a picture's longer side
QUALITY = 80
MAX_GROUPS = 24  # of duplicates that are shown
MAX_OF_GROUP = 6  # images of a group that are shown
MAX_NAMES_SHOWN = 12  # of a finding; check.json has more
MAX_CLASSES = 200  # rows of the table
SIZE_BINS = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # pixels of the longer side

MEANINGS = {
    "train": "learned from",
    "held_back": "a share of the images to train on that selects the best epoch (data.held_back)",
    "calibration": "their boxes choose the threshold; neither learned from nor scored",
    "val": "scored, never learned from",
    "test": "only get boxes; neither learned from nor scored",
}
"""What each split is for."""

Picture = dict[str, str]


class Pictures:
    """Draws images as small pictures for a page, each as a data address.

    Args:
        images: of all splits.
        measured: of each image.
        classes: the names of the classes.
        kept: reads the pictures, and has those of an earlier result.
    """

    def __init__(
        self,
        images: CheckedImages,
        measured: Measured,
        classes: Sequence[str],
        kept: KeptPictures,
    ) -> None:
        self._images, self._measured, self._classes = images, measured, classes
        self._kept = kept
        self._read: dict[int, np.ndarray | None] = {}

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """Return an image at the size of a picture; None where it cannot be read any more.

        Args:
            number: of the image.
        """
        if number not in self._read:
            size = int(self._measured.height[number]), int(self._measured.width[number])
            self._read[number] = self._kept.read(number, frame_size(size, CELL))
        return self._read[number]

    def draw(self, number: int, note: str = "") -> Picture:
        """Return the picture of an image with what is written below it.

        Args:
            number: of the image.
            note: a further line.
        """
        pixels = self.read(number)
        address = ""
        if pixels is not None:
            data = base64.b64encode(encode_jpeg(pixels, QUALITY))
            address = f"data:image/jpeg;base64,{data.decode('ascii')}"
        return {
            "id": self._images.ids[number],
            "class_name": name_class(self._images, number, self._classes),
            "split": self._images.split(number),
            "note": note,
            "address": address,
        }


def count_sizes(measured: Measured) -> list[dict[str, Any]]:
    """Return how many images there are by the length of their longer side."""
    longer = np.maximum(measured.height, measured.width)[measured.is_read]
    ends = [*SIZE_BINS[1:], np.iinfo(np.int32).max]
    counts = [
        int(((longer >= low) & (longer < high)).sum())
        for low, high in zip(SIZE_BINS, ends, strict=True)
    ]
    names = [f"{low} to {high - 1}" for low, high in zip(SIZE_BINS, ends, strict=True)]
    names[0], names[-1] = f"below {SIZE_BINS[1]}", f"{SIZE_BINS[-1]} and more"
    return [{"name": name, "count": k} for name, k in zip(names, counts, strict=True) if k]


def count_modes(measured: Measured) -> list[dict[str, Any]]:
    """Return how many images there are of each kind of pixels, the most frequent first."""
    readable = np.flatnonzero(measured.is_read).tolist()
    counted = Counter(measured.describe_mode(number) for number in readable)
    return [{"name": name, "count": count} for name, count in counted.most_common()]


def summarize(images: CheckedImages, measured: Measured, classes: Sequence[str]) -> dict[str, Any]:
    """Return the counts of check.json: images by split, class, size and kind of pixels.

    Args:
        images: of all splits.
        measured: of each image.
        classes: the names of the classes.
    """
    by_split = count_by_class(images, classes)
    sides = {
        name: values[measured.is_read] for name, values in
        (("height", measured.height), ("width", measured.width))
    }  # fmt: skip
    return {
        "images": len(images),
        "unreadable": int((~measured.is_read).sum()),
        "splits": {split: int(images.is_in(split).sum()) for split in SPLITS
                   if images.is_in(split).any()},
        "classes": {name: {split: int(counts[n]) for split, counts in by_split.items()}
                    for n, name in enumerate(classes)},
        "sizes": {name: {"min": int(side.min()), "median": float(np.median(side)),
                         "max": int(side.max())} for name, side in sides.items() if len(side)},
        "longer_side": count_sizes(measured),
        "modes": count_modes(measured),
    }  # fmt: skip


def describe_duplicates(
    images: CheckedImages, duplicates: Duplicates, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the groups of duplicates as check.json holds them.

    Args:
        images: of all splits.
        duplicates: the groups.
        classes: the names of the classes.
    """
    return [
        {"kind": kind, "images": [
            {"id": images.ids[n], "split": images.split(n),
             "class": name_class(images, n, classes)} for n in group]}
        for kind, groups in (("exact", duplicates.exact), ("near", duplicates.near))
        for group in groups
    ]  # fmt: skip


def render_page(
    template: str,
    *,
    title: str,
    summary: Mapping[str, Any],
    is_multi_label: bool,
    findings: Sequence[Finding],
    groups: Sequence[Mapping[str, Any]],
    more_groups: int,
    doubted: Sequence[Picture],
    sheet: Sequence[Picture],
    notes: Sequence[str],
) -> str:
    """Return the page as HTML.

    Args:
        template: for Jinja.
        title: the name of the data set.
        summary: the counts.
        is_multi_label: whether an image may have several classes.
        findings: the most severe first.
        groups: of duplicates, as `draw_groups` returns them.
        more_groups: how many are not shown.
        doubted: pictures of images whose label is doubted.
        sheet: pictures of images of each class.
        notes: what is unusual about files and folders.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    counts = Counter(finding.severity for finding in findings)
    rows = [(name, row) for name, row in summary["classes"].items() if any(row.values())]
    absent = [name for name, row in summary["classes"].items() if not any(row.values())]
    return environment.from_string(template).render(
        title=title,
        summary=summary,
        counts=counts,
        findings=[
            {**finding.record(), "shown": finding.names[:MAX_NAMES_SHOWN],
             "more": max(0, finding.count - MAX_NAMES_SHOWN)} for finding in findings
        ],
        classes=rows[:MAX_CLASSES],
        more_classes=max(0, len(rows) - MAX_CLASSES),
        absent=absent[:MAX_NAMES_SHOWN],
        absent_count=len(absent),
        is_multi_label=is_multi_label,
        meanings=[(split, MEANINGS[split]) for split in summary["splits"]],
        largest=max([1, *(sum(row.values()) for _, row in rows)]),
        groups=groups,
        more_groups=more_groups,
        doubted=doubted,
        sheet=sheet,
        notes=notes,
    )  # fmt: skip


def select_groups(images: CheckedImages, duplicates: Duplicates) -> list[tuple[str, Sequence[int]]]:
    """Return the kind of each group of duplicates and its images, as a page shows them.

    Groups with several labels come first, then those that are trained on and in other splits, too.

    Args:
        images: of all splits.
        duplicates: the groups.
    """
    is_learned = images.is_in(*LEARNED)

    def order(named: tuple[str, Sequence[int]]) -> tuple[bool, bool]:
        members = list(named[1])
        differs = len({images.classes_of(n) for n in members}) > 1
        return not differs, len(set(is_learned[members].tolist())) == 1

    groups = [("equal files", group) for group in duplicates.exact]
    groups += [("look the same", group) for group in duplicates.near]
    return sorted(groups, key=order)


def draw_groups(
    pictures: Pictures, groups: Sequence[tuple[str, Sequence[int]]]
) -> list[dict[str, Any]]:
    """Draw the images of groups of duplicates.

    Args:
        pictures: draws them.
        groups: the kind of each, and its images.
    """
    return [
        {
            "kind": kind,
            "pictures": [pictures.draw(number) for number in group[:MAX_OF_GROUP]],
            "count": len(group),
        }
        for kind, group in groups
    ]


def describe_doubt(
    images: CheckedImages, doubt: Doubt | SetDoubt, classes: Sequence[str]
) -> dict[str, Any]:
    """Return a doubted label as check.json holds it.

    Args:
        images: of all splits.
        doubt: about the label of an image.
        classes: the names of the classes.
    """
    if isinstance(doubt, SetDoubt):
        return record_set_doubt(images, doubt, classes)
    return {
        "id": images.ids[doubt.number],
        "class": name_class(images, doubt.number, classes),
        "predicted": classes[doubt.predicted],
        "probability": round(doubt.probability, 4),
        "probability_of_label": round(doubt.of_label, 4),
    }


def say_doubt(doubt: Doubt | SetDoubt, classes: Sequence[str]) -> str:
    """Return a line about a doubted label: the more probable class."""
    if isinstance(doubt, SetDoubt):
        return say_set_doubt(doubt, classes)
    shown = format_probability(doubt.probability)
    return f"{classes[doubt.predicted]}? {shown}; its label {format_probability(doubt.of_label)}"


def name_data(node: Mapping[str, Any]) -> str:
    """Return what a page calls a data set: its folder, or the name of the choice.

    Args:
        node: `data` of the configuration.
    """
    root = node.get("root")
    return str(node["_target_"]).split(".")[-2] if root is None else Path(str(root)).name
